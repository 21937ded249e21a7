"""Screening: of each pair a number that its p is not below, by matrix products in single precision, so that only the few that
could matter are computed exactly."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from servers.integrity.pairs import BLOCK, Block, Ids, Index
from servers.integrity.responses import Model
from servers.integrity.tails import ROUNDING, Single, Sums, log_tail_bound

MOST_KEPT = 4_000_000
"""Pairs of an index that are kept for the exact computation, 40 bytes each while it runs."""

MOST_CELLS = 1 << 24
"""Numbers of the widest matrix of a block: 64 MiB. 500 questions with eight wrong answers each have 60,000 products of three."""

STEP = 0.1
FLOOR = -80.0
EDGES = np.linspace(FLOOR, 0, round(-FLOOR / STEP) + 1)
"""ln p in bins; the first takes all below."""
RARE = 4
"""Of students who work alone about a quarter as many pairs have a small p as p says (docs/integrity-similarity.md)."""
VALUE_EDGES = np.arange(-6.0, 12.01, 0.25)


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """What the products need of some students: students x columns, or x items."""

    picked: Single
    wrong_picked: Single
    answers: Single
    answers_squared: Single
    answers_cubed: Single
    answers_in_twos: Single
    choices: Single
    choices_in_twos: Single
    choices_in_threes: Single
    choices_floored: Single
    given: Single
    wrong: Single
    wrong_floored: Single


def block_size(model: Model) -> int:
    """Return how many students a block has a side, so that its widest matrix has no more than `MOST_CELLS`."""
    layout = model.layout
    each = np.stack([np.bincount(layout.item, kind, len(model.slope)) for kind in (np.ones(layout.columns), layout.wrong)])
    twos, threes = each[0] * (each[0] + 1) / 2, each[1] * (each[1] + 1) * (each[1] + 2) / 6
    return int(min(BLOCK, max(1, MOST_CELLS // max(1.0, twos.sum(), threes.sum()))))


class Sides:
    """Makes the sides of a block."""

    def __init__(self, model: Model) -> None:
        self._model = model
        layout = model.layout
        self._wrong = np.flatnonzero(layout.wrong)
        self._twos = _together(layout.item, 2)
        self._wrong_twos = _together(layout.item[self._wrong], 2)
        self._wrong_threes = _together(layout.item[self._wrong], 3)
        self._floor = _floor(model, self._wrong)

    def of(self, rows: Ids) -> _Side:
        """Return what the products need of these students."""
        layout = self._model.layout
        picked = layout.picked[rows]
        given = picked >= 0
        wrong = np.append(layout.wrong, False)[picked]
        one_hot = np.zeros((len(rows), layout.columns + 1), np.float32)
        np.put_along_axis(one_hot, np.where(given, picked, layout.columns), 1, axis=1)
        one_hot = one_hot[:, :-1]
        answers = (self._model.answers(rows) * given[:, layout.item]).astype(np.float32)
        choices = (self._model.choices[rows][:, self._wrong] * wrong[:, layout.item[self._wrong]]).astype(np.float32)
        return _Side(
            picked=one_hot,
            wrong_picked=one_hot[:, self._wrong],
            answers=answers,
            answers_squared=answers**2,
            answers_cubed=answers**3,
            answers_in_twos=_powers(answers, self._twos),
            choices=choices,
            choices_in_twos=_powers(choices, self._wrong_twos),
            choices_in_threes=_powers(choices, self._wrong_threes),
            choices_floored=choices * self._floor[layout.item[self._wrong]],
            given=given.astype(np.float32),
            wrong=wrong.astype(np.float32),
            wrong_floored=wrong * self._floor,
        )


def _floor(model: Model, wrong: Ids) -> Single:
    """Return a number a for each item, so that ln p >= a (1 - p) for the chance p of any two students who both have it wrong.

    p is at least l, the sum of the squares of each answer's least chance, and the logarithm is above its chord from l to 1.
    """
    least = model.choices.min(axis=0, initial=1.0)[wrong] ** 2
    low = np.bincount(model.layout.item[wrong], least, len(model.slope))
    sure = (low <= 0) | (low > 1 - 1e-6)
    return np.where(sure, 0, np.log(low, where=~sure, out=np.zeros(len(low))) / np.where(sure, 1, 1 - low)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Together:
    """Columns of the same item that are multiplied, and the root of how often that product occurs in a power of the item's sum."""

    columns: Ids
    weight: Single


