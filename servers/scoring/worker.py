"""The scoring worker: pulls submits, grades each by itself, keeps a batch in one transaction, then acknowledges.

The order is the promise: grade, commit, board and session, inline reply, and only then the acknowledgement. A crash
anywhere repeats the batch, and a repeated batch changes nothing.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

import structlog
from finalbell.v1 import events_pb2 as events
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from prometheus_client import Counter, Gauge

from servers.scoring.rules import Grader
from servers.scoring.telling import Telling
from servers.serving import traces
from servers.serving.crash import crash
from servers.serving.run import ROUND_SECONDS, sleep_until
from stores import gauges
from stores.answer_keys import AnswerKeys
from stores.dead_letters import DeadLetters
from stores.live import LiveSessions
from stores.records import Result, SubmitReason, answers_sha256
from stores.results import Kept, Results
from stores.submit_log import SubmitLog, session_of

BATCH = 500
MEASURED_SECONDS = 1.0
ROWS_EVERY_SECONDS = 1.0
KEY_SETS = 256
SCORED = Counter("finalbell_scored_total", "Sessions scored for the first time")
REPEATED = Counter("finalbell_scored_again_total", "Deliveries of sessions that had a result")
BURIED = Counter("finalbell_dead_letters_total", "Submits that cannot be scored")
DIFFERING = Counter("finalbell_result_differs_total", "Deliveries with other answers than the result was made of")
BACKLOG = Gauge("finalbell_scoring_backlog", "Submits that wait for scoring, or whose delivery is not acknowledged yet")
UNACKNOWLEDGED = Gauge("finalbell_scoring_unacknowledged", "Submits that a worker has, or had when it died")
REDELIVERED = Gauge("finalbell_scoring_redelivered", "Submits that were delivered more than once and are not acknowledged yet")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Row:
    """A submit that JetStream did not take in time, from its row in PostgreSQL, which goes when all are told, or it is buried."""

    subject: str
    data: bytes
    headers: None = None

    async def ack(self) -> None:
        """Nobody waits for it."""

    async def term(self) -> None:
        """Nobody would send it again."""


@dataclass(frozen=True, slots=True)
class Work:
    """A submit that was graded."""

    message: Msg | Row
    event: events.SessionSubmitted
    result: Result


class ScoringWorker:
    """One worker; several share the stream."""

    def __init__(
        self,
        submits: SubmitLog,
        keys: AnswerKeys,
        results: Results,
        dead_letters: DeadLetters,
        telling: Telling,
        live: LiveSessions,
        *,
        crash_at: str,
    ) -> None:
        self._submits = submits
        self._keys = keys
        self._results = results
        self._dead_letters = dead_letters
        self._telling = telling
        self._live = live
        self._crash_at = crash_at
        self._graders: dict[tuple[str, int, int], Grader] = {}
        self._measured = 0.0
        gauges.cached("key sets", self._graders)

    async def run(self, stop: asyncio.Event) -> None:
        """Score until told to stop; when a store is away, wait and go on: the stream keeps everything."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    messages = await self._submits.pull(BATCH, 1.0)
                    if messages:
                        with traces.worked("score", [message.headers for message in messages]):
                            await self.score(messages)
                    await self._measure()
            except Exception as failure:  # unacknowledged messages come again
                log.warning("batch not scored yet", error=f"{type(failure).__name__}: {failure}"[:200])
                await asyncio.sleep(0.5)
                await self.mend()
        await self._submits.stop_pulling()

    async def run_rows(self, stop: asyncio.Event) -> None:
        """Score what is kept in PostgreSQL, once a second and for as long as there is more; NATS may be away."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    while rows := await self._results.take_submissions(BATCH):
                        await self.score([Row(subject, event) for subject, event in rows])
            except Exception as failure:  # their claims end by themselves
                log.warning("rows not scored yet", error=f"{type(failure).__name__}: {failure}"[:200])
            await sleep_until(stop, ROWS_EVERY_SECONDS)

    async def _measure(self) -> None:
        """Say how much waits, once a second: each asks the broker."""
        if monotonic() - self._measured < MEASURED_SECONDS:
            return
        self._measured = monotonic()
        BACKLOG.set(await self._submits.backlog())
        delivered = await self._submits.delivered()
        UNACKNOWLEDGED.set(delivered.unacknowledged)
        REDELIVERED.set(delivered.again)

    async def mend(self) -> None:
        """Make the stream and its consumer again, where an operator or a disk has taken them; the nets publish anew."""
        try:
            await self._submits.prepare_to_pull()
        except Exception as failure:  # it is away; tried again after the next failure
            log.warning("no consumer", error=type(failure).__name__)

    async def score(self, messages: Sequence[Msg | Row]) -> None:
        """Score one batch (steps D5 to D9)."""
        work = await self._grade_all(messages)
        crash("D5", self._crash_at)
        kept = await self._results.keep(_distinct(work))
        crash("D6", self._crash_at)
        await self._after_commit(work, kept)
        await self._submits.acknowledge([one.message for one in work if one.result.session not in kept.unknown])
        crash("D9", self._crash_at)

    async def _after_commit(self, work: Sequence[Work], kept: Kept) -> None:
        """Tell the boards, the sessions and whoever waits; every part of it may be repeated."""
        SCORED.inc(kept.new)
        REPEATED.inc(len(work) - kept.new)
        for session in kept.differing:
            DIFFERING.inc()
            log.error("a submit differs from what was scored", session=str(session))
        for one in work:
            if one.result.session in kept.unknown:
                await self._bury(one.message, one.result.session, "no such session in PostgreSQL")
        await self._telling.place(kept.standings)
        crash("D7", self._crash_at)
        await self._live.scored(list(kept.totals))
        await self._results.end_submissions(list(kept.totals))
        for to, reply in _replies(work, kept).items():
            await self._submits.reply(to, reply)
        await self._telling.announce(list(kept.totals))
        crash("D8", self._crash_at)

    async def _grade_all(self, messages: Sequence[Msg | Row]) -> Sequence[Work]:
        """Grade each event by itself: a bad one is buried at once and the others go on."""
        work = []
        read = [(message, event) for message in messages if (event := await self._read(message)) is not None]
        graders = await self._newest_graders({(event.exam_id, event.exam_version) for _, event in read})
        for message, event in read:
            grader = graders.get((event.exam_id, event.exam_version))
            if grader is None:
                log.error("keys are not complete; its submits wait", exam=event.exam_id, version=event.exam_version)
                continue
            try:
                with traces.delivered("grade", message.headers):
                    work.append(Work(message, event, _result(event, grader)))
            except Exception as bad:  # whatever is wrong with one submit must not hold up the others
                await self._bury(message, UUID(event.session_id), f"{type(bad).__name__}: {bad}")
        return work

    async def _read(self, message: Msg | Row) -> events.SessionSubmitted | None:
        """Decode an event; one that cannot be read, or that says of itself that it is damaged, is buried."""
        try:
            event = events.SessionSubmitted.FromString(message.data)
            session = UUID(event.session_id)
        except (DecodeError, ValueError) as bad:
            await self._bury(message, session_of(message.subject), f"{type(bad).__name__}: {bad}")
            return None
        if answers_sha256(event.answers) != event.answers_sha256:
            await self._bury(message, session, "the answers do not have the hash that the event says")
            return None
        return event

    async def _newest_graders(self, papers: set[tuple[str, int]]) -> dict[tuple[str, int], Grader]:
        """Return a grader with the newest key set of each paper; one whose keys are missing or not complete is left out, and
        its submits wait.

        Scoring without a key would give everybody 0. Which version is newest is asked anew for every batch.
        """
        found = {}
        for (exam, exam_version), key_version in (await self._keys.newest(list(papers))).items():
            place = (exam, exam_version, key_version)
            known = self._graders.get(place)
            if known is None and (keys := await self._keys.read(*place)) is not None:
                if len(self._graders) >= KEY_SETS:
                    self._graders.clear()
                known = self._graders[place] = Grader(keys)
            if known is not None:
                found[exam, exam_version] = known
        return found

    async def _bury(self, message: Msg | Row, session: UUID | None, error: str) -> None:
        """Put a submit that cannot be scored aside, out of the nets, and end its delivery."""
        BURIED.inc()
        log.error("submit cannot be scored", subject=message.subject, error=error[:200])
        await self._dead_letters.bury(session, message.subject, message.data, error[:1000])
        if session is not None:
            await self._live.park(session)
        await message.term()


def _result(event: events.SessionSubmitted, grader: Grader) -> Result:
    """Grade one event."""
    grades = grader.grade(json.loads(event.answers))
    return Result(
        session=UUID(event.session_id),
        exam=event.exam_id,
        exam_version=event.exam_version,
        student=event.student_id,
        score=grades.score,
        max_score=grades.max_score,
        partial=bool(grades.pending),
        key_version=grader.keys.key_version,
        answers=event.answers,
        answers_sha256=event.answers_sha256,
        points=tuple([one.points for one in grades.graded]),
        submitted_ms=event.submitted_at.ToMilliseconds(),
        reason=SubmitReason(events.SessionSubmitted.Reason.Name(event.reason)),
        pending=grades.pending,
        submit_key=UUID(bytes=event.submit_key) if event.submit_key else None,
    )


def _distinct(work: Sequence[Work]) -> Sequence[Result]:
    """Return one result per session: a batch may hold two deliveries of one."""
    return list({one.result.session: one.result for one in work}.values())


def _replies(work: Sequence[Work], kept: Kept) -> dict[str, bytes]:
    """Return one message per inbox with all its sessions: totals only, never an outcome per question; none of what is held back."""
    scored: dict[str, list[events.SessionScored]] = defaultdict(list)
    for one in work:
        total = kept.totals.get(one.result.session)
        if one.event.reply_to and total is not None and one.result.session not in kept.held_back:
            scored[one.event.reply_to].append(
                events.SessionScored(
                    session_id=one.event.session_id, score=total.score, max_score=total.max_score, partial=total.partial
                )
            )
    return {to: events.SessionsScored(sessions=sessions).SerializeToString() for to, sessions in scored.items()}
