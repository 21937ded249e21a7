"""Similarity is what plain loops over students and items compute, flags who copied, and seldom who did not."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy  # its parts are loaded when they are used
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from servers.integrity.pairs import blocks, gbt, omega, p_values, shared_wrong
from servers.integrity.responses import Model, _curves, fit
from servers.integrity.screen import Sides, block_size, screen
from servers.integrity.similarity import BLANK, NOT_PRESENTED, Exam, Grouping, Index, Item, Pair, adjusted, analyse
from servers.integrity.tails import Sums, log_tail_bound, upper_tail

RIGHT = 1
METHODS = {Index.OMEGA: omega, Index.GBT: gbt, Index.SHARED_WRONG: shared_wrong}


def exam(answers: Any, right: int = RIGHT, groupings: tuple[Grouping, ...] = (), shown: NDArray[np.int16] | None = None) -> Exam:
    """An exam whose first option is always right."""
    answers = np.asarray(answers, np.int16)
    students, items = answers.shape
    names = tuple(f"s{number}" for number in range(students))
    paper = tuple(Item(f"q{number}", frozenset({right})) for number in range(items))
    return Exam(names, paper, answers, groupings, shown)


def sat(students: int, items: int, seed: int = 1) -> NDArray[np.int16]:
    """Answers of students who worked alone, some of whom guess, by another model than the fitted one: guessing lifts the curve of
    right answers, and each distractor attracts a level of ability."""
    chance = np.random.default_rng(seed)
    ability = chance.normal(size=(students, 1))
    steep, hard, guess = chance.lognormal(0, 0.3, items), chance.normal(size=items), chance.uniform(0.1, 0.25, items)
    right = chance.random((students, items)) < guess + (1 - guess) / (1 + np.exp(-1.7 * steep * (ability - hard)))
    pull = chance.normal(0, 0.8, (items, 3)) - 0.3 * (ability[:, :, None] - chance.normal(size=(items, 3))) ** 2
    wrong = (pull + chance.gumbel(size=pull.shape)).argmax(axis=2) + 2
    blank = chance.random((students, items)) < 0.03
    return np.where(blank, BLANK, np.where(right, RIGHT, wrong)).astype(np.int16)


def copied(answers: NDArray[np.int16], pairs: dict[int, int], share: float, seed: int = 2) -> NDArray[np.int16]:
    """Have each student of `pairs` take a share of the answers of another."""
    chance, found = np.random.default_rng(seed), answers.copy()
    for copier, source in pairs.items():
        taken = chance.permutation(answers.shape[1])[: round(share * answers.shape[1])]
        found[copier, taken] = answers[source, taken]
    return found


# --- against plain loops


def likely(model: Model, student: int, item: int, *, if_wrong: bool = False) -> dict[int, float]:
    """The chance of each of an item's columns by the formulas, one number at a time."""
    layout, theta = model.layout, float(model.ability[student])
    columns = range(int(layout.starts[item]), int(layout.starts[item + 1]))
    usual = min(3.0, max(-3.0, theta))
    kinds = {kind: [one for one in columns if layout.right[one] == kind] for kind in (True, False)}
    right = 1 / (1 + math.exp(-(float(model.intercept[item]) + float(model.slope[item]) * theta)))
    if not kinds[True] or not kinds[False]:
        right = float(bool(kinds[True]))
    found = {}
    for kind, chance in ((True, 0.0 if if_wrong else right), (False, 1.0 if if_wrong else 1 - right)):
        sharp = 1.0 if kind else float(model.sharpness[student])
        logits = {one: float(model.choice_intercept[one]) + float(model.choice_slope[one]) * usual for one in kinds[kind]}
        pull = {one: math.exp(sharp * logit) for one, logit in logits.items()}
        found.update({one: chance * value / sum(pull.values()) for one, value in pull.items()})
    return found


def by_hand(model: Model, index: Index, one: int, other: int) -> tuple[int, list[float]]:
    """Matches and the chances of the compared items: of `one` to have the answers of `other`, where the index has a direction."""
    picked, wrong = model.layout.picked.tolist(), model.layout.wrong.tolist()
    matches, chances = 0, []
    for item, (mine, theirs) in enumerate(zip(picked[one], picked[other], strict=True)):
        if mine < 0 or theirs < 0 or (index is Index.SHARED_WRONG and not (wrong[mine] and wrong[theirs])):
            continue
        only_wrong = index is Index.SHARED_WRONG
        first, second = (likely(model, who, item, if_wrong=only_wrong) for who in (one, other))
        matches += mine == theirs
        chances.append(first[theirs] if index is Index.OMEGA else sum(first[column] * second[column] for column in first))
    return matches, chances


