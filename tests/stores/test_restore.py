"""A submit that moves on while a restore is looking for it is found all the same: it never comes back to life."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from uuid import UUID

import pytest

from servers.deadline import deadline
from servers.scoring.rules import decided
from servers.session.submits import decode, encode
from stores import keys
from stores.connect import Stores
from stores.dead_letters import DeadLetters
from stores.deadlines import Deadlines
from stores.live import LiveSessions, Patience
from stores.records import (
    Answer,
    AnswerKind,
    Deadline,
    Frozen,
    Mark,
    SavedAnswer,
    SaveOutcome,
    SessionFacts,
    SessionRow,
    SessionStatus,
    SubmitReason,
)
from stores.restore import Restorer, merged
from stores.results import Results
from stores.sessions import Sessions
from stores.start_records import Start
from stores.starts import Starts
from stores.submit_log import PublishOutcome, SubmitLog, subject
from tests.stack import Stack, eventually, fresh
from tests.stores.test_generation import Worker, a_redis, a_worker

Move = Callable[["Place"], Awaitable[None]]


class Turn:
    """Runs something once, after so many look-ups."""

    def __init__(self, after: int, act: Callable[[], Awaitable[None]]) -> None:
        self.left, self.act = after, act

    async def looked(self) -> None:
        self.left -= 1
        if self.left == 0:
            await self.act()


class LookedSessions(Sessions):
    """PostgreSQL's sessions; something happens after a look."""

    turn: Turn

    async def submissions(self, sessions: Sequence[UUID]) -> Mapping[UUID, bytes]:
        found = await super().submissions(sessions)
        await self.turn.looked()
        return found

    async def read(self, sessions: Sequence[UUID]) -> Mapping[UUID, SessionRow]:
        found = await super().read(sessions)
        await self.turn.looked()
        return found

    async def scored_answers(self, sessions: Sequence[UUID]) -> Mapping[UUID, tuple[int, SubmitReason, bytes]]:
        found = await super().scored_answers(sessions)
        await self.turn.looked()
        return found


class LookedLog(SubmitLog):
    """The stream; something happens after a look."""

    turn: Turn

    async def last(self, sessions: Mapping[UUID, str]) -> Mapping[UUID, bytes]:
        found = await super().last(sessions)
        await self.turn.looked()
        return found


class LookedLetters(DeadLetters):
    """The dead letters; something happens after a look."""

    turn: Turn

    async def events(self, sessions: Sequence[UUID]) -> Mapping[UUID, tuple[bytes, bool]]:
        found = await super().events(sessions)
        await self.turn.looked()
        return found


class Place:
    """A session that was handed in, and the stores that its submit travels through."""

    def __init__(self, stack: Stack, stores: Stores, exam: str) -> None:
        self.stack, self.exam, self.student = stack, exam, fresh("s")
        self.sessions, self.log, self.letters = Sessions(stores.postgres), SubmitLog(stores.nats), DeadLetters(stores.postgres)
        self.results, self.starts = Results(stores.postgres, decided), Starts(stores.postgres, deadline)
        self.where, self.event = "", b""

    async def start(self) -> UUID:
        started = await self.starts.start(Start(self.student, self.exam, (), "Ada", None))
        assert started.session is not None
        self.session = started.session
        return self.session

    async def hand_in(self, worker: Worker) -> Frozen:
        """Save one answer and submit it, as far as the flip."""
        await worker.save(self.session, self.student, "B", "key-number-1")
        frozen = await worker.live.submit(self.session, self.student, SubmitReason.CLICK)
        assert isinstance(frozen, Frozen)
        return frozen

    def freeze(self, frozen: Frozen) -> None:
        self.where, self.event = subject(self.exam, self.session), encode(frozen, "")

    async def publish(self) -> None:
        assert await self.log.publish(self.where, self.event, 5) is PublishOutcome.KEPT


async def to_its_result(place: Place) -> None:
    """What the scoring worker does: the stack's own does it."""
    os.kill(place.stack.pid("scoring-worker"), signal.SIGCONT)

    async def scored() -> bool:
        return await place.results.read(place.session) is not None and not await place.log.last({place.session: place.exam})

    await eventually(scored, 30)


async def from_letter_to_row(place: Place) -> None:
    """What a replay does."""
    letters = [one for one in await place.letters.page(0, 1000) if one.session == place.session]
    assert await place.letters.replay(letters[0], "ops", with_event=True)


JOURNEYS: dict[str, tuple[str, Move]] = {
    "the worker takes it from the row to its result": ("row", to_its_result),
    "the worker takes it from the stream to its result": ("stream", to_its_result),
    "an operator takes it from the dead letters to the row": ("letter", from_letter_to_row),
}


@pytest.mark.parametrize(
    ("versions", "epoch", "through"),
    [
        ([], 1, 0),
        ([1, 2, 7], 1, 7),
        ([1, 2, 7, 1_000_003], 2, 7),
        ([1_000_001, 1_000_002], 2, 0),
        ([3, 2_000_001], 5, 3),
    ],
)
def test_nothing_is_said_to_be_there_that_an_earlier_rebuild_may_have_lost(versions: list[int], epoch: int, through: int) -> None:
    facts = SessionFacts(UUID(int=7 << 76), "exam", 1, "ada", 1, "Ada", 0)
    row = SessionRow(facts, SessionStatus.IN_PROGRESS, 10, epoch - 1, None, None)
    written = [
        SavedAnswer(f"q{n}", Answer(AnswerKind.CHOICE, "B"), version, 1, None, bytes(8), bytes(4))
        for n, version in enumerate(versions)
    ]

    state = merged(row, Deadline(1, 10), epoch, written, None)

    assert (state.restored_through, state.epoch, len(state.answers)) == (through, epoch, len(versions))


