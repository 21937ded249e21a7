"""Running sessions in the real Redis: each act is atomic, and a retry hears what the first call did."""

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field, replace

import pytest
from redis.exceptions import ResponseError

from servers.session.rules import body_digest, key_digest
from servers.session.snapshots import Snapshots
from stores import keys
from stores.connect import Stores
from stores.live import LiveSessions, Patience, Restored
from stores.records import (
    Answer,
    AnswerKind,
    Deadline,
    Frozen,
    LogEntry,
    MoveOutcome,
    NotFlipped,
    Save,
    Saved,
    SaveOutcome,
    SessionFacts,
    SubmitOutcome,
    SubmitReason,
    encode_answers,
)
from stores.sessions import Sessions
from tests.stack import eventually, uuid7

NEVER_MS = 4_000_000_000_000


@pytest.fixture
async def live(stores: Stores) -> LiveSessions:
    async def no_restore(session: uuid.UUID) -> bool:
        return False

    opened = LiveSessions(stores.live, no_restore, stores.generations.begin, Patience())
    await opened.prepare()
    return opened


async def begin(live: LiveSessions, ends_ms: int = NEVER_MS) -> SessionFacts:
    facts = SessionFacts(uuid7(), "e", 1, "ada", 1, "Ada", int(time.time() * 1000) - 1_000)
    await live.start(facts, Deadline(1, ends_ms))
    return facts


def a_save(facts: SessionFacts, question: str, choice: str, key: str, seq: int | None = None, student: str = "ada") -> Save:
    answer = Answer(AnswerKind.CHOICE, choice)
    return Save(facts.session, student, question, answer, key_digest(key), body_digest(question, answer, seq), seq)


async def answers(live: LiveSessions, facts: SessionFacts) -> dict[str, str]:
    state = await live.state(facts.session)
    assert state is not None
    return {saved.question: saved.answer.value for saved in state.answers}


async def test_versions_rise_by_one_per_accepted_save(live: LiveSessions) -> None:
    facts = await begin(live)

    versions = [(await live.save(a_save(facts, f"q{n % 3}", "A", f"key-{n:05}"))).version for n in range(6)]

    assert versions == [1, 2, 3, 4, 5, 6]


async def test_a_retried_save_never_overwrites_a_newer_answer(live: LiveSessions) -> None:
    facts = await begin(live)
    first = await live.save(a_save(facts, "q1", "A", "key-one"))
    await live.save(a_save(facts, "q1", "B", "key-two"))

    again = await live.save(a_save(facts, "q1", "A", "key-one"))

    assert (again.outcome, again.version, again.at_ms) == (SaveOutcome.REPLAYED, first.version, first.at_ms)
    assert await answers(live, facts) == {"q1": "B"}


async def test_the_newest_save_of_each_question_and_the_last_64_replaced_ones_are_remembered(live: LiveSessions) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q0", "A", "key-of-q0"))
    saves = [a_save(facts, "q1", "AB"[n % 2], f"key-{n:05}") for n in range(80)]
    firsts = [await live.save(save) for save in saves]

    replays = [await live.save(save) for save in saves[-65:]]
    of_q0 = await live.save(a_save(facts, "q0", "A", "key-of-q0"))

    assert [(r.outcome, r.version) for r in replays] == [(SaveOutcome.REPLAYED, first.version) for first in firsts[-65:]]
    assert (of_q0.outcome, of_q0.version) == (SaveOutcome.REPLAYED, 1)


@pytest.mark.parametrize(("question", "choice"), [("q1", "B"), ("q2", "A")])
async def test_a_key_is_good_for_one_answer_to_one_question(live: LiveSessions, question: str, choice: str) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q1", "A", "key-one"))

    reused = await live.save(a_save(facts, question, choice, "key-one"))

    assert reused.outcome is SaveOutcome.REUSED
    assert await answers(live, facts) == {"q1": "A"}


async def test_an_older_client_sequence_is_answered_with_what_stands(live: LiveSessions) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q1", "B", "key-two", seq=2))

    late = await live.save(a_save(facts, "q1", "A", "key-one", seq=1))

    assert late.outcome is SaveOutcome.SUPERSEDED
    assert late.current is not None
    assert (late.current.answer.value, late.current.client_seq) == ("B", 2)
    assert await answers(live, facts) == {"q1": "B"}