def tail_by_hand(chances: list[float], matches: int) -> float:
    """P(S >= matches), summed over every outcome of all items."""
    total = 0.0
    for outcome in itertools.product((True, False), repeat=len(chances)):
        if sum(outcome) >= matches:
            total += math.prod(p if hit else 1 - p for p, hit in zip(chances, outcome, strict=True))
    return total


small = st.tuples(st.integers(2, 12), st.integers(1, 7)).flatmap(
    lambda shape: arrays.arrays(np.int16, shape, elements=st.sampled_from([NOT_PRESENTED, BLANK, 1, 1, 1, *range(2, 13)]))
)


@pytest.mark.parametrize("index", Index)
@given(answers=small)
@settings(max_examples=25)
def test_every_index_is_the_one_that_plain_loops_compute(index: Index, answers: NDArray[np.int16]) -> None:
    paper = exam(answers)
    model = fit(paper.items, paper.answers)
    first, second = map(np.array, zip(*itertools.permutations(range(len(answers)), 2), strict=True))

    found = METHODS[index](model, first, second)

    p, value, expected = found.p, found.value, found.chances.sum(axis=1)
    for at, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        matches, chances = by_hand(model, index, one, other)
        mean, spread = sum(chances), sum(chance * (1 - chance) for chance in chances)
        assert (found.matches[at], found.compared[at]) == (matches, len(chances))
        assert expected[at] == pytest.approx(mean, abs=1e-9)
        assert p[at] == pytest.approx(tail_by_hand(chances, matches), rel=1e-9, abs=1e-12)
        if spread > 1e-6:
            assert value[at] == pytest.approx((matches - mean) / math.sqrt(spread), rel=1e-9, abs=1e-9)


@given(chances=st.lists(st.floats(0, 1), min_size=1, max_size=80), data=st.data())
@settings(max_examples=100)
def test_tails_are_those_of_scipy(chances: list[float], data: st.DataObject) -> None:
    matches = data.draw(st.integers(0, len(chances)))

    found = upper_tail(np.array([chances]), np.array([matches]))[0]

    assert found == pytest.approx(float(scipy.stats.poisson_binom.sf(matches - 1, chances)), abs=1e-9)


def test_more_matches_than_items_that_can_match_have_no_chance() -> None:
    chances = np.array([[0.0, 0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.5]])

    assert upper_tail(chances, np.array([2, 1])).tolist() == [0.0, 0.5]


def test_the_smallest_tails_are_exact_too() -> None:
    chances = np.full((1, 60), 0.3)
    for matches in (30, 45, 60):
        assert upper_tail(chances, np.array([matches]))[0] == pytest.approx(scipy.stats.binom.sf(matches - 1, 60, 0.3), rel=1e-9)


def sums(chances: NDArray[np.float64], matches: NDArray[np.int64], *, cubes: bool) -> Sums:
    """What the screening knows of pairs that have these chances."""
    single = chances.astype(np.float32)
    of = [(single**power).sum(axis=1) for power in (1, 2, 3)]
    return Sums(matches.astype(np.float32), of[0], of[1], of[2] if cubes else None, (chances > 0).sum(axis=1).astype(np.float32))


chance_lists = st.lists(st.one_of(st.floats(0.001, 1), st.sampled_from([0.001, 0.25, 0.9, 0.999, 1.0])), min_size=1, max_size=100)


@pytest.mark.parametrize("cubes", [False, True])
@given(chances=chance_lists, data=st.data())
@settings(max_examples=150)
def test_no_tail_is_below_its_bound(cubes: bool, chances: list[float], data: st.DataObject) -> None:
    p, matches = np.array([chances]), np.array([data.draw(st.integers(0, len(chances)))])

    bound = log_tail_bound(sums(p, matches, cubes=cubes))

    with np.errstate(divide="ignore"):
        assert bound[0] <= np.log(upper_tail(p, matches)[0])


