"""Runs and cases in PostgreSQL: one run at a time, steps that nobody makes twice or over another's, and what an erasure takes."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.integrity.case_rules import leading_to
from servers.scoring.rules import decided
from stores.analyses import Analyses
from stores.case_records import CaseState, Grouping, Moved, Options, Pair, Party, RunState
from stores.cases import Cases
from stores.connect import Stores
from stores.results import Results
from stores.signal_records import Kind, Signal
from stores.signals import Signals
from tests.stack import Stack, fresh, uuid7
from tests.stores.test_results import sat

OPTIONS = Options((Grouping.COHORT,), 0.05, 10)
AFTER = {
    "OPEN": {"REVIEWED"},
    "REVIEWED": {"DISMISSED", "CONFIRMED"},
    "DISMISSED": {"APPEALED"},
    "CONFIRMED": {"APPEALED"},
    "APPEALED": {"DISMISSED", "CONFIRMED"},
}
"""The states as the contract has them."""


@pytest.fixture
def analyses(stores: Stores) -> Analyses:
    return Analyses(stores.postgres)


@pytest.fixture(scope="module")
async def shared_exam(stack: Stack, small_exam: dict[str, Any]) -> str:
    """One exam for all that hypothesis tries."""
    exam = fresh("t")
    await stack.import_exam(small_exam, exam)
    return exam


def pair(place: int, index: str = "omega", *, flagged: bool = False) -> Pair:
    return Pair(
        index=index,
        sessions=(uuid7(), uuid7()),
        students=(f"a{place}", f"b{place}"),
        source=f"a{place}",
        value=float(place),
        p=1e-300 * place,
        q=0.5,
        flagged=flagged,
        matches=place,
        expected=1.5,
        compared=9,
        shared_wrong=2,
        shared_blank=1,
        groups=("cohort red",),
    )


async def case(
    stores: Stores, exam: str, *students: str, seen: str | None = '{"devices": 1}', taken: datetime | None = None
) -> Any:
    """Open a case about students' sessions that nobody has."""
    taken_ms = round((taken or datetime.now(UTC)).timestamp() * 1000)
    parties = [Party(uuid7(), student, seen) for student in students or ("s",)]
    found, new = await Cases(stores.postgres).open(exam, parties, '{"examTitle": "x"}', taken_ms, "head", "why")
    assert new
    return found


# Runs


async def test_one_run_of_an_exam_goes_on_at_a_time(analyses: Analyses, exam: str) -> None:
    begun = await asyncio.gather(*(analyses.begin(exam, OPTIONS, "head") for _ in range(8)))

    assert sorted(begun) == [(1, False)] * 7 + [(1, True)]
    assert await analyses.finish(exam, 1, "{}", [])
    assert await analyses.begin(exam, OPTIONS, "head") == (2, True)


async def test_a_run_whose_process_died_says_so_and_makes_room(stores: Stores, analyses: Analyses, exam: str) -> None:
    await analyses.begin(exam, OPTIONS, "head")
    await stores.postgres.execute("UPDATE integrity_analysis SET alive_at = now() - interval '61 s' WHERE exam_id = $1", exam)

    dead = await analyses.read(exam)
    second = await analyses.begin(exam, OPTIONS, "other")
    late = await analyses.finish(exam, 1, "{}", [pair(1)])
    beating = await analyses.alive(exam, 1), await analyses.alive(exam, 2)

    assert dead is not None
    assert (dead.state, "died" in dead.failure) == (RunState.FAILED, True)
    assert second == (2, True)
    assert (late, await analyses.pairs(exam, 1, 0, 10, flagged=False)) == (False, [])
    assert beating == (False, True)


async def test_a_runs_pairs_are_kept_as_they_came(analyses: Analyses, exam: str) -> None:
    pairs = [pair(1, flagged=True), pair(2, "gbt"), pair(3, flagged=True)]
    await analyses.begin(exam, OPTIONS, "head")
    await analyses.finish(exam, 1, '{"students": 3}', pairs)

    run = await analyses.read(exam)
    assert run is not None
    assert (run.state, run.options, run.requested_by) == (RunState.DONE, OPTIONS, "head")
    assert await analyses.pairs(exam, 1, 0, 2, flagged=False) == [(1, pairs[0]), (2, pairs[1])]
    assert await analyses.pairs(exam, 1, 1, 9, flagged=True) == [(3, pairs[2])]
    among = [*pairs[0].sessions, pairs[2].sessions[0]]
    assert await analyses.pairs_among(exam, 1, among) == [pairs[0]]
    assert await analyses.read(exam, 2) is None


async def test_the_newest_run_that_is_done_is_not_the_one_that_failed_since(analyses: Analyses, exam: str) -> None:
    await analyses.begin(exam, OPTIONS, "head")
    await analyses.finish(exam, 1, "{}", [])
    await analyses.begin(exam, OPTIONS, "head")
    await analyses.fail(exam, 2, "too much")

    newest, done = await analyses.read(exam), await analyses.read(exam, done=True)

    assert newest is not None
    assert done is not None
    assert (newest.version, newest.failure, done.version) == (2, "too much", 1)


