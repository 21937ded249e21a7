"""The audit of a stack whose stores are out of reach: what students were told, against what the API says afterwards."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from finalbell.v1 import scoring_pb2, session_pb2

from ops.audit import access, answers, history, rules, scored
from ops.audit.kept import Stores
from ops.audit.records import Checked, Evidence, History, Save, Violation
from ops.client import Gateway
from ops.rehearse.calls import Way, way
from ops.rehearse.history import packed

AT_ONCE = 32
REMARK = (
    "PostgreSQL and Redis of this stack are out of reach: audited is what the API shows of each session. Scores were not "
    "recomputed, and boards not compared."
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the API shows of a session after its end; None: it shows nothing."""

    status: str | None
    answers: Mapping[str, str]
    answers_sha256: str | None


def check(gateway: Gateway, kind: str, tokens: Mapping[str, str], file: Path) -> Sequence[Checked]:
    """Read every session back as its student, and compare it with the history."""
    recorded = history.read(file)
    owners = {call.session: call.student for call in recorded.calls if call.session}
    seen = asyncio.run(_read_all(gateway, kind, {session: tokens[student] for session, student in owners.items()}))
    evidence = Evidence(Stores(now=datetime.now(UTC)), recorded)
    told = (answers.versions_rise_by_one, scored.one_submit_for_all, access.refusals_help)
    return [saves_are_shown(recorded, seen), submits_are_scored(recorded, seen), *(one(evidence) for one in told)]


def saves_are_shown(recorded: History, seen: Mapping[str, Shown]) -> Checked:
    """I1: what each session shows is the newest acknowledged save of each question, or one that nobody heard of."""
    facts, broken = 0, []
    for session, saves in recorded.saves.items():
        shown = seen.get(session)
        by_question: dict[str, list[Save]] = {}
        for save in saves:
            by_question.setdefault(save.question, []).append(save)
        for question, same in by_question.items():
            may = _may_stand(same)
            if may is None:
                continue
            facts += 1
            stands = shown.answers.get(question, "-:") if shown is not None else None
            if stands not in may:
                what = f"question {question} shows {'nothing' if stands in (None, '-:') else 'another answer'}"
                line = max(call.line for save in same for call in save.acknowledged)
                broken.append(Violation("I1", session, f"{what} than the one that was acknowledged (line {line})."))
    return Checked("I1 I2", "questions with an acknowledged save, read back over the API", facts, broken)


def _may_stand(saves: Sequence[Save]) -> set[str] | None:
    """Return the answers that a question may show; None: no save of it was acknowledged."""
    heard = [save for save in saves if save.acknowledged]
    if not heard:
        return None
    newest = max(heard, key=lambda save: save.versions[-1])
    return {newest.answer, *(save.answer for save in saves if save.perhaps)}


def submits_are_scored(recorded: History, seen: Mapping[str, Shown]) -> Checked:
    """I10, I13: a session whose submit was answered is scored, with the hash that the submit was told."""
    facts, broken = 0, []
    told = {call.session: call for call in recorded.calls if call.rpc == "SubmitSession" and call.good}
    for session, call in told.items():
        facts += 1
        shown = seen.get(session)
        if shown is None or shown.status not in ("SCORED", "PARTIAL", "WITHHELD"):
            broken.append(Violation("I10", session, f"its submit was answered (line {call.line}), and it has no result."))
            continue
        if shown.answers_sha256 != call.reply.answers_sha256:
            broken.append(Violation("I13", session, f"its submit was told another hash than its result has (line {call.line})."))
        if rules.sha256(rules.canonical(shown.answers)) != shown.answers_sha256:
            broken.append(Violation("I12", session, "the answers that it shows do not have the hash of what was scored."))
    return Checked("I10 I12 I13", "answered submits, and their results", facts, broken)


async def _read_all(gateway: Gateway, kind: str, tokens: Mapping[str, str]) -> Mapping[str, Shown]:
    door, places = way(gateway, kind), asyncio.Semaphore(AT_ONCE)

    async def one(session: str, token: str) -> Shown:
        async with places:
            return await _read(door, session, token)

    try:
        shown = await asyncio.gather(*(one(session, token) for session, token in tokens.items()))
    finally:
        await door.close()
    return dict(zip(tokens, shown, strict=True))


async def _read(door: Way, session: str, token: str) -> Shown:
    found = Shown(None, {}, None)
    view = await door.call("GetSession", session_pb2.GetSessionRequest(session_id=session), token)
    if view.ok:
        found = replace(found, answers={saved.question_id: packed(saved) for saved in view.message.session.answers})
    result = await door.call("GetResult", scoring_pb2.GetResultRequest(session_id=session), token)
    if result.ok:
        status = scoring_pb2.Result.Status.Name(result.message.result.status)
        found = replace(found, status=status, answers_sha256=result.message.result.answers_sha256)
    return found