@pytest.mark.parametrize("items", [20, 60])
def test_screening_keeps_all_that_matters_and_little_else(items: int) -> None:
    paper = exam(sat(250, items))
    model, first, second = fit(paper.items, paper.answers), *np.triu_indices(250, 1)
    cut = math.log(1e-5)

    found = screen(model, blocks(paper, everybody=True, size=100), dict.fromkeys(Index, cut))

    for index, one in found.items():
        strong = np.flatnonzero(p_values(model, index, first, second) <= 1e-5)
        kept = {tuple(sorted(pair)) for pair in zip(*(ids.tolist() for ids in one.pairs()), strict=True)}
        assert {(int(first[at]), int(second[at])) for at in strong} <= kept
        assert one.count == len(kept) < 0.02 * len(first)


def test_a_block_of_a_long_paper_takes_no_more_memory_than_one_of_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.integrity.screen.MOST_CELLS", 200_000)
    answers = np.random.default_rng(1).integers(1, 10, (300, 60)).astype(np.int16)
    model = fit(exam(answers).items, answers)

    size = block_size(model)
    side = Sides(model).of(np.arange(size))

    assert 1 < size < 300
    assert max(getattr(side, one.name).size for one in dataclasses.fields(side)) <= 200_000


# --- the model


def test_every_student_is_expected_to_have_as_many_right_as_he_has() -> None:
    paper = exam(sat(150, 30))
    model = fit(paper.items, paper.answers)

    given_ = paper.answers > BLANK
    expected = (model.right * given_).sum(axis=1)

    assert expected == pytest.approx((paper.answers == RIGHT).sum(axis=1), abs=0.02)


def test_the_chances_of_an_item_come_to_one() -> None:
    model = fit(exam(sat(100, 20)).items, sat(100, 20))

    for chances in (model.answers(slice(None)), model.choices * model.layout.wrong):
        assert chances @ model.layout.onto_items == pytest.approx(1, abs=1e-12)


def test_curves_of_right_answers_are_where_scipy_finds_the_peak_of_their_posterior() -> None:
    chance = np.random.default_rng(3)
    ability, given_ = chance.normal(0.8, 1, 200), chance.random((200, 8)) < 0.9
    slopes = np.array([0.3, 0.7, 1, -1.5, 0, 1.5, 2, 3])  # a wrong key's is held at the least
    right = given_ & (chance.random((200, 8)) < 1 / (1 + np.exp(-np.linspace(-2, 6, 8) - slopes * ability[:, None])))
    right[:, 7] = given_[:, 7]  # all right

    intercept, slope = _curves(ability, given_, right, (np.zeros(8), np.ones(8)))

    for item in range(8):
        who = given_[:, item]

        def loss(found: NDArray[np.float64], item: int = item, who: Any = who) -> float:
            logits = found[0] + found[1] * ability[who]
            likelihood = (logits * right[who, item]).sum() - np.logaddexp(0, logits).sum()
            return float(-likelihood + 0.01 / 2 * found[0] ** 2 + 4 / 2 * (found[1] - 1) ** 2)

        wanted = scipy.optimize.minimize(
            loss, np.array([0.0, 1.0]), method="L-BFGS-B", bounds=[(None, None), (0.05, None)], tol=1e-14
        ).x
        assert [intercept[item], slope[item]] == pytest.approx(wanted, abs=1e-3)


def test_curves_of_wrong_answers_are_where_scipy_finds_the_peak_of_their_posterior() -> None:
    paper = exam(sat(120, 12))
    model = fit(paper.items, paper.answers)
    usual = np.clip(model.ability, -3, 3)

    for item in range(12):
        start, end = (int(one) for one in model.layout.starts[item : item + 2])
        columns = [one for one in range(start, end) if model.layout.wrong[one]]
        who = np.isin(model.layout.picked[:, item], columns)
        one_hot = model.layout.picked[who, item][:, None] == columns

        def loss(found: NDArray[np.float64], one_hot: Any = one_hot, who: Any = who) -> float:
            flat, steep = found.reshape(2, -1)
            logits = flat + np.outer(usual[who], steep)
            likelihood = (logits * one_hot).sum() - np.logaddexp.reduce(logits, axis=1).sum()
            return float(-likelihood + 0.01 / 2 * (flat**2).sum() + 4 / 2 * (steep**2).sum())

        wanted = scipy.optimize.minimize(loss, np.zeros(2 * len(columns)), method="BFGS", options={"gtol": 1e-8}).x
        found = np.concatenate([model.choice_intercept[columns], model.choice_slope[columns]])
        assert found == pytest.approx(wanted, abs=1e-5)