@pytest.fixture
def nobody_scores(stack: Stack) -> Iterator[None]:
    """Freeze the stack's own scoring worker, which would take what a test publishes."""
    worker = stack.pid("scoring-worker")
    os.kill(worker, signal.SIGSTOP)
    yield
    os.kill(worker, signal.SIGCONT)


@pytest.mark.usefixtures("nobody_scores")
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("journey", JOURNEYS)
async def test_a_submit_is_found_whenever_it_moves_on(
    stack: Stack, stores: Stores, small_exam: dict[str, object], exam_id: str, journey: str, after: int
) -> None:
    begins, move = JOURNEYS[journey]
    await stack.import_exam(small_exam, exam_id)
    place = Place(stack, stores, exam_id)
    session = await place.start()
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            frozen = await place.hand_in(worker)
            place.freeze(frozen)
            match begins:
                case "row":
                    await place.sessions.keep_submissions([(session, place.where, place.event)])
                case "stream":
                    await place.publish()
                case "letter":
                    await place.letters.bury(session, place.where, place.event, "a test")
            await worker.redis.flushall()
            looking = LookedSessions(stores.postgres), LookedLog(stores.nats), LookedLetters(stores.postgres)
            turn = Turn(after, lambda: move(place))
            for one in looking:
                one.turn = turn
            sessions, log, letters = looking
            restorer = Restorer(sessions, Deadlines(stores.postgres, deadline), log, letters, decode)
            restorer.live = LiveSessions(worker.redis, restorer.restore, worker.generations.begin, Patience())

            state = await restorer.live.state(session)
            again = await restorer.live.submit(session, place.student, SubmitReason.CLICK)

    await stores.nats.jetstream().purge_stream("SUBMITS", subject=place.where)
    assert turn.left <= 0
    assert state is not None
    assert state.status in (SessionStatus.SUBMITTED, SessionStatus.SCORED)
    assert isinstance(again, Frozen)
    assert again.answers_sha256 == frozen.answers_sha256
    assert state.submitted_ms == again.submitted_ms == frozen.submitted_ms


async def test_a_second_process_that_found_a_session_missing_too_does_not_undo_the_saves_since(
    stack: Stack, stores: Stores, small_exam: dict[str, object], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    place = Place(stack, stores, exam_id)
    session = await place.start()
    with a_redis() as server:
        async with a_worker(stores, server.url) as first:
            await first.save(session, place.student, "A", "key-number-1")  # which restores it

            class Late(Sessions):
                """The second process's: while it restores what it had found missing, the first saves again."""

                async def next_epochs(self, sessions: Sequence[UUID]) -> Mapping[UUID, int]:
                    found = await super().next_epochs(sessions)
                    await first.save(session, place.student, "B", "key-number-2")
                    return found

            restorer = Restorer(Late(stores.postgres), Deadlines(stores.postgres, deadline), place.log, place.letters, decode)
            restorer.live = LiveSessions(first.redis, restorer.restore, first.generations.begin, Patience())
            await restorer.restore(session)
            state = await first.live.state(session)

    assert state is not None
    assert [saved.answer.value for saved in state.answers] == ["B"]


async def test_frozen_answers_that_only_redis_still_has_are_taken_from_there(
    stack: Stack, stores: Stores, small_exam: dict[str, object], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    place = Place(stack, stores, exam_id)
    session = await place.start()
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            frozen = await place.hand_in(worker)
            await place.sessions.mark_submitted(
                [Mark(frozen.facts.session, frozen.submitted_ms, frozen.reason, frozen.answers_sha256, None)]
            )  # its event was in a stream that is gone
            for number in range(keys.SHARDS):  # the server was started anew, and has forgotten nothing
                await worker.redis.set(keys.run_key(number), "another process")
        async with a_worker(stores, server.url) as worker:
            state = await worker.live.state(session)
            again = await worker.live.submit(session, place.student, SubmitReason.CLICK)

    assert state is not None
    assert state.status is SessionStatus.SUBMITTED
    assert isinstance(again, Frozen)
    assert (again.answers, again.submitted_ms) == (frozen.answers, frozen.submitted_ms)


@pytest.mark.usefixtures("nobody_scores")
async def test_a_submit_that_is_under_way_while_redis_is_wiped_is_waited_for(
    stack: Stack, stores: Stores, small_exam: dict[str, object], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    place = Place(stack, stores, exam_id)
    session = await place.start()
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            frozen = await place.hand_in(worker)
            place.freeze(frozen)
            await worker.redis.flushall()
            another_tab = asyncio.ensure_future(worker.save(session, place.student, "C", "key-number-2"))
            await asyncio.sleep(0.15)  # as long as a submit waits for JetStream
            await place.publish()
            late = await another_tab
    await stores.nats.jetstream().purge_stream("SUBMITS", subject=place.where)

    assert late.outcome is SaveOutcome.SUBMITTED