async def test_time_is_over_for_new_saves_and_not_for_the_retry_of_an_old_one(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q1", "A", "key-one"))
    await stores.live.hset(keys.session_key(facts.session), "e", 1)

    late = await live.save(a_save(facts, "q1", "B", "key-two"))
    retry = await live.save(a_save(facts, "q1", "A", "key-one"))

    assert (late.outcome, retry.outcome) == (SaveOutcome.ENDED, SaveOutcome.REPLAYED)


async def test_a_stranger_sees_no_session(live: LiveSessions) -> None:
    facts = await begin(live)

    saved = await live.save(a_save(facts, "q1", "A", "key-one", student="eve"))
    frozen = await live.submit(facts.session, "eve", SubmitReason.CLICK)

    assert saved.outcome is SaveOutcome.UNKNOWN
    assert frozen is None
    assert await answers(live, facts) == {}


async def test_answers_beyond_the_bound_are_refused_and_change_nothing(live: LiveSessions) -> None:
    facts = await begin(live)
    long = Answer(AnswerKind.TEXT, "x" * 20_000)
    outcomes = []
    for n in range(14):
        save = Save(facts.session, "ada", f"q{n}", long, key_digest(f"key-{n:05}"), body_digest(f"q{n}", long, None), None)
        outcomes.append((await live.save(save)).outcome)

    assert outcomes == [SaveOutcome.SAVED] * 13 + [SaveOutcome.FULL]
    assert len(await answers(live, facts)) == 13


async def test_the_first_submit_freezes_and_every_later_one_returns_the_same(live: LiveSessions) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q1", "A", "key-one"))

    first = await live.submit(facts.session, "ada", SubmitReason.CLICK)
    after = await live.save(a_save(facts, "q1", "B", "key-two"))
    second = await live.submit(facts.session, None, SubmitReason.BELL)

    assert isinstance(first, Frozen)
    assert isinstance(second, Frozen)
    assert (first.outcome, second.outcome) == (SubmitOutcome.FLIPPED, SubmitOutcome.ALREADY)
    assert after.outcome is SaveOutcome.SUBMITTED
    assert first.answers == second.answers == encode_answers({"q1": "c:A"})
    assert (first.submitted_ms, first.reason) == (second.submitted_ms, second.reason)


async def test_the_bell_waits_for_the_end_and_a_late_click_flips_nothing(live: LiveSessions, stores: Stores) -> None:
    ended_ms = int(time.time() * 1000) - 1_000
    running, over = await begin(live), await begin(live, ended_ms)
    await stores.live.delete(keys.hold_key(keys.shard(over.session)))  # the stack's start was an outage, for what was before

    early = await live.submit(running.session, None, SubmitReason.BELL)
    late = await live.submit(over.session, "ada", SubmitReason.CLICK)
    graced = await live.submit(over.session, None, SubmitReason.BELL)
    rung = await live.submit(over.session, None, SubmitReason.BELL, grace_ms=0)

    assert early is not None
    assert late is not None
    assert graced is not None
    assert isinstance(rung, Frozen)
    outcomes = [early.outcome, late.outcome, graced.outcome, rung.outcome]
    assert outcomes == [SubmitOutcome.EARLY, SubmitOutcome.ENDED, SubmitOutcome.EARLY, SubmitOutcome.FLIPPED]
    assert (rung.reason, rung.submitted_ms) == (SubmitReason.BELL, ended_ms)


async def test_a_click_that_came_in_time_and_waited_for_its_turn_is_not_late(live: LiveSessions) -> None:
    ended_ms = int(time.time() * 1000) - 1_000
    waited, late = await begin(live, ended_ms), await begin(live, ended_ms)

    handed_in = await live.submit(waited.session, "ada", SubmitReason.CLICK, waited_ms=60_000)
    refused = await live.submit(late.session, "ada", SubmitReason.CLICK, waited_ms=10)

    assert isinstance(handed_in, Frozen)
    assert (handed_in.reason, handed_in.submitted_ms) == (SubmitReason.CLICK, ended_ms)
    assert isinstance(refused, NotFlipped)
    assert refused.outcome is SubmitOutcome.ENDED


async def test_the_bell_holds_after_an_outage_for_whoever_was_running(live: LiveSessions, stores: Stores) -> None:
    over = await begin(live, ends_ms=int(time.time() * 1000) - 10_000)
    number = keys.shard(over.session)
    hold = f"{NEVER_MS},{int(time.time() * 1000) + 1}"
    await stores.live.set(keys.hold_key(number), hold, px=60_000)
    held = await live.submit(over.session, None, SubmitReason.BELL)
    await stores.live.set(keys.hold_key(number), f"{NEVER_MS},{over.started_ms}", px=60_000)
    started_after = await live.submit(over.session, None, SubmitReason.BELL)
    await stores.live.delete(keys.hold_key(number))

    assert isinstance(held, NotFlipped)
    assert held.outcome is SubmitOutcome.HELD
    assert isinstance(started_after, Frozen)


async def test_a_hold_that_is_for_nobody_is_not_shown(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    hold = keys.hold_key(keys.shard(facts.session))
    await stores.live.set(hold, f"{NEVER_MS},{facts.started_ms - 86_400_000}", px=60_000)
    for_nobody = await live.holds()
    await stores.live.set(hold, f"{NEVER_MS},{int(time.time() * 1000) + 1}", px=60_000)
    for_one = await live.holds()
    await stores.live.delete(hold)

    assert (for_nobody, for_one) == (False, True)


async def test_a_silence_of_the_session_service_holds_the_bell_and_its_end_begins_the_hold(stores: Stores) -> None:
    async def no_restore(session: uuid.UUID) -> bool:
        return False

    hasty = LiveSessions(stores.live, no_restore, stores.generations.begin, Patience(outage_ms=-1_000, hold_ms=300))
    over = await begin(hasty, ends_ms=int(time.time() * 1000) - 10_000)

    held = await hasty.submit(over.session, None, SubmitReason.BELL)
    await hasty.beat()
    until = await stores.live.get(keys.hold_key(keys.shard(over.session)))

    assert isinstance(held, NotFlipped)
    assert held.outcome is SubmitOutcome.HELD
    assert until is not None


async def test_a_pause_stops_the_clock_until_it_ends_by_itself(live: LiveSessions) -> None:
    facts = await begin(live)
    now = await live.now_ms()
    await live.move({facts.session: Deadline(2, NEVER_MS, now - 1_000, now + 2_000, NEVER_MS - 60_000)})

    while_paused = await live.save(a_save(facts, "q1", "A", "key-one"))
    state = await live.state(facts.session)
    await asyncio.sleep((now + 2_100 - while_paused.now_ms) / 1000)
    afterwards = await live.save(a_save(facts, "q1", "A", "key-one"))

    assert state is not None
    assert while_paused.outcome is SaveOutcome.PAUSED
    assert while_paused.ends_ms == NEVER_MS - 60_000 + while_paused.now_ms - (now - 1_000)
    assert state.deadline.as_of(state.now_ms) - state.now_ms == while_paused.ends_ms - while_paused.now_ms
    assert (afterwards.outcome, afterwards.ends_ms) == (SaveOutcome.SAVED, NEVER_MS)


async def test_only_newer_facts_move_an_end_and_none_moves_a_session_that_is_handed_in(live: LiveSessions) -> None:
    running, gone, unknown = await begin(live), await begin(live), uuid7()
    await live.submit(gone.session, "ada", SubmitReason.CLICK)

    first = await live.move({s: Deadline(3, NEVER_MS - 1) for s in (running.session, gone.session, unknown)})
    older = await live.move({running.session: Deadline(2, 1)})

    state = await live.state(running.session)
    assert state is not None
    assert list(first.values()) == [MoveOutcome.MOVED, MoveOutcome.SUBMITTED, MoveOutcome.ABSENT]
    assert older == {running.session: MoveOutcome.OLD}
    assert state.deadline == Deadline(3, NEVER_MS - 1)


async def test_newer_facts_about_a_session_that_is_being_restored_take_its_token_away(live: LiveSessions) -> None:
    session = uuid7()
    await live.take_tokens([session], "mine")

    await live.move({session: Deadline(2, NEVER_MS)})

    assert (await live.take_tokens([session], "another's"))[0] == {session}


async def test_a_sessions_time_never_goes_back(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    ahead = await live.now_ms() + 3_600_000
    await stores.live.hset(keys.session_key(facts.session), "h", ahead)

    saved = await live.save(a_save(facts, "q1", "A", "key-one"))
    frozen = await live.submit(facts.session, "ada", SubmitReason.CLICK)

    assert isinstance(frozen, Frozen)
    assert saved.at_ms == ahead
    assert frozen.submitted_ms == ahead


async def test_a_second_start_of_a_session_changes_nothing(live: LiveSessions) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q1", "A", "key-one"))

    await live.start(facts, Deadline(1, 1))

    assert await answers(live, facts) == {"q1": "A"}


async def test_lost_functions_are_loaded_again_by_the_next_call(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    await stores.live.function_flush()

    saved = await live.save(a_save(facts, "q1", "A", "key-one"))

    assert saved.outcome is SaveOutcome.SAVED


async def test_a_restore_that_lost_its_token_installs_nothing(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    await live.save(a_save(facts, "q1", "A", "key-one"))
    state = await live.state(facts.session)
    assert state is not None
    await stores.live.delete(keys.session_key(facts.session))
    assert (await live.take_tokens([facts.session], "mine"))[0] == {facts.session}
    await stores.live.set(keys.token_key(facts.session), "somebody else's")

    not_installed = await live.install({facts.session: Restored(state)}, "mine")

    assert not_installed == {facts.session}


async def test_the_save_log_is_cut_only_in_the_generation_in_which_it_was_read(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    number = keys.shard(facts.session)
    await live.save(a_save(facts, "q1", "A", "key-one"))
    read = (await live.read_logs([number], 5_000))[number]

    await live.trim_logs({number: replace(read, generation="another")})

    entries = await stores.live.xrange(keys.log_key(number))
    assert any(fields[b"i"].decode() == str(facts.session) for _, fields in entries) or await _written(stores, facts)


async def _written(stores: Stores, facts: SessionFacts) -> bool:
    """Whether the stack's own snapshots were quicker than the test."""
    return bool(await stores.postgres.fetchval("SELECT count(*) FROM session_answer WHERE session_id = $1", facts.session))


async def test_a_session_of_sixty_answers_is_one_listpack_of_four_kilobytes_at_most(live: LiveSessions, stores: Stores) -> None:
    facts = await begin(live)
    for n in range(60):
        await live.save(a_save(facts, f"q{n}", "B", f"key-{n:05}"))
    plain = await stores.live.memory_usage(keys.session_key(facts.session))
    for n in range(40):
        await live.save(a_save(facts, f"q{n}", "C", f"again-{n:05}"))

    changed = await stores.live.memory_usage(keys.session_key(facts.session))
    encoding = await stores.live.object("encoding", keys.session_key(facts.session))
    print(f"memory: {plain} bytes for 60 answers, {changed} with 40 of them changed")  # noqa: T201

    assert encoding == b"listpack"
    assert plain <= changed <= 4096


@dataclass
class Model:
    """A session as simple Python says it has to be."""

    version: int = 0
    answers: dict[str, tuple[str, int]] = field(default_factory=dict)
    keys: dict[str, tuple[tuple[str, str, int | None], int]] = field(default_factory=dict)
    submitted: bool = False

    def save(self, question: str, choice: str, key: str, seq: int | None) -> tuple[SaveOutcome, int]:
        if key in self.keys:
            body, version = self.keys[key]
            return (SaveOutcome.REPLAYED, version) if body == (question, choice, seq) else (SaveOutcome.REUSED, 0)
        if self.submitted:
            return SaveOutcome.SUBMITTED, 0
        current = self.answers.get(question)
        if current and seq and seq < current[1]:
            return SaveOutcome.SUPERSEDED, next(v for b, v in reversed(self.keys.values()) if b[0] == question)
        self.version += 1
        self.answers[question] = choice, seq or 0
        self.keys[key] = (question, choice, seq), self.version
        return SaveOutcome.SAVED, self.version


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_of_saves_retries_and_submits_is_what_a_simple_model_says(live: LiveSessions, seed: int) -> None:
    chance, model, facts = random.Random(seed), Model(), await begin(live)
    seen: list[tuple[SaveOutcome, int]] = []
    expected: list[tuple[SaveOutcome, int]] = []
    for step in range(60):
        if step == 50:
            model.submitted = (await live.submit(facts.session, "ada", SubmitReason.CLICK)) is not None
        question, choice = f"q{chance.randrange(4)}", chance.choice("ABC")
        key, seq = f"key-{chance.randrange(30):05}", chance.choice([None, chance.randrange(1, 20)])
        saved: Saved = await live.save(a_save(facts, question, choice, key, seq))
        seen.append((saved.outcome, saved.version))
        expected.append(model.save(question, choice, key, seq))

    assert seen == expected
    assert await answers(live, facts) == {question: choice for question, (choice, _) in model.answers.items()}


async def test_snapshots_write_the_newest_answers_and_two_at_once_do_no_harm(live: LiveSessions, stores: Stores) -> None:
    facts, sessions = await begin(live), Sessions(stores.postgres)
    for n in range(30):
        await live.save(a_save(facts, f"q{n % 5}", "ABC"[n % 3], f"key-{n:05}"))

    while not await _all_written(live):
        await Snapshots(live, sessions).write()
        await Snapshots(live, sessions).write()

    entries = await sessions.answers([facts.session])
    written = {entry.saved.question: (entry.saved.answer.value, entry.saved.version) for entry in entries}
    state = await live.state(facts.session)
    assert state is not None
    assert written == {saved.question: (saved.answer.value, saved.version) for saved in state.answers}


async def _all_written(live: LiveSessions) -> bool:
    return (await live.backlog()).entries == 0


async def test_a_snapshotter_that_slept_overwrites_nothing_newer(live: LiveSessions, stores: Stores) -> None:
    facts, sessions = await begin(live), Sessions(stores.postgres)
    await live.save(a_save(facts, "q1", "A", "key-00001"))
    first = await live.state(facts.session)
    assert first is not None
    await live.save(a_save(facts, "q1", "B", "key-00002"))
    await Snapshots(live, sessions).write()
    await eventually(lambda: written(stores, facts))

    await sessions.keep_answers([LogEntry(facts.session, saved) for saved in first.answers])  # it wakes, with what it had read

    rows = await stores.postgres.fetch("SELECT answer, version FROM session_answer WHERE session_id = $1", facts.session)
    assert [(row["answer"], row["version"]) for row in rows] == [("c:B", 2)]


async def written(stores: Stores, facts: SessionFacts) -> bool:
    """Whether the second save is in PostgreSQL, whoever wrote it."""
    return bool(await stores.postgres.fetchval("SELECT version = 2 FROM session_answer WHERE session_id = $1", facts.session))


async def test_saves_that_the_log_has_no_room_for_are_written_whole(
    live: LiveSessions, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.live.MAX_LOG_ENTRIES", 0)
    facts, sessions = await begin(live), Sessions(stores.postgres)
    for n in range(3):
        await live.save(a_save(facts, f"q{n}", "A", f"key-{n:05}"))

    async def all_clean() -> bool:
        await Snapshots(live, sessions).write()
        return (await live.backlog()).dirty == 0

    await eventually(all_clean)

    assert [entry.saved.version for entry in await sessions.answers([facts.session])] == [1, 2, 3]


async def test_a_dirty_session_that_changed_while_it_was_written_stays_dirty(
    live: LiveSessions, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.live.MAX_LOG_ENTRIES", 0)
    facts = await begin(live)
    number = keys.shard(facts.session)
    await stores.live.zadd(keys.dirty_key(number), {str(facts.session): 5})
    generation = (await stores.live.get(keys.generation_key(number))).decode()

    await live.clean(number, generation, {facts.session: 4})
    after_older = await stores.live.zscore(keys.dirty_key(number), str(facts.session))
    await live.clean(number, "another", {facts.session: 5})
    after_other = await stores.live.zscore(keys.dirty_key(number), str(facts.session))
    await live.clean(number, generation, {facts.session: 5})
    after_same = await stores.live.zscore(keys.dirty_key(number), str(facts.session))

    assert (after_older, after_other, after_same) == (5, 5, None)


async def test_an_answer_that_postgresql_refuses_holds_up_nobody_elses(live: LiveSessions, stores: Stores) -> None:
    facts, sessions = await begin(live), Sessions(stores.postgres)
    no_month = SessionFacts(uuid.UUID(int=keys.shard(facts.session)), "e", 1, "ada", 1, "Ada", 0)
    await live.start(no_month, Deadline(1, NEVER_MS))
    for one in (no_month, facts, no_month):
        await live.save(a_save(one, "q1", "A", f"key-{uuid.uuid4()}"))

    async def all_written() -> bool:
        await Snapshots(live, sessions).write()
        return (await live.backlog()).entries == 0

    await eventually(all_written)

    assert [entry.saved.question for entry in await sessions.answers([facts.session])] == ["q1"]


async def test_a_function_that_fails_fails_its_own_call_alone(live: LiveSessions, stores: Stores) -> None:
    facts, broken = await begin(live), await begin(live)
    await stores.live.delete(keys.session_key(broken.session))
    await stores.live.set(keys.session_key(broken.session), "not a hash")

    with pytest.raises(ResponseError):
        await live.save(a_save(broken, "q1", "A", "key-one"))
    saved = await live.save(a_save(facts, "q1", "A", "key-one"))

    assert saved.outcome is SaveOutcome.SAVED