def _together(item: Ids, power: int) -> _Together:
    """Return all ways to pick `power` columns of an item, in any order."""
    found: list[tuple[int, ...]] = []
    for one in np.unique(item):
        found += itertools.combinations_with_replacement(np.flatnonzero(item == one).tolist(), power)
    orders = [math.factorial(power) // math.prod(math.factorial(some.count(one)) for one in set(some)) for some in found]
    return _Together(np.array(found, np.int64).reshape(-1, power), np.sqrt(np.array(orders, np.float32)))


def _powers(chances: Single, of: _Together) -> Single:
    """Return what makes Σ over items of (Σ over answers of p p') to a power a product of two sides."""
    found = chances[:, of.columns[:, 0]]
    for column in of.columns.T[1:]:
        found *= chances[:, column]
    found *= of.weight
    return found


@dataclass(slots=True, eq=False)
class Screened:
    """What a pass over all pairs found for an index."""

    cut: float
    """Pairs whose bound is at most this, in ln p, are kept."""
    bounds: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(EDGES), np.int64))
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(VALUE_EDGES) - 1, np.int64))
    kept: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = field(default_factory=list)
    count: int = 0

    def add(self, block: Block, bound: Single, values: Iterable[Single]) -> None:
        """Count a block's pairs, and keep the strong ones; of too many none, so that a second pass with a lower cut is needed."""
        bound = np.minimum(bound, 0)
        at = np.clip(np.ceil((bound[block.tested] - FLOOR) / STEP), 0, len(EDGES) - 1).astype(np.int64)
        self.bounds += np.bincount(at, minlength=len(EDGES))
        for value in values:
            inside = np.clip(value[block.tested], VALUE_EDGES[0], VALUE_EDGES[-1])
            self.values += np.histogram(inside, VALUE_EDGES)[0]
        rows, columns = np.nonzero(block.tested & (bound <= self.cut))
        self.count += len(rows)
        self.kept.append((block.rows[rows].astype(np.int32), block.columns[columns].astype(np.int32)))
        if self.count > MOST_KEPT:
            self.cut, self.count = -np.inf, 0
            self.kept.clear()

    def pairs(self) -> tuple[Ids, Ids]:
        """Return the pairs that were kept."""
        rows = np.concatenate([np.empty(0, np.int32), *(one for one, _ in self.kept)])
        columns = np.concatenate([np.empty(0, np.int32), *(other for _, other in self.kept)])
        return rows.astype(np.int64), columns.astype(np.int64)

    def wanted(self, tested: int, fdr: float, strongest: int) -> float:
        """Return ln of the p up to which all must be known, to flag just those that the correction does, and show the strongest.

        The correction flags up to the largest p for which p <= fdr x (how many are at most p) / tested. There are never more of
        them than of bounds.
        """
        below = np.cumsum(self.bounds)
        with np.errstate(divide="ignore"):
            limit = np.log(below) + np.log(fdr / max(tested, 1))
        may_flag = np.flatnonzero(limit >= np.append(-np.inf, EDGES[:-1]))
        flags = EDGES[may_flag[-1]] if below[may_flag].any() else -np.inf
        return float(min(0.0, max(flags, np.log(RARE * max(strongest, 1) / max(tested, 1)))))

    def bearable(self) -> float:
        """Return ln of the p up to which `MOST_KEPT` are not exceeded: half of them, so that it does not come to rounding."""
        return float(np.append(-np.inf, EDGES)[np.searchsorted(np.cumsum(self.bounds), MOST_KEPT // 2, side="right")])


def screen(model: Model, blocks: Iterable[Block], cuts: dict[Index, float]) -> dict[Index, Screened]:
    """Go over all pairs once."""
    found = {index: Screened(cut) for index, cut in cuts.items()}
    sides = Sides(model)
    rows: Ids = np.empty(0, np.int64)
    for block in blocks:
        if rows is not block.rows:
            rows, first = block.rows, sides.of(block.rows)
        second = first if block.columns is block.rows else sides.of(block.columns)
        _omega(found[Index.OMEGA], block, first, second)
        _gbt(found[Index.GBT], block, first, second)
        _shared_wrong(found[Index.SHARED_WRONG], block, first, second)
    return found


def _omega(found: Screened, block: Block, first: _Side, second: _Side) -> None:
    matches, trials = first.picked @ second.picked.T, first.given @ second.given.T
    powers = first.answers, first.answers_squared, first.answers_cubed
    mean, squares, cubes = (power @ second.picked.T for power in powers)
    one = Sums(matches, mean, squares, cubes, trials)
    powers = second.answers, second.answers_squared, second.answers_cubed
    mean, squares, cubes = (first.picked @ power.T for power in powers)
    other = Sums(matches, mean, squares, cubes, trials)
    bound = np.minimum(log_tail_bound(one), log_tail_bound(other)) + np.float32(np.log(2))
    found.add(block, bound, (_value(one), _value(other)))


def _gbt(found: Screened, block: Block, first: _Side, second: _Side) -> None:
    sums = Sums(
        matches=first.picked @ second.picked.T,
        mean=first.answers @ second.answers.T,
        squares=first.answers_in_twos @ second.answers_in_twos.T,
        cubes=None,  # a third more columns for each option, and the bound is close enough without
        trials=first.given @ second.given.T,
    )
    found.add(block, log_tail_bound(sums), (_value(sums),))


def _shared_wrong(found: Screened, block: Block, first: _Side, second: _Side) -> None:
    """Of few items that both have wrong all may match, where the bound of all tails has nothing to say; but P(all match) has."""
    sums = Sums(
        matches=first.wrong_picked @ second.wrong_picked.T,
        mean=first.choices @ second.choices.T,
        squares=first.choices_in_twos @ second.choices_in_twos.T,
        cubes=first.choices_in_threes @ second.choices_in_threes.T,
        trials=first.wrong @ second.wrong.T,
    )
    all_match = first.wrong_floored @ second.wrong.T * np.float32(1 + ROUNDING)
    all_match -= first.choices_floored @ second.choices.T * np.float32(1 - ROUNDING)
    found.add(block, np.maximum(log_tail_bound(sums), all_match), (_value(sums),))


def _value(sums: Sums) -> Single:
    """Return how many deviations matches are above their mean, for a histogram."""
    variance: Single = np.maximum(sums.mean - sums.squares, np.float32(1e-3))
    value: Single = np.divide(sums.matches - sums.mean, np.sqrt(variance), dtype=np.float32)
    return value
