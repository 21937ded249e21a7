"""The worker: writes what the stream has, and works out what the server sees itself. Behind everybody else, and for nobody's wait.

The order is the promise: commit, and only then the acknowledgement. A batch that is repeated changes nothing but a count of pings.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID

import asyncpg
import structlog
from finalbell.v1 import events_pb2 as events
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from prometheus_client import Counter, Gauge

from servers.integrity import rules
from servers.integrity.feed import DROPPED
from servers.integrity.messages import kept, milliseconds, signal_id
from servers.serving.run import ROUND_SECONDS, sleep_until
from stores import gauges
from stores.signal_log import SignalLog
from stores.signal_records import Feed, Finished, Kind, Pace, Presence, Signal
from stores.signals import Signals

EVENTS = 8
"""At most 1,000 signals each."""

GRACE_SECONDS = 600
"""How long after its submit a session's signals are still taken: what a client had not sent yet."""

GATHER_SECONDS = 0.5
REST, LONGEST_REST_SECONDS = 3, 2.0
"""How many times as long as a batch took the worker stands still after it. Niceness does not reach PostgreSQL, which would work
off a backlog as fast as it can: this way it has a quarter of one core at the most, in small pieces, and less where all is slow."""

MEASURED_SECONDS = 1.0
LAST_SECONDS, LAST_PULL_SECONDS = 5.0, 0.5
PRESENCE_EVERY_MS = 60_000
"""How often it is noted that a device is still there; another device or address is noted at once."""

MOST_PRESENCES = 20
"""Places of one session that are looked at; who has more has made them up."""

SESSIONS = 100_000
FINISHED = 200
LOOK_SECONDS = 30.0
TIDY_SECONDS = 3_600.0
WRITTEN = Counter("finalbell_signals_written_total", "Signals written to PostgreSQL, those of the server's own included")
BACKLOG = Gauge("finalbell_signals_backlog", "Events that wait in the stream or are being written; 1 to 1,000 signals each")
LOST = Gauge("finalbell_signals_lost", "Signals that were published and never came: dropped by the full stream, or lost with it")
log = structlog.get_logger()