def test_sharpness_is_where_scipy_finds_the_peak_of_its_posterior() -> None:
    paper = exam(sat(60, 25))
    model = fit(paper.items, paper.answers)
    layout, usual = model.layout, np.clip(model.ability, -3, 3)

    for student in range(0, 60, 7):
        pull = model.choice_intercept + model.choice_slope * usual[student]

        def loss(factor: float, student: int = student, pull: Any = pull) -> float:
            found = 4 / 2 * (factor - 1) ** 2
            for item, picked in enumerate(layout.picked[student].tolist()):
                if picked >= 0 and layout.wrong[picked]:
                    columns = np.arange(layout.starts[item], layout.starts[item + 1])
                    logits = factor * pull[columns[layout.wrong[columns]]]
                    found -= factor * pull[picked] - np.logaddexp.reduce(logits)
            return float(found)

        wanted = scipy.optimize.minimize_scalar(loss, bounds=(0, 3), method="bounded", options={"xatol": 1e-9}).x
        assert model.sharpness[student] == pytest.approx(wanted, abs=1e-5)


def test_rare_wrong_answers_are_not_compared_and_right_ones_always_are() -> None:
    answers = np.array([[1], [99], *([code] for code in range(2, 14) for _ in range(20 - code))], np.int16)
    items = (Item("sets", frozenset({1, 99})),)

    layout = fit(items, answers).layout

    of = {int(code): int(column) for code, column in zip(answers[:, 0], layout.picked[:, 0], strict=True)}
    assert len({of[code] for code in (1, 99, *range(2, 9))}) == 9
    assert {of[code] for code in range(9, 14)} == {-1}
    assert [bool(layout.right[of[code]]) for code in (1, 99, 2, 8)] == [True, True, False, False]


def test_eight_wrong_answers_are_all_compared() -> None:
    answers = np.array([[code] for code in range(1, 10) for _ in range(5)], np.int16)

    assert fit((Item("eight", frozenset({1})),), answers).layout.columns == 9


# --- what is compared


def test_pairs_are_those_who_share_a_group_of_any_kind_once_each() -> None:
    rooms, cohorts = np.array([0, 0, 0, 1, 1, -1, -1], np.int32), np.array([5, 5, 6, 6, 7, 7, -1], np.int32)
    paper = exam(sat(7, 3), groupings=(Grouping("room", rooms), Grouping("cohort", cohorts)))

    for size in (1, 2, 3, 100):
        found = [
            tuple(sorted((int(block.rows[a]), int(block.columns[b]))))
            for block in blocks(paper, everybody=False, size=size)
            for a, b in np.argwhere(block.tested)
        ]
        assert sorted(found) == [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_all_pairs_are_compared_where_everybody_is() -> None:
    assert analyse(exam(sat(40, 5)), everybody=True).tested == 40 * 39 // 2
    assert analyse(exam(sat(40, 5))).tested == 0


def test_what_both_left_blank_is_counted_and_never_a_match() -> None:
    answers = np.concatenate([sat(60, 20), np.full((60, 20), BLANK, np.int16)], axis=1)

    found = analyse(exam(answers), everybody=True, strongest=10**6).pairs

    assert all(pair.shared_blank >= 20 and pair.compared <= 20 and pair.matches <= 20 for pair in found)
    assert {(pair.students, pair.index): pair.p for pair in found} == {
        (pair.students, pair.index): pytest.approx(pair.p, rel=1e-6)
        for pair in analyse(exam(answers[:, :20]), everybody=True, strongest=10**6).pairs
    }


def test_two_who_saw_no_item_in_common_are_as_unsuspicious_as_can_be() -> None:
    answers = sat(50, 20)
    answers[:25, :10] = NOT_PRESENTED
    answers[25:, 10:] = NOT_PRESENTED

    found = analyse(exam(answers), everybody=True, strongest=10**6).pairs

    apart = [pair for pair in found if (int(pair.students[0][1:]) < 25) != (int(pair.students[1][1:]) < 25)]
    assert len(apart) == 3 * 25 * 25
    assert {(pair.p, pair.matches, pair.flagged) for pair in apart} == {(1.0, 0, False)}


@pytest.mark.parametrize(
    "answers",
    [
        np.full((5, 4), RIGHT),
        np.full((5, 4), 2),
        np.full((5, 4), BLANK),
        np.full((5, 4), NOT_PRESENTED),
        np.full((1, 4), RIGHT),
        np.full((0, 4), RIGHT),
    ],
    ids=["all right", "all alike and wrong", "all blank", "nothing presented", "one student", "nobody"],
)
def test_exams_that_tell_nothing_flag_nobody(answers: NDArray[np.int16]) -> None:
    found = analyse(exam(answers), everybody=True)

    assert found.tested == len(answers) * (len(answers) - 1) // 2
    assert {pair.flagged for pair in found.pairs} <= {False}
    assert {pair.p for pair in found.pairs} <= {1.0}


def test_an_exam_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="answers are"):
        Exam(("a", "b"), (Item("q", frozenset({1})),), np.zeros((3, 1), np.int16))
    with pytest.raises(ValueError, match="items"):
        exam(sat(3, 0))
    with pytest.raises(ValueError, match="grouping"):
        exam(sat(3, 2), groupings=(Grouping("room", np.zeros(2, np.int32)),))


