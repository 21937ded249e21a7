"""Records every call as a line of JSON, in the form that the auditor reads (ops/audit/history.py)."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
from finalbell.v1 import session_pb2
from google.protobuf.message import Message

from tests.flows.transports import BrokenOff, Native, Reply, Rest, Transport, Web
from tests.stack import PLAIN

CANARY = re.compile(rb"canary-[a-z0-9-]+")
SECONDS = 6.0
"""How long a client waits for one answer; then it repeats the call with the same key."""

CHANNELS, HTTP_CLIENTS = 4, 32


class Recorder:
    """A history that is being written."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w")
        self.calls = Counter[str]()

    def close(self) -> None:
        self._file.close()

    def line(self, kind: str, **fields: object) -> None:
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")


class Ways:
    """The ways in to one gateway, shared by all students: REST, gRPC-web and gRPC."""

    def __init__(self, gateway: str, recorder: Recorder) -> None:
        self._recorder = recorder
        # Many clients with few connections each: httpx looks at all of a client's connections for every request.
        self._http = [httpx.AsyncClient(base_url=gateway, timeout=SECONDS, verify=PLAIN) for _ in range(HTTP_CLIENTS)]
        options = [("grpc.max_reconnect_backoff_ms", 1_000)]
        target = gateway.removeprefix("http://")
        self._channels = [grpc.aio.insecure_channel(target, [*options, ("grpc.channel_id", n)]) for n in range(CHANNELS)]
        self._native = [Native(channel, None) for channel in self._channels]

    async def close(self) -> None:
        await asyncio.gather(*(http.aclose() for http in self._http))
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def way(self, number: int) -> Transport:
        """A student's way in: nine of ten have gRPC, which costs this client a third of what REST does."""
        http = self._http[number // 20 % len(self._http)]
        match number % 20:
            case 0:
                return Rest(http)
            case 10:
                return Web(http)
        return self._native[number % len(self._native)]

    async def call(
        self, way: Transport, token: str, method: str, request: Message, key: str | None = None, **noted: Any
    ) -> Reply | None:
        """Call once and record it; None when no answer came."""
        headers = {"authorization": f"Bearer {token}", **noted.pop("headers", {})} if token else {}
        sent = time.time() * 1000
        reply: Reply | None = None
        try:
            async with asyncio.timeout(SECONDS):
                reply = await way.call(method, request, key=key, headers=headers)
        except (httpx.TransportError, BrokenOff, TimeoutError, AssertionError, KeyError, ValueError):
            # the connection broke, or broke off inside an answer: nobody knows whether it happened
            reply = None
        received = time.time() * 1000 if reply is not None else None
        line = {"rpc": method, "session": getattr(request, "session_id", ""), "sent_ms": sent, "received_ms": received, **noted}
        line |= _said(request, key) if method == "SaveAnswer" else {}
        if reply is None:
            line |= {"code": ""}
        elif reply.code == "OK":
            line |= {"code": "OK", "reply": told(reply.message), "canaries": _canaries(reply.raw)}
            line["session"] = line["session"] or _session(reply.message)
        else:
            text = reply.status.message if reply.status is not None else ""
            line |= {"code": reply.code, "reason": reply.reason, "message": text, "retry_ms": reply.retry_ms}
            line |= {"reply": _facts(reply.facts), "canaries": _canaries(reply.raw)}
        if isinstance(request, session_pb2.BatchSaveAnswersRequest):
            line["items"] = _items(request, reply)
        self._recorder.calls[f"{method} {line['code'] or 'no answer'} {line.get('reason', '')}".strip()] += 1
        self._recorder.line("call", **line)
        return reply


def _canaries(raw: bytes) -> list[str]:
    return sorted({found.decode() for found in CANARY.findall(raw)})


def _session(message: Any) -> str:
    return str(message.session.session_id) if isinstance(message, session_pb2.StartSessionResponse) else ""


def packed(answer: Any) -> str:
    """Write an answer as docs/answers.md says."""
    match answer.WhichOneof("answer"):
        case "choice":
            return f"c:{answer.choice}"
        case "choices":
            return f"m:{','.join(sorted(answer.choices.ids))}"
        case "number":
            return f"n:{answer.number}"
        case "text":
            return f"t:{answer.text}"
    return "-:"


def _said(save: Any, key: str | None) -> dict[str, object]:
    said = {"key": key or save.idempotency_key, "question": save.question_id, "answer": packed(save)}
    return {**said, "client_seq": save.client_seq if save.HasField("client_seq") else None}


def _items(request: session_pb2.BatchSaveAnswersRequest, reply: Reply | None) -> list[dict[str, object]]:
    items = [_said(item, None) for item in request.items]
    if reply is None or reply.code != "OK":
        return items
    for item, outcome in zip(items, reply.ok.outcomes, strict=True):
        if outcome.WhichOneof("outcome") == "answer":
            item |= {"code": "OK", "reply": told(outcome.answer)}
        else:
            refused = Reply("", None, outcome.error, 0, b"")
            item |= {"code": grpc_name(outcome.error.code), "reason": refused.reason, "reply": _facts(refused.facts)}
            item |= {"retry_ms": refused.retry_ms}
    return items


def grpc_name(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def told(message: Any) -> dict[str, object]:
    """Take from a reply what the auditor looks at."""
    match message.DESCRIPTOR.name:
        case "SaveAnswerResponse":
            return {
                "version": message.version,
                "saved": message.saved,
                "saved_at_ms": message.saved_at.ToMilliseconds(),
                "ends_at_ms": message.ends_at.ToMilliseconds(),
            }
        case "StartSessionResponse" | "GetSessionResponse" | "PauseSessionResponse" | "ResumeSessionResponse":
            return _view(message.session)
        case "SubmitSessionResponse":
            told = {"submitted_at_ms": message.submitted_at.ToMilliseconds(), "answers_sha256": message.answers_sha256}
            return told | ({"score": message.score} if message.HasField("score") else {})
        case "GetResultResponse":
            result = message.result
            kept = {name: getattr(result, name) for name in ("score", "max_score", "rank") if result.HasField(name)}
            if result.HasField("submitted_at"):
                kept["submitted_at_ms"] = result.submitted_at.ToMilliseconds()
            return {
                **kept,
                "status": type(result).Status.Name(result.status),
                "answers_sha256": result.answers_sha256,
                "revision": result.revision or None,
                "breakdown": len(result.breakdown),
            }
        case "ReportSignalsResponse":
            return {"accepted": message.accepted, "dropped": message.dropped}
        case "GetLeaderboardResponse":
            entries = [(entry.rank, entry.score, entry.student_id) for entry in message.entries]
            return {"rebuilding": message.rebuilding, "entries": entries}
    return {}


def _view(session: session_pb2.Session) -> dict[str, object]:
    options = {question: list(order.ids) for question, order in session.option_order.items()}
    answers = {saved.question_id: (packed(saved), saved.version) for saved in session.answers}
    return {
        "session": session.session_id,
        "status": session_pb2.Session.Status.Name(session.status),
        "started_at_ms": session.started_at.ToMilliseconds(),
        "ends_at_ms": session.ends_at.ToMilliseconds(),
        "server_time_ms": session.server_time.ToMilliseconds(),
        "submitted_at_ms": session.submitted_at.ToMilliseconds() if session.HasField("submitted_at") else None,
        "epoch": session.epoch,
        "restored_through": session.restored_through_version,
        "order": json.dumps([list(session.question_order), sorted(options.items())]),
        "answers": answers,
    }


def _facts(facts: Mapping[str, str]) -> dict[str, object]:
    """Take the moments that a refusal tells."""
    from datetime import datetime

    names = {"serverTime": "server_time_ms", "endsAt": "ends_at_ms"}
    return {to: round(datetime.fromisoformat(facts[name]).timestamp() * 1000) for name, to in names.items() if name in facts}