class IntegrityWorker:
    """One worker; several share the stream."""

    def __init__(self, log: SignalLog, signals: Signals, *, days: int, collecting: bool) -> None:
        self._log = log
        self._signals = signals
        self._days = days
        self._collecting = collecting
        self._places: OrderedDict[tuple[UUID, str], list[Presence]] = OrderedDict()
        self._noted: dict[tuple[UUID, str, str, bytes], int] = {}
        self._clocks: OrderedDict[tuple[UUID, str], int] = OrderedDict()
        self._measured = 0.0
        gauges.cached("signal places", self._places)

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop; when a store is away, wait and go on: the stream keeps what it has room for."""
        if not self._collecting:
            await stop.wait()
            return
        await self._mend()
        while not stop.is_set():
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    messages = await self._log.pull(EVENTS, 1.0)
                    began = monotonic()
                    if messages:
                        await self._write_or_give_back(messages)
                    took = monotonic() - began
                    await self._measure()
                if messages:
                    await sleep_until(stop, max(GATHER_SECONDS, min(REST * took, LONGEST_REST_SECONDS)))
            except Exception as failure:  # unacknowledged events come again
                log.warning("signals not written yet", error=f"{type(failure).__name__}: {failure}"[:200])
                self._forget()
                await sleep_until(stop, 1.0)
                await self._mend()
        with suppress(Exception):  # what is left stays in the stream
            await self._write_the_last()
        with suppress(Exception):
            await self._log.stop_pulling()

    async def _write_the_last(self) -> None:
        """Write what came until now: the stream may end with this stack, and its memory is all that has it."""
        async with asyncio.timeout(LAST_SECONDS):
            while messages := await self._log.pull(EVENTS, LAST_PULL_SECONDS):
                await self._write_or_give_back(messages)

    async def run_inference(self, stop: asyncio.Event) -> None:
        """Look at sessions that have a score, some times a minute."""
        while not stop.is_set() and self._collecting:
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    while await self.infer() and not stop.is_set():
                        await sleep_until(stop, 0.2)  # others want PostgreSQL too
            except Exception as failure:
                log.warning("finished sessions not looked at yet", error=f"{type(failure).__name__}: {failure}"[:200])
            await sleep_until(stop, LOOK_SECONDS)

    async def tidy(self, stop: asyncio.Event) -> None:
        """Make the coming months' partitions and drop those whose time is over, every hour, collecting or not."""
        while not stop.is_set():
            try:
                await self._signals.make_partitions()
                await self._signals.forget_before(datetime.now(UTC) - timedelta(days=self._days))
            except Exception as failure:  # tried again; the partitions reach three months ahead
                log.error("partitions of signals not tidied", error=f"{type(failure).__name__}: {failure}"[:200])
            await sleep_until(stop, TIDY_SECONDS)

    async def _write_or_give_back(self, messages: Sequence[Msg]) -> None:
        """Write a batch; what cannot be written now is given back. Else it would wait in the broker's memory for half a minute, be
        counted as lost meanwhile, and be lost with that memory."""
        try:
            await self.write(messages)
        except BaseException:  # a cancellation, too: the round has taken too long
            await self._log.give_back(messages)
            raise

    async def write(self, messages: Sequence[Msg]) -> None:
        """Write a batch of events, and acknowledge it; what PostgreSQL refuses for good is found by halving, and dropped."""
        try:
            await self._write(messages)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, OverflowError) as refused:
            self._forget()
            if len(messages) > 1:
                await self.write(messages[: len(messages) // 2])
                await self.write(messages[len(messages) // 2 :])
                return
            DROPPED.labels("broken").inc()
            log.error("signals refused for good", error=type(refused).__name__)
            await self._log.acknowledge(messages)

    async def _write(self, messages: Sequence[Msg]) -> None:
        reports: list[events.SignalReport] = []
        feeds: list[Feed] = []
        for message in messages:
            event = _read(message)
            if event is not None:
                reports += event.reports
                count = sum(len(report.signals) for report in event.reports)
                feeds.append(Feed(UUID(bytes=event.publisher), event.published_before, count))
        signals = [signal for report in reports for signal in kept(report)]
        presences, seen = await self._look(reports)
        written = await self._signals.keep([*signals, *seen], presences, feeds, GRACE_SECONDS)
        WRITTEN.inc(written.new)
        DROPPED.labels("foreign").inc(written.foreign)
        DROPPED.labels("late").inc(written.late)
        await self._log.acknowledge(messages)

    async def infer(self) -> bool:
        """Look at some finished sessions, once their last signals have come and the crowd that handed in has its scores; returns
        whether there may be more.

        A crash anywhere has them looked at again: what is kept is kept once, and an answer is counted with its session's mark.
        """
        found = await self._signals.finished(FINISHED, rules.LEAST_ANSWERS, GRACE_SECONDS)
        if not found:
            return False
        fresh = [one for one in found if not one.again]
        answers = await self._signals.answer_times([one.session for one in found])
        taken = {one.session: rules.times_taken(one.started_ms, answers.get(one.session, ())) for one in found}
        await self._keep(await self._bursts(fresh, answers))
        if fresh and not await self._signals.add_pace(fresh, _paces(fresh, taken)):
            return True
        paces = await self._signals.paces([(one.exam, one.exam_version) for one in found])
        own: list[Signal] = []
        judged: list[UUID] = []
        for one in found:
            of_paper = {question: paces.get((one.exam, one.exam_version, question)) for question in taken[one.session]}
            if one.again or not of_paper or any(pace and pace.answers >= rules.LEAST_ANSWERS for pace in of_paper.values()):
                judged.append(one.session)
            ended_ms = dict(answers.get(one.session, ()))
            for question, seconds in taken[one.session].items():
                if rules.too_fast(seconds, of_paper[question]):
                    own.append(_fast(one, question, seconds, of_paper[question], ended_ms[question]))
        await self._keep(own)
        await self._signals.judged(judged)
        return len(found) == FINISHED

    async def _bursts(self, sessions: Sequence[Finished], answers: Mapping[UUID, Sequence[tuple[str, int]]]) -> Sequence[Signal]:
        """Return the returns to the window after which many answers of a session changed."""
        returns = await self._signals.returns([one.session for one in sessions])
        return [
            _burst(one, back_ms, changes)
            for one in sessions
            for back_ms, changes in rules.bursts(returns.get(one.session, ()), answers.get(one.session, ()))
        ]

    async def _keep(self, own: Sequence[Signal]) -> None:
        """Keep signals of the server's own."""
        if own:
            WRITTEN.inc((await self._signals.keep(own, (), (), GRACE_SECONDS)).new)

    # From where sessions are reported on

    async def _look(self, reports: Sequence[events.SignalReport]) -> tuple[Sequence[Presence], Sequence[Signal]]:
        """Return which presences to note, and what they say: two at once, a login that moves, a clock that jumps."""
        await self._recall({(UUID(bytes=report.session_id), report.student_id) for report in reports})
        noted: dict[tuple[UUID, str, str, bytes], Presence] = {}
        own: list[Signal] = []
        for report in reports:
            came = _presence(report)
            places = self._places[came.session, came.student]
            for kind, pair in rules.inferred(places, came, report.report_seconds):
                own.append(_signal(came, kind, "|".join(pair).encode(), {"pair": list(pair)}))
            if (jump := self._clock(report, came)) is not None:
                own.append(_signal(came, Kind.CLOCK_JUMP, report.report_id, {"milliseconds": jump}))
            place = (came.session, came.device, came.address, came.token)
            merged = self._merge(places, came)
            if merged is not None and came.last_ms - self._noted.get(place, 0) >= PRESENCE_EVERY_MS:
                noted[place] = merged
                self._noted[place] = came.last_ms
        return list(noted.values()), own

    async def _recall(self, sessions: Iterable[tuple[UUID, str]]) -> None:
        """Have at hand from where these sessions were reported on before, by this worker or another; the longest silent ones go.

        By session and student: a report of another's session, which nobody could say when it came, tells nothing of its owner.
        """
        missing: list[tuple[UUID, str]] = []
        for place in sessions:
            if place in self._places:
                self._places.move_to_end(place)
            else:
                missing.append(place)
                self._places[place] = []
        if missing:
            wanted = frozenset(missing)
            for one in await self._signals.presences([session for session, _ in missing]):
                if (one.session, one.student) in wanted:
                    self._places[one.session, one.student].append(one)
                    self._noted[one.session, one.device, one.address, one.token] = one.last_ms
        while len(self._places) > SESSIONS:
            _, places = self._places.popitem(last=False)
            for one in places:
                self._noted.pop((one.session, one.device, one.address, one.token), None)

    def _forget(self) -> None:
        """Believe nothing that may not have been written: the batch comes again, and PostgreSQL says what there is."""
        self._places.clear()
        self._noted.clear()
        self._clocks.clear()

    def _merge(self, places: list[Presence], came: Presence) -> Presence | None:
        """Add a report to the places of its session; None where they are too many already."""
        for at, one in enumerate(places):
            if (one.device, one.address, one.token) == (came.device, came.address, came.token):
                places[at] = replace(one, last_ms=max(one.last_ms, came.last_ms))
                return places[at]
        if len(places) >= MOST_PRESENCES:
            return None
        places.append(came)
        return came

    def _clock(self, report: events.SignalReport, came: Presence) -> int | None:
        """Return by how much a client's clock has jumped since the device's last report, in ms; None: it has not."""
        client_ms = milliseconds(report.client_now) if report.HasField("client_now") else None
        if client_ms is None:
            return None
        place, behind = (came.session, came.device), came.last_ms - client_ms
        before = self._clocks.pop(place, None)
        self._clocks[place] = behind
        if len(self._clocks) > SESSIONS:
            self._clocks.popitem(last=False)
        return before - behind if before is not None and rules.jumped(before, behind) else None

    async def _measure(self) -> None:
        """Say what waits and what was lost, once a second."""
        if monotonic() - self._measured >= MEASURED_SECONDS:
            self._measured = monotonic()
            BACKLOG.set(await self._log.backlog())
            LOST.set(await self._signals.lost())

    async def _mend(self) -> None:
        """Make the stream and its consumer again, where they are gone: they live in NATS's memory."""
        try:
            await self._log.prepare_to_pull()
        except Exception as failure:  # it is away; tried again after the next failure
            log.info("no stream of signals", error=type(failure).__name__)


def _read(message: Msg) -> events.SignalsReported | None:
    """Decode an event; one that cannot be read is dropped, and counted."""
    try:
        event = events.SignalsReported.FromString(message.data)
        UUID(bytes=event.publisher)
        for report in event.reports:
            UUID(bytes=report.session_id)
    except (DecodeError, ValueError):
        DROPPED.labels("broken").inc()
        return None
    return event


def _presence(report: events.SignalReport) -> Presence:
    at_ms = milliseconds(report.received_at) or 0
    return Presence(
        UUID(bytes=report.session_id), report.student_id, report.device_id, report.address, report.token_digest, at_ms, at_ms
    )


def _signal(came: Presence, kind: Kind, what: bytes, details: dict[str, object], amount: int = 0) -> Signal:
    """Make a signal of the server's own: the same pair is one signal, however often it is seen."""
    return Signal(
        session=came.session,
        student=came.student,
        id=signal_id(came.session, kind.encode(), what),
        kind=kind,
        amount=amount,
        client_ms=None,
        received_ms=came.last_ms,
        device=came.device,
        details=json.dumps(details),
    )


def _fast(one: Finished, question: str, seconds: float, pace: Pace | None, at_ms: int) -> Signal:
    came = Presence(one.session, one.student, "", "", b"", at_ms, at_ms)
    details: dict[str, object] = {"question": question, "seconds": round(seconds, 2), "answers": pace.answers if pace else 0}
    return _signal(came, Kind.FAST_ANSWER, question.encode(), details)


def _burst(one: Finished, back_ms: int, changes: int) -> Signal:
    came = Presence(one.session, one.student, "", "", b"", back_ms, back_ms)
    return _signal(came, Kind.CHANGES_AFTER_FOCUS, b"%d" % back_ms, {"answers": changes}, changes)


def _paces(sessions: Sequence[Finished], taken: Mapping[UUID, Mapping[str, float]]) -> dict[tuple[str, int, str], Pace]:
    """Add up how long each question took in sessions."""
    found: dict[tuple[str, int, str], Pace] = {}
    for one in sessions:
        for question, seconds in taken[one.session].items():
            place = (one.exam, one.exam_version, question)
            pace = rules.paced(seconds)
            found[place] = rules.together(found[place], pace) if place in found else pace
    return found