# --- the correction, and what is screened out


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_correction_is_benjamini_and_hochbergs(values: list[float]) -> None:
    p = np.sort(np.array(values))

    assert adjusted(p, len(p)) == pytest.approx(scipy.stats.false_discovery_control(p), abs=1e-12)


def strong(pairs: tuple[Pair, ...]) -> dict[tuple[Index, tuple[str, str]], Any]:
    """The flagged ones; numbers are the same but for rounding."""
    return {
        (pair.index, pair.students): (pytest.approx(pair.p, rel=1e-9), pytest.approx(pair.q, rel=1e-9), pair.source)
        for pair in pairs
        if pair.flagged
    }


@pytest.mark.parametrize("copiers", [0, 4, 40])
def test_screening_loses_nothing_that_all_exact_tails_would_flag(copiers: int) -> None:
    paper = exam(copied(sat(250, 40), {number: 200 + number for number in range(copiers)}, 0.6))

    exact = analyse(paper, everybody=True)
    screened = analyse(paper, everybody=True, all_exact=0)

    assert strong(screened.pairs) == strong(exact.pairs)
    assert [one.flagged for one in screened.summaries] == [one.flagged for one in exact.summaries]
    for index in Index:
        best = [[pair for pair in found.pairs if pair.index is index] for found in (exact, screened)]
        assert len(best[1]) > 30
        assert [pair.p for pair in best[1]] == pytest.approx([pair.p for pair in best[0][: len(best[1])]], rel=1e-9)
    assert all(one.complete for one in screened.summaries)


def test_of_too_many_only_the_strongest_are_corrected_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = exam(copied(sat(200, 40), dict.fromkeys(range(60), 100), 0.8))
    exact = {(pair.index, pair.students): pair for pair in analyse(paper, everybody=True).pairs}
    monkeypatch.setattr("servers.integrity.screen.MOST_KEPT", 1_000)

    found = analyse(paper, everybody=True, all_exact=0)

    assert not all(one.complete for one in found.summaries)
    assert len(found.pairs) > 100
    for pair in found.pairs:
        assert pair.p == pytest.approx(exact[pair.index, pair.students].p, rel=1e-9)
        assert pair.q >= exact[pair.index, pair.students].q * (1 - 1e-9)


def test_distributions_count_every_pair() -> None:
    for all_exact in (0, 10**6):
        found = analyse(exam(sat(80, 15)), everybody=True, all_exact=all_exact)
        assert [sum(one.counts) for one in found.summaries] == [2 * found.tested, found.tested, found.tested]


# --- who is flagged


@pytest.mark.parametrize("index", Index)
@pytest.mark.parametrize(("students", "items"), [(100, 20), (200, 50), (100, 100)])
def test_who_worked_alone_is_suspected_no_more_often_than_p_says(index: Index, students: int, items: int) -> None:
    first, second = np.triu_indices(students, 1)
    found = []
    for seed in range(2):
        paper = exam(sat(students, items, seed))
        found.append(p_values(fit(paper.items, paper.answers), index, first, second))

    p = np.concatenate(found)

    for level in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001):
        assert (p <= level).mean() <= level


