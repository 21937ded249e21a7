"""The response model: how likely each student was to give each answer, from how well they did and from what the others answered.

A nested logit (Suh & Bolt, Psychometrika 75, 2010), fitted on the exam itself:

- right or not: logit P(right) = c + aθ for each item;
- which of the wrong answers, if wrong: a nominal response model (Bock, Psychometrika 37, 1972), softmax of κ(cₒ + aₒθ), with a
  sharpness κ of each student (a person's slope: Strandmark & Linn, Applied Psychological Measurement 11, 1987);
- which of the right ones, if several count as right: the same without κ.

Why κ: who guesses ticks any wrong option, who does not is drawn by the same ones as others. Two who have much wrong and do not
guess agree in more wrong answers than the average of their scores. Without κ p was at most 0.001 up to five times as often as it
should be, in such pairs; with it, less often than it should.

Why not Bock's model over all options at once, by EM over a normal ability, as Wollack (1997) had it: what errs in a screening of
millions of pairs are those whose ability is misjudged. With an ability that is pulled to the mean (EAP), two very good students
share more right answers than the model expects, and are accused of it. Here θ is the solution of Σ P(right) = number right over
what the student answered: everybody is expected to have exactly as many right as they have, whatever the form of the curves, and
all that is left to chance is which ones. Curves are fitted on that same θ, each item's own answer included: what is wanted is the
chance of an answer given the score, not an unbiased item parameter. A nested logit keeps that equation about right answers apart
from the wrong ones, and the shared wrong answers have a test of their own that depends on the second level only.

Blank is a category of its own, and so is "not presented", and neither has a chance: everything is given what was answered. Whom
time ran out, and who does not guess, leaves out more; two of them share blanks for that and no other reason
(docs/integrity-similarity.md has figures).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = slice | NDArray[np.int64]

BLANK = 0
NOT_PRESENTED = -1

MOST_WRONG = 7
"""So many wrong answers of an item are compared, those given most, and one more if that is the last. Rarer ones, of numbers and
sets of a multiple choice, are left out like blanks: who types anything gives rare numbers, and two of them are alike in that."""

CELLS = 1 << 20
"""Numbers of a matrix of students x columns that is worked on at a time: 8 MiB, however many columns an exam has."""

ROUNDS = 4
STEPS = 25
FAR = 8.0
"""|θ| is at most this, for who has everything right or wrong. Items have a mean slope of 1, so that P(right) is then 0 or 1 in
all but name."""
USUAL = 3.0
"""What goes into the choice among wrong answers is θ within these bounds: beyond are too few wrong answers to fit a slope on."""

SLOPE, SLOPE_PRECISION = 1.0, 4.0
LEAST_SLOPE = 0.05
CHOICE_PRECISION = 4.0
FLAT_PRECISION = 0.01
SHARPNESS_PRECISION = 4.0
"""Normal priors: slopes of "right" and κ around 1 and slopes of wrong options around 0, all with deviation ½ (which 16 answers of
middling difficulty outweigh); intercepts with deviation 10, so that they exist where everybody is right. A slope below 0.05 is
held there, so that Σ P(right) rises, until its item goes without a key."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question, and the codes of its answers that count as right: several after a key was widened; none where none is."""

    question: str
    right: frozenset[int]
    places: Mapping[int, int] = field(default_factory=dict)
    """Of a single choice whose options everybody saw in one order: the place of each code's option, from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The columns of all categories that are compared, item after item; an answer that nobody gave has none, and no chance."""

    item: NDArray[np.int64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    """Not the opposite: an item without a right answer has no wrong ones."""
    starts: NDArray[np.int64]
    """Where each item's columns begin, and the end."""
    picked: NDArray[np.int32]
    """Students x items: the column of the answer given, or -1 for none, or a rare one."""

    @property
    def columns(self) -> int:
        """How many categories there are in all."""
        return len(self.item)

    @property
    def divided(self) -> NDArray[np.bool_]:
        """Say of each column whether its item has right answers and wrong ones; where it has one kind only, that is certain."""
        rights = np.bincount(self.item, self.right, len(self.starts) - 1)
        return ((rights > 0) & (rights < np.diff(self.starts)))[self.item]

    @property
    def onto_items(self) -> Floats:
        """Columns x items: 1 where a column is the item's; a product with it adds up each item's columns."""
        return np.eye(len(self.starts) - 1)[self.item]


def lay_out(items: Sequence[Item], answers: NDArray[np.int16]) -> Layout:
    """Give each category a column, but for rare wrong ones (`MOST_WRONG`)."""
    picked = np.full(answers.shape, -1, np.int32)
    of: list[int] = []
    right: list[bool] = []
    starts = [0]
    for at, item in enumerate(items):
        codes, counts = np.unique(answers[:, at][answers[:, at] > BLANK], return_counts=True)
        ranked = sorted(
            zip(codes.tolist(), counts.tolist(), strict=True), key=lambda pair: (pair[0] not in item.right, -pair[1], pair[0])
        )
        wrong = sum(code not in item.right for code, _ in ranked)
        for code, _ in ranked[: len(ranked) - wrong + (wrong if wrong <= MOST_WRONG + 1 else MOST_WRONG)]:
            picked[answers[:, at] == code, at] = len(of)
            of.append(at)
            right.append(code in item.right)
        starts.append(len(of))
    columns, keys = np.array(of, np.int64), np.array(right, np.bool_)
    has_keys = np.array([bool(one.right) for one in items], np.bool_)
    return Layout(columns, keys, ~keys & has_keys[columns], np.array(starts, np.int64), picked)


def rows_of(layout: Layout) -> int:
    """Return how many students, or pairs, are worked on at a time."""
    return max(1, CELLS // max(1, layout.columns))


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """How likely each item is to be right, by ability: what the model's first level is fitted to."""

    layout: Layout
    ability: Floats
    intercept: Floats
    slope: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What was fitted: abilities, the curves of items (`intercept`, `slope`) and columns (`choice_…`), and the chances by them."""

    layout: Layout
    ability: Floats
    sharpness: Floats
    """How much a student's wrong answers follow what draws the others: 0 is any of them alike, 1 as most."""
    intercept: Floats
    slope: Floats
    choice_intercept: Floats
    choice_slope: Floats
    right: Floats
    """The chance of each student to have each item right: students x items."""
    choices: Floats
    """The chance of each wrong answer if wrong, and of each right one if right: students x columns."""

    def answers(self, rows: Rows) -> Floats:
        """Return the chances of each answer, given that there is one: students x columns, 1 in all for each item."""
        layout = self.layout
        right = self.right[rows][:, layout.item]
        kind: Floats = np.where(layout.divided, np.where(layout.right, right, 1 - right), 1.0)
        return self.choices[rows] * kind


def fit(items: Sequence[Item], answers: NDArray[np.int16]) -> Model:
    """Fit the model: curves and abilities, then the choice among wrong answers."""
    curves = fit_curves(items, answers)
    layout, ability = curves.layout, curves.ability
    intercept, slope = np.zeros(layout.columns), np.zeros(layout.columns)
    usual = np.clip(ability, -USUAL, USUAL)
    for at, (start, end) in enumerate(zip(layout.starts[:-1], layout.starts[1:], strict=True)):
        for kind in (True, False):
            columns = np.flatnonzero(layout.right[start:end] == kind) + start
            if len(columns) > 1:
                intercept[columns], slope[columns] = _choice(usual, layout.picked[:, at], columns)
    sharpness, choices = _choices(layout, usual, (intercept, slope))
    right = logistic(curves.intercept + curves.slope * ability[:, None])
    return Model(layout, ability, sharpness, curves.intercept, curves.slope, intercept, slope, right, choices)


def fit_curves(items: Sequence[Item], answers: NDArray[np.int16]) -> Curves:
    """Fit curves to abilities and abilities to scores, in turns.

    An item whose curve does not rise is taken as one without a right answer: its key is wrong, or all guess. Were it held to
    rise, those who know it would be expected to be wrong as often as others, and in any of the wrong answers, while they all
    give the one that is right after all: among the best quarter, with a fifth of the keys wrong, p by GBT was at most 0.01
    seven times as often as it should be; without those keys half as often.
    """
    curves, falls = _scored(items, answers)
    while falls.any():
        items = [Item(item.question, frozenset()) if fall else item for item, fall in zip(items, falls, strict=True)]
        curves, falls = _scored(items, answers)
    return curves


def _scored(items: Sequence[Item], answers: NDArray[np.int16]) -> tuple[Curves, NDArray[np.bool_]]:
    """Return the curves of right answers with the abilities, and which of the curves are held at the least slope."""
    layout = lay_out(items, answers)
    given = (layout.picked >= 0) & np.array([bool(item.right) for item in items])
    right = given & np.append(layout.right, False)[layout.picked]
    used = given.any(axis=0)
    score, answered = right.sum(axis=1), given.sum(axis=1)
    ability = np.log((score + 0.5) / (answered - score + 0.5))
    curves, falls = (np.zeros(len(items)), np.full(len(items), SLOPE)), np.zeros(len(items), np.bool_)
    for _ in range(ROUNDS):
        curves = _curves(ability, given, right, curves)
        falls = curves[1] < LEAST_SLOPE + 1e-9
        curves = curves[0], curves[1] / (curves[1][used].mean() if used.any() else SLOPE)
        ability = _abilities(curves, given, score)
    return Curves(layout, ability, *curves), falls


def _choices(layout: Layout, ability: Floats, curves: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return how sharp each student's choices are, and the chances of each column among those of its kind and item."""
    sharpness, found = np.ones(len(ability)), np.empty((len(ability), layout.columns))
    step = rows_of(layout)
    for at in range(0, len(ability) if layout.columns else 0, step):
        rows = slice(at, at + step)
        pull = curves[0] + curves[1] * ability[rows, None]
        sharpness[rows] = _sharpness(layout, pull, layout.picked[rows])
        found[rows] = _softmax(layout, pull * np.where(layout.wrong, sharpness[rows, None], 1.0))
    return sharpness, found


def _softmax(layout: Layout, pull: Floats) -> Floats:
    """Return the share of each column in the exponentials of its kind and item."""
    kind = 2 * layout.item + layout.right
    edges = np.flatnonzero(np.diff(kind, prepend=-1))
    raised: Floats = np.exp(pull)
    sums: Floats = np.repeat(np.add.reduceat(raised, edges, axis=1), np.diff(edges, append=layout.columns), axis=1)
    return raised / sums


def _sharpness(layout: Layout, pull: Floats, picked: NDArray[np.int32]) -> Floats:
    """Fit how much each student's wrong answers follow what draws the others, by Newton's method: the logits' factor."""
    wrong = np.append(layout.wrong, False)[picked]
    here = wrong[:, layout.item] & layout.wrong
    drawn = np.where(wrong, np.take_along_axis(pull, np.maximum(picked, 0), axis=1), 0.0).sum(axis=1)
    factor = np.ones(len(pull))
    for _ in range(STEPS):
        p = _softmax(layout, pull * factor[:, None]) * here
        mean = (p * pull) @ layout.onto_items
        to = drawn - mean.sum(axis=1) - SHARPNESS_PRECISION * (factor - 1)
        curvature = (p * pull * pull).sum(axis=1) - (mean * mean).sum(axis=1) + SHARPNESS_PRECISION
        by = np.clip(to / curvature, -0.5, 0.5)
        factor = np.clip(factor + by, 0, 3)
        if np.abs(by).max() < 1e-10:
            break
    return factor


def logistic(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def _curves(
    ability: Floats, given: NDArray[np.bool_], right: NDArray[np.bool_], start: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Fit P(right) of all items at once, by Newton's method; each has a posterior with one peak."""
    intercept, slope = start
    x = np.where(given, ability[:, None], 0.0)
    off: Floats
    for _ in range(STEPS):
        p = np.where(given, logistic(intercept + slope * x), 0.0)
        off, weight = right - p, p * (1 - p)
        to = off.sum(axis=0) - FLAT_PRECISION * intercept, (off * x).sum(axis=0) - SLOPE_PRECISION * (slope - SLOPE)
        flat = weight.sum(axis=0) + FLAT_PRECISION
        mixed = (weight * x).sum(axis=0)
        steep = (weight * x * x).sum(axis=0) + SLOPE_PRECISION
        scale = flat * steep - mixed * mixed
        by = np.array([steep * to[0] - mixed * to[1], flat * to[1] - mixed * to[0]]) / scale
        held = slope + by[1] < LEAST_SLOPE  # there the intercept is fitted alone
        by = np.where(held, [to[0] / flat, LEAST_SLOPE - slope], by)
        by = np.clip(by, -1, 1)
        intercept, slope = intercept + by[0], slope + by[1]
        if np.abs(by).max() < 1e-10:
            break
    return intercept, slope


def _abilities(curves: tuple[Floats, Floats], given: NDArray[np.bool_], score: NDArray[np.int64]) -> Floats:
    """Solve Σ P(right) = number right for each student, by bisection: the sum rises with θ."""
    intercept, slope = curves
    low, high = np.full(len(given), -FAR), np.full(len(given), FAR)
    for _ in range(50):
        middle = (low + high) / 2
        expected = (logistic(intercept + slope * middle[:, None]) * given).sum(axis=1)
        low, high = np.where(expected < score, middle, low), np.where(expected < score, high, middle)
    return np.where(given.any(axis=1), (low + high) / 2, 0.0)


def _choice(ability: Floats, picked: NDArray[np.int32], columns: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Fit which of some columns is picked, by those who picked one of them: a multinomial logit, by Newton's method."""
    who = np.isin(picked, columns)
    one_hot = picked[who, None] == columns
    x = np.stack([np.ones(who.sum()), ability[who]], axis=1)
    options = len(columns)
    prior = np.repeat([FLAT_PRECISION, CHOICE_PRECISION], options)
    found = np.concatenate([np.log(one_hot.mean(axis=0)), np.zeros(options)])
    found[:options] -= found[:options].mean()
    for _ in range(STEPS):
        logits = x @ found.reshape(2, options)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        to = (x.T @ (one_hot - p)).ravel() - prior * found
        curvature = np.diag(prior)
        for a in range(2):
            for b in range(2):
                weight = x[:, a] * x[:, b]
                block = np.diag(weight @ p) - (p * weight[:, None]).T @ p
                curvature[a * options : (a + 1) * options, b * options : (b + 1) * options] += block
        by = np.clip(np.linalg.solve(curvature, to), -1, 1)
        found = found + by
        if np.abs(by).max() < 1e-10:
            break
    return found[:options], found[options:]
