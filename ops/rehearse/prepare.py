"""`finalbell rehearse EXAM --prepare N`: sessions that are started and wait for other tools' load, written down one a line."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finalbell.v1 import content_pb2, session_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from ops.client import Gateway
from ops.rehearse.calls import Answer, Way, way

AT_ONCE = 64
TRIES = 6
GHZ_SESSIONS = 500
"""Of one ghz configuration: ghz reads the template that holds all its tokens anew for every call."""


class NotPrepared(Exception):
    """A session could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A started session with its student's token."""

    session: str
    student: str
    token: str


Questions = Sequence[Mapping[str, object]]
"""The single-choice questions of a paper: `id`, and the option ids as `choices`."""


async def prepare(
    gateway: Gateway, exam: str, students: Iterator[tuple[str, str]], file: IO[str], progress: Callable[[int], None]
) -> int:
    """Start a session for each student and token, many at once, and write a line for each; returns how many.

    Nothing is kept: what was started is written before more is.
    """
    door, done, questions = way(gateway, "grpc"), 0, ""
    try:
        async for one in _started(door, exam, students):
            if not questions:
                questions = json.dumps(await _questions(door, exam, one.token))
            known = json.dumps({"sessionId": one.session, "student": one.student, "token": one.token})
            file.write(f'{known[:-1]}, "questions": {questions}}}\n')
            done += 1
            progress(done)
    finally:
        await door.close()
    return done


async def _started(door: Way, exam: str, students: Iterator[tuple[str, str]]) -> AsyncIterator[Prepared]:
    """Yield sessions as they are started; a slow one holds up no others."""
    request = session_pb2.StartSessionRequest(exam_id=exam)
    running: set[asyncio.Task[Prepared]] = set()
    try:
        more = True
        while more or running:
            while more and len(running) < AT_ONCE:
                student = next(students, None)
                if student is None:
                    more = False
                else:
                    running.add(asyncio.create_task(_start(door, request, *student)))
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED) if running else (set(), running)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()


async def _start(door: Way, request: session_pb2.StartSessionRequest, student: str, token: str) -> Prepared:
    answer = await _insist(door, "StartSession", request, token)
    return Prepared(answer.message.session.session_id, student, token)


async def _insist(door: Way, rpc: str, request: Any, token: str) -> Answer:
    """Call until it goes well, some times at most; with the same key each time."""
    key, answer = uuid.uuid4().hex if rpc == "StartSession" else None, Answer("")
    for attempt in range(TRIES):
        answer = await door.call(rpc, request, token, key)
        if answer.ok:
            return answer
        if answer.code not in ("", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED"):
            break
        await asyncio.sleep(max(answer.retry_ms / 1000, 0.2 * 2**attempt))
    raise NotPrepared(f"{rpc}: {answer.code or 'no answer'} {answer.reason} {answer.text}".strip())


async def _questions(door: Way, exam: str, token: str) -> Questions:
    paper = (await _insist(door, "GetPaper", content_pb2.GetPaperRequest(exam_id=exam), token)).message.paper
    single = content_pb2.Question.Type.SINGLE_CHOICE
    found = [
        {"id": question.question_id, "choices": [option.id for option in question.options]}
        for question in paper.questions
        if question.type == single
    ]
    if not found:
        raise NotPrepared("The exam has no single-choice question.")
    return found


def write_ghz(sessions: Path, out: Path, gateway: Gateway) -> Sequence[Path]:
    """Write a ghz configuration for the sessions in a file: one save of each; returns the files.

    The data goes round with the request's number, and so does the token, by a template in the metadata. Of many sessions
    there are several configurations (`out.json`, `out.2.json`, …), each for some of them.
    """
    made: list[Path] = []
    protoset = out.with_suffix(".protoset").absolute()
    protoset.write_bytes(descriptors().SerializeToString())
    with sessions.open() as lines:
        while group := [line for _, line in zip(range(GHZ_SESSIONS), lines, strict=False)]:
            file = out if not made else out.with_suffix(f".{len(made) + 1}{out.suffix}")
            file.write_text(json.dumps(ghz([json.loads(line) for line in group], gateway, protoset), indent=1))
            file.chmod(0o600)
            made.append(file)
    return made


def ghz(sessions: Sequence[Mapping[str, Any]], gateway: Gateway, protoset: Path) -> dict[str, object]:
    """Return a ghz configuration (v0.120) that saves once in each of these sessions, each as its own student.

    The messages come from a file: over reflection ghz asks for the method by name, which Python's reflection does not know.
    """
    tokens = [str(session["token"]) for session in sessions]
    return {
        "call": "finalbell.v1.SessionService.SaveAnswer",
        "host": gateway.target,
        "insecure": not gateway.secure,
        "protoset": str(protoset),
        "total": len(sessions),
        "concurrency": min(16, len(sessions)),
        "connections": min(4, len(sessions)),
        "timeout": "5s",
        "metadata": {"authorization": f"Bearer {token_template(tokens)}"},
        "data": [_save(number, session) for number, session in enumerate(sessions)],
    }


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Return what SaveAnswer's messages are made of, files before those that import them."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        if file.name not in found:
            found[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(found[file.name])

    add(session_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


def _save(number: int, session: Mapping[str, Any]) -> dict[str, object]:
    question = session["questions"][number % len(session["questions"])]
    choice = question["choices"][number % len(question["choices"])]
    key = uuid.uuid4().hex
    return {"sessionId": session["sessionId"], "questionId": question["id"], "choice": choice, "idempotencyKey": key}


def token_template(tokens: Sequence[str]) -> str:
    """Return a Go template that gives the token of the request's number: halved again and again, so that it needs no quotes,
    which JSON would escape, and looks at few of them."""
    return f"{{{{$n := mod .RequestNumber {len(tokens)}}}}}{_choose(tokens, 0)}"


def _choose(tokens: Sequence[str], first: int) -> str:
    if len(tokens) == 1:
        return tokens[0]
    half = len(tokens) // 2
    left, right = _choose(tokens[:half], first), _choose(tokens[half:], first + half)
    return f"{{{{if lt $n {first + half}}}}}{left}{{{{else}}}}{right}{{{{end}}}}"