def test_students_who_know_little_are_suspected_no_more_often_than_others() -> None:
    p = []
    for seed in range(3):
        answers = sat(240, 60, seed)
        ticks = np.random.default_rng(seed).integers(1, 5, (60, 60))
        answers[::4] = np.where(np.random.default_rng(seed).random((60, 60)) < 0.5, ticks, answers[::4])
        weak = np.argsort((answers == RIGHT).sum(axis=1))[:80]
        first, second = (weak[ids] for ids in np.triu_indices(80, 1))
        model = fit(exam(answers).items, answers)
        p.append([p_values(model, index, first, second) for index in Index])

    for level in (0.1, 0.01):
        assert (np.concatenate(p, axis=1) <= level).mean(axis=1).max() <= level


def test_the_best_are_suspected_no_more_often_than_others_where_keys_are_wrong() -> None:
    answers = sat(400, 50)
    best = np.argsort((answers == RIGHT).sum(axis=1))[300:]
    first, second = (best[ids] for ids in np.triu_indices(100, 1))
    items = tuple(Item(f"q{at}", frozenset({2 if at % 5 == 0 else RIGHT})) for at in range(50))
    model = fit(items, answers)

    p = np.array([p_values(model, index, first, second) for index in Index])

    for level in (0.1, 0.01):
        assert (p <= level).mean(axis=1).max() <= level


def test_an_item_that_the_best_have_wrong_most_often_has_no_right_answer() -> None:
    answers = sat(400, 20)
    items = tuple(Item(f"q{at}", frozenset({2 if at == 7 else RIGHT})) for at in range(20))

    model = fit(items, answers)

    without = fit([Item("", frozenset()) if at == 7 else item for at, item in enumerate(items)], answers)
    assert not (model.layout.right | model.layout.wrong)[model.layout.item == 7].any()
    assert (model.layout.right | model.layout.wrong)[model.layout.item != 7].all()
    assert (model.ability == without.ability).all()


def test_copiers_are_found_and_nobody_else() -> None:
    pairs = {0: 250, 1: 251, 2: 252, 3: 253}
    paper = exam(copied(sat(300, 60), pairs, 0.7))

    found = analyse(paper, everybody=True, all_exact=0)

    planted = {(f"s{copier}", f"s{source}") for copier, source in pairs.items()}
    flagged = {index: {pair.students for pair in found.pairs if pair.flagged and pair.index is index} for index in Index}
    assert flagged[Index.OMEGA] == flagged[Index.GBT] == planted
    assert flagged[Index.SHARED_WRONG] <= planted
    assert [pair.flagged for pair in found.pairs] == sorted((pair.flagged for pair in found.pairs), reverse=True)


def test_a_good_source_is_told_from_a_weak_copier() -> None:
    answers = sat(300, 60)
    ranked = np.argsort((answers == RIGHT).sum(axis=1))
    weak, good = int(ranked[30]), int(ranked[200])

    found = analyse(exam(copied(answers, {weak: good}, 0.6)), everybody=True, all_exact=0).pairs

    best = next(pair for pair in found if pair.index is Index.OMEGA)
    assert set(best.students) == {f"s{weak}", f"s{good}"}
    assert best.flagged
    assert best.value > 4
    assert best.matches > best.expected


@pytest.mark.parametrize("which", ["students", "items", "codes"])
def test_order_and_names_of_students_items_and_options_change_nothing(which: str) -> None:
    answers = copied(sat(80, 25), {0: 40, 1: 41}, 0.7)
    names, items = np.arange(80), np.arange(25)
    right = RIGHT
    chance = np.random.default_rng(5)
    if which == "students":
        names = chance.permutation(80)
    elif which == "items":
        items = chance.permutation(25)
    other = answers[names][:, items]
    if which == "codes":
        other, right = np.where(other > BLANK, 10 - other, other).astype(np.int16), 10 - RIGHT
    shown = np.tile(np.argsort(items).astype(np.int16), (80, 1))
    paper = tuple(Item(f"q{item}", frozenset({right})) for item in items)
    shuffled = Exam(tuple(f"s{name}" for name in names), paper, other, shown=shown)

    def found(paper: Exam) -> dict[tuple[Index, frozenset[str]], Any]:
        pairs = analyse(paper, everybody=True, strongest=10**6).pairs
        return {
            (pair.index, frozenset(pair.students)): (pair.matches, pair.flagged, pytest.approx(pair.p, rel=1e-6)) for pair in pairs
        }

    before, after = found(exam(answers)), found(shuffled)
    assert before == after