@pytest.mark.parametrize(("questions", "options"), [(False, True), (True, False)])
async def test_what_a_session_showed_in_its_own_order_is_known(
    stack: Stack, analyses: Analyses, small_exam: dict[str, Any], questions: bool, options: bool
) -> None:
    exam = fresh("t")
    await stack.import_exam(small_exam, exam, shuffleQuestions=questions, shuffleOptions=options)

    asked = await analyses.questions(exam, 1)

    assert await analyses.shuffled(exam, 1) == (questions, options)
    assert [one.options for one in asked] == [
        tuple(option["id"] for option in one.get("options", ())) for one in small_exam["questions"]
    ]


async def test_every_result_is_read_once_however_small_the_pages(stores: Stores, analyses: Analyses, exam: str) -> None:
    made = [await sat(stores, exam, f"s{n % 4}", n // 4 + 1, 1000, n) for n in range(7)]
    await Results(stores.postgres, decided).keep(made)

    for count in (1, 3, 100):
        pages = [page async for page in analyses.sittings(exam, 1, count)]

        assert [(one.student, one.session) for page in pages for one in page] == sorted((one.student, one.session) for one in made)
    assert await analyses.left_out(exam, 1) == (0, 0)
    assert await analyses.left_out(exam, 2) == (7, 0)


# Cases


async def test_the_same_sessions_have_one_case_in_whatever_order(stores: Stores, exam: str) -> None:
    cases, parties = Cases(stores.postgres), [Party(uuid7(), student, None) for student in ("b", "a")]

    opened = await asyncio.gather(
        *(cases.open(exam, order, "{}", 0, "head", "why") for order in (parties, parties[::-1]) for _ in range(3))
    )

    assert len({found for found, _ in opened}) == 1
    assert sum(new for _, new in opened) == 1
    whole = await cases.read(opened[0][0])
    assert whole is not None
    assert len(whole.steps) == 1
    assert await cases.known(exam, [one.session for one in parties]) == opened[0][0]


@settings(max_examples=25)
@given(wanted=st.lists(st.tuples(st.sampled_from(list(CaseState)), st.integers(-1, 1)), max_size=12))
async def test_a_case_goes_only_where_it_may_and_only_from_where_it_is(
    stores: Stores, shared_exam: str, wanted: Sequence[tuple[CaseState, int]]
) -> None:
    cases = Cases(stores.postgres)
    found = await case(stores, shared_exam)
    state, steps = "OPEN", [(None, "OPEN")]

    for number, (to, off) in enumerate(wanted):
        moved = await cases.move(found, len(steps) + off, to, "head", f"step {number}", leading_to(to))

        allowed = off == 0 and to in AFTER[state]
        assert moved is (Moved.MOVED if allowed else Moved.ELSEWHERE)
        if allowed:
            steps.append((state, str(to)))
            state = str(to)

    whole = await cases.read(found)
    assert whole is not None
    assert (whole.case.state, whole.case.revision) == (state, len(steps))
    assert [(step.from_state, step.to_state) for step in whole.steps] == steps


async def test_of_many_who_make_different_steps_at_once_one_makes_it(stores: Stores, exam: str) -> None:
    cases, found = Cases(stores.postgres), await case(stores, exam)
    await cases.move(found, 1, CaseState.REVIEWED, "head", "read", leading_to(CaseState.REVIEWED))

    ends = [CaseState.DISMISSED, CaseState.CONFIRMED] * 4
    moved = await asyncio.gather(*(cases.move(found, 2, to, f"p{n}", "so", leading_to(to)) for n, to in enumerate(ends)))

    assert sorted(moved) == [Moved.ELSEWHERE] * 7 + [Moved.MOVED]
    whole = await cases.read(found)
    assert whole is not None
    assert [step.actor for step in whole.steps] == ["head", "head", f"p{moved.index(Moved.MOVED)}"]


async def test_a_step_that_was_made_is_not_made_again(stores: Stores, exam: str) -> None:
    cases, found = Cases(stores.postgres), await case(stores, exam)
    to, allowed = CaseState.REVIEWED, leading_to(CaseState.REVIEWED)

    moved = [await cases.move(found, 1, to, "head", "read", allowed) for _ in range(2)]
    others = [
        await cases.move(found, 1, to, "other", "read", allowed),
        await cases.move(uuid.uuid4(), 1, to, "head", "read", allowed),
    ]

    assert (moved, others) == ([Moved.MOVED, Moved.REPEATED], [Moved.ELSEWHERE, Moved.UNKNOWN])


async def test_an_erasure_takes_what_was_kept_one_by_one_out_of_every_case(stores: Stores, exam: str) -> None:
    student, other = fresh("s"), fresh("s")
    found = [await case(stores, exam, student, other), await case(stores, exam, student)]

    await Signals(stores.postgres).erase(student, "head", 0)

    parties = [whole.case.parties for one in found if (whole := await Cases(stores.postgres).read(one))]
    assert [[(one.student, one.seen, one.erased_ms is not None) for one in of] for of in parties] == [
        [(student, None, True), (other, '{"devices": 1}', False)],
        [(student, None, True)],
    ]


async def test_what_was_erased_while_a_case_was_gathered_does_not_come_back_with_it(stores: Stores, exam: str) -> None:
    student = fresh("s")
    (made,) = [await sat(stores, exam, student, 1, 1000, 1)]
    before = datetime.now(UTC) - timedelta(seconds=5)
    await Signals(stores.postgres).erase(student, "head", 0)

    parties = [Party(made.session, student, '{"devices": 1}')]
    found, _ = await Cases(stores.postgres).open(exam, parties, "{}", round(before.timestamp() * 1000), "head", "why")

    whole = await Cases(stores.postgres).read(found)
    assert whole is not None
    assert (whole.case.parties[0].seen, whole.case.parties[0].erased_ms is not None) == (None, True)


async def test_a_case_is_never_said_to_be_gathered_later_than_it_is(stores: Stores) -> None:
    for _ in range(40):
        taken_ms = await Cases(stores.postgres).now()
        assert await stores.postgres.fetchval("SELECT clock_timestamp() > $1", datetime.fromtimestamp(taken_ms / 1000, UTC))


async def test_a_case_keeps_the_first_signals_and_says_how_many_there_were(stores: Stores, exam: str) -> None:
    made, at_ms = await sat(stores, exam, fresh("s"), 1, 1000, 1), round(datetime.now(UTC).timestamp() * 1000)
    signals = [Signal(made.session, made.student, uuid.uuid4(), Kind.COPY, n, None, at_ms - 10_000 + n, "d") for n in range(7)]
    await Signals(stores.postgres).keep(signals, [], [], 600)

    seen = (await Cases(stores.postgres).seen([made.session], 5))[made.session]

    assert [(one.at_ms - at_ms + 10_000, one.amount) for one in seen.signals] == [(n, n) for n in range(5)]
    assert seen.total == 7


async def test_a_case_keeps_what_came_in_one_report_in_the_order_in_which_it_happened(stores: Stores, exam: str) -> None:
    made, at_ms = await sat(stores, exam, fresh("s"), 1, 1000, 1), round(datetime.now(UTC).timestamp() * 1000)
    signals = [Signal(made.session, made.student, uuid.uuid4(), Kind.COPY, n, at_ms + n, at_ms, "d") for n in range(12)]
    await Signals(stores.postgres).keep(signals, [], [], 600)

    seen = (await Cases(stores.postgres).seen([made.session]))[made.session]

    assert [one.amount for one in seen.signals] == list(range(12))


async def test_a_case_says_when_a_signal_was_by_its_client_and_when_its_report_came(stores: Stores, exam: str) -> None:
    made, at_ms = await sat(stores, exam, fresh("s"), 1, 1000, 1), round(datetime.now(UTC).timestamp() * 1000)
    ages = [0, 20_000, 50_000, 400 * 86_400_000]  # the last is before the session
    signals = [
        Signal(
            made.session, made.student, uuid.uuid4(), Kind.COPY, n, None, at_ms, "d", json.dumps({"agoMs": ago, "question": "q1"})
        )
        for n, ago in enumerate(ages)
    ]
    await Signals(stores.postgres).keep(signals, [], [], 600)

    seen = (await Cases(stores.postgres).seen([made.session]))[made.session]

    assert [(one.amount, at_ms - one.at_ms) for one in seen.signals][:2] == [(2, 50_000), (1, 20_000)]
    assert {(one.amount, at_ms - one.at_ms) for one in seen.signals[2:]} == {(0, 0), (3, 0)}
    assert {one.received_ms for one in seen.signals} == {at_ms}
    assert {one.details for one in seen.signals} == {'{"question": "q1"}'}


@pytest.mark.parametrize("table", ["integrity_case_step", "integrity_pair"])
async def test_the_service_can_change_no_step_and_no_pair(stack: Stack, table: str) -> None:
    service = await asyncpg.connect(stack.postgres("integrity"))
    try:
        for change in (f"UPDATE {table} SET place = 1", f"DELETE FROM {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(change.replace("place", "revision" if table.endswith("step") else "place"))
    finally:
        await service.close()


async def test_cases_are_listed_the_newest_first(stores: Stores, exam: str) -> None:
    student, cases = fresh("s"), Cases(stores.postgres)
    found = [await case(stores, exam, student), await case(stores, exam, fresh("s")), await case(stores, exam, student, fresh("s"))]

    first = await cases.page(exam, "", None, 2)
    rest = await cases.page(exam, "", first[-1].id, 9)

    assert [one.id for one in (*first, *rest)] == found[::-1]
    assert {party.seen for one in (*first, *rest) for party in one.parties} == {None}
    assert [one.id for one in await cases.page("", student, None, 9)] == [found[2], found[0]]
