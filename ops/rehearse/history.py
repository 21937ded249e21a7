"""Writes what virtual students did and were told, in the form that the auditor reads (ops/audit/history.py)."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from finalbell.v1 import scoring_pb2, session_pb2

from ops.rehearse.calls import Answer


class Recorder:
    """A history that is being written."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w")

    def close(self) -> None:
        self._file.close()

    def flush(self) -> None:
        """Hand everything to the file."""
        self._file.flush()

    def line(self, kind: str, **fields: object) -> None:
        """Write one line."""
        self._file.write(json.dumps({"kind": kind, **fields}, separators=(",", ":")) + "\n")

    def call(
        self,
        rpc: str,
        request: Any,
        key: str | None,
        answer: Answer,
        *,
        student: str,
        exam: str,
        sent_ms: float,
        received_ms: float,
    ) -> None:
        """Write one call with its answer."""
        line: dict[str, object] = {"rpc": rpc, "student": student, "exam": exam, "sent_ms": sent_ms, "code": answer.code}
        line["received_ms"] = received_ms if answer.code else None
        line["session"] = getattr(request, "session_id", "")
        if rpc == "SaveAnswer":
            line |= {"key": key or "", "question": request.question_id, "answer": packed(request)}
            line["client_seq"] = request.client_seq if request.HasField("client_seq") else None
        if answer.ok:
            line["reply"] = told(answer.message)
            line["session"] = line["session"] or answer.message.session.session_id
        elif answer.code:
            line |= {"reason": answer.reason, "message": answer.text, "retry_ms": answer.retry_ms}
            line["reply"] = _moments(answer.facts)
        self.line("call", **line)


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


def told(message: Any) -> dict[str, object]:
    """Take from a reply what the auditor looks at."""
    match message:
        case session_pb2.SaveAnswerResponse():
            return {
                "version": message.version,
                "saved": message.saved,
                "saved_at_ms": message.saved_at.ToMilliseconds(),
                "ends_at_ms": message.ends_at.ToMilliseconds(),
            }
        case session_pb2.StartSessionResponse() | session_pb2.GetSessionResponse():
            return _view(message.session)
        case session_pb2.SubmitSessionResponse():
            submitted = {"submitted_at_ms": message.submitted_at.ToMilliseconds(), "answers_sha256": message.answers_sha256}
            return submitted | ({"score": message.score} if message.HasField("score") else {})
        case scoring_pb2.GetResultResponse():
            return _result(message.result)
    return {}


def _result(result: scoring_pb2.Result) -> dict[str, object]:
    told: dict[str, object] = {
        "status": scoring_pb2.Result.Status.Name(result.status),
        "answers_sha256": result.answers_sha256,
        "revision": result.revision or None,
        "breakdown": len(result.breakdown),
    }
    if result.HasField("score"):
        told["score"] = result.score
    if result.HasField("max_score"):
        told["max_score"] = result.max_score
    if result.HasField("rank"):
        told["rank"] = result.rank
    if result.HasField("submitted_at"):
        told["submitted_at_ms"] = result.submitted_at.ToMilliseconds()
    return told


def _view(session: session_pb2.Session) -> dict[str, object]:
    options = {question: list(order.ids) for question, order in session.option_order.items()}
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
        "answers": {saved.question_id: (packed(saved), saved.version) for saved in session.answers},
    }


def _moments(facts: Mapping[str, str]) -> dict[str, object]:
    names = {"serverTime": "server_time_ms", "endsAt": "ends_at_ms"}
    return {to: round(datetime.fromisoformat(facts[name]).timestamp() * 1000) for name, to in names.items() if name in facts}
