"""Item statistics: how well each question measured what the rest of the exam measures. docs/statistics.md has every formula.

A tally holds exact integer sums and nothing of any student, so that its size does not grow with their number. Floats come in
at the very end, one division and one root from the integers. All variances divide by n: whoever sat is everybody.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from servers.marking import is_blank
from servers.scoring.flags import Flag, flags, suspects
from stores.records import Answer, Key, Sheet


@dataclass(frozen=True, slots=True)
class Item:
    """What a tally needs of a question; `options` in the paper's order, none for a question without; `right` are the keyed ones."""

    question: str
    type: str
    topic: str
    max_points: int
    options: tuple[str, ...]
    right: frozenset[str]
    voided: bool


@dataclass(frozen=True, slots=True)
class OptionStatistics:
    """One row of a distractor table; `share` is of all results. None where nobody, or everybody, picked it."""

    option: str
    is_key: bool
    count: int
    share: float
    mean_rest: float | None
    correlation: float | None
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class ItemStatistics:
    """One question's figures; None where the results have no such figure. A voided question has neither points nor flags."""

    item: Item
    difficulty: float | None
    blank: float
    discrimination: float | None
    alpha_without: float | None
    options: tuple[OptionStatistics, ...]
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class ExamStatistics:
    """The exam's figures, in points, and its questions' in paper order; voided questions are left out of the points."""

    results: int
    max_points: int
    mean: float | None
    deviation: float | None
    alpha: float | None
    error: float | None
    items: tuple[ItemStatistics, ...]


def item(key: Key, options: tuple[str, ...], points_each: int) -> Item:
    """Return what a tally needs of a question, by its newest key; `points_each` is what the marking gives for a right point.

    A single choice has one right option, or several that were accepted after the exam.
    """
    wanted = json.loads(key.answer)
    right: list[str] = []
    if options:
        right = wanted.get("choices") or wanted.get("accept") or [wanted["choice"]]
    void = wanted.get("void") is not None
    return Item(key.question, key.type, key.topic, key.points * points_each, options, frozenset(right), void)


@dataclass(slots=True)
class _Picked:
    """How often an option was picked, and the sum of the rest scores of those who did."""

    count: int = 0
    rest: int = 0


@dataclass(slots=True)
class _Sums:
    """One question's sums over all results: of its points x, of x², of x × the total, and of blank answers."""

    x: int = 0
    xx: int = 0
    xt: int = 0
    blank: int = 0
    picked: dict[str, _Picked] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Whole:
    """How many questions count, the sum of their variances, and the variance of the totals, both × n²: exact integers."""

    questions: int
    spreads: int
    spread: int


@dataclass(frozen=True, slots=True)
class _Rest:
    """The scores without one question: how many, their sum, and n² × their variance."""

    results: int
    sum: int
    spread: int


class Tally:
    """The sums of an exam's results, fed page by page; the order of the results changes nothing."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = tuple(items)
        self._voided = [at for at, one in enumerate(items) if one.voided]
        self._sums = [_Sums(picked={option: _Picked() for option in one.options}) for one in items]
        self.results = 0
        self._t = 0
        self._tt = 0

    def feed(self, page: Sequence[Sheet]) -> None:
        """Add a page of results; raises ValueError for one that has not as many points as the paper has questions.

        Of each question the page is counted by (answer, points) first: two additions for each answer, and the dearer work
        once for each of the few that differ.
        """
        questions = [one.question for one in self._items]
        cells: list[dict[tuple[str | None, int], list[int]]] = [{} for _ in questions]
        for sheet in page:
            total = sum(sheet.points) - sum([sheet.points[at] for at in self._voided])
            given = json.loads(sheet.answers).get
            for question, counted, points in zip(questions, cells, sheet.points, strict=True):
                cell = counted.get(at := (given(question), points))
                if cell is None:
                    counted[at] = [1, total]
                else:
                    cell[0] += 1
                    cell[1] += total
            self._t += total
            self._tt += total * total
        self.results += len(page)
        for one, sums, counted in zip(self._items, self._sums, cells, strict=True):
            for (packed, points), (count, totals) in counted.items():
                _fold(sums, one, packed, points, count, totals)

    def statistics(self) -> ExamStatistics:
        """Return the figures of what was fed so far."""
        n = self.results
        counted = [(one, sums) for one, sums in zip(self._items, self._sums, strict=True) if not one.voided]
        spread = n * self._tt - self._t**2
        spreads = sum(n * sums.xx - sums.x**2 for _, sums in counted)
        whole = _Whole(len(counted), spreads, spread)
        alpha = _alpha(whole)
        deviation = math.sqrt(spread) / n if n else None
        return ExamStatistics(
            results=n,
            max_points=sum(one.max_points for one, _ in counted),
            mean=self._t / n if n else None,
            deviation=deviation,
            alpha=alpha,
            error=None if alpha is None or deviation is None else deviation * math.sqrt(1 - alpha),
            items=tuple(self._item(one, sums, whole) for one, sums in zip(self._items, self._sums, strict=True)),
        )

    def _item(self, one: Item, sums: _Sums, whole: _Whole) -> ItemStatistics:
        """Return a question's figures; as in `_Whole`, variances are multiplied by n²."""
        n, x = self.results, 0 if one.voided else sums.x
        own, shared = (0, 0) if one.voided else (n * sums.xx - x * x, n * sums.xt - x * self._t)
        rest = _Rest(n, self._t - x, whole.spread - 2 * shared + own)
        options = tuple(_option(name, sums.picked[name], rest, is_key=name in one.right) for name in one.options)
        blank = sums.blank / n if n else 0.0
        if one.voided:
            return ItemStatistics(one, None, blank, None, None, options, ())
        difficulty = x / (n * one.max_points) if n and one.max_points else None
        discrimination = correlation(shared - own, own, rest.spread)
        looks_right = suspects(n, options, every_key=one.type == "multiple_choice")
        return ItemStatistics(
            item=one,
            difficulty=difficulty,
            blank=blank,
            discrimination=discrimination,
            alpha_without=_alpha(_Whole(whole.questions - 1, whole.spreads - own, rest.spread)),
            options=tuple(replace(option, suspect=it) for option, it in zip(options, looks_right, strict=True)),
            flags=flags(n, difficulty, discrimination, options, suspect=any(looks_right)),
        )


def correlation(shared: int, left: int, right: int) -> float | None:
    """Return Pearson's correlation of a covariance and two variances in one unit, such as n²; None without variance."""
    if left <= 0 or right <= 0:
        return None
    return max(-1.0, min(1.0, shared / (math.sqrt(left) * math.sqrt(right))))


def _fold(sums: _Sums, one: Item, packed: str | None, points: int, count: int, totals: int) -> None:
    """Add `count` equal answers with the same points, of students whose totals come to `totals`."""
    answer = None if packed is None else Answer.unpacked(packed)
    sums.x += count * points
    sums.xx += count * points * points
    sums.xt += points * totals
    if answer is None or is_blank(answer):
        sums.blank += count
    elif one.options:
        for option in answer.picks:
            picked = sums.picked[option]
            picked.count += count
            picked.rest += totals - (0 if one.voided else count * points)


def _option(name: str, picked: _Picked, rest: _Rest, *, is_key: bool) -> OptionStatistics:
    """Return a row of the distractor table: picking is 1 or 0, and goes with the rest scores, or against them."""
    n, count = rest.results, picked.count
    return OptionStatistics(
        option=name,
        is_key=is_key,
        count=count,
        share=count / n if n else 0.0,
        mean_rest=picked.rest / count if count else None,
        correlation=correlation(n * picked.rest - count * rest.sum, count * (n - count), rest.spread),
    )


def _alpha(whole: _Whole) -> float | None:
    """Return Cronbach's alpha, which is KR-20 where questions earn 0 or 1; None for fewer than two questions, or equal totals."""
    if whole.questions < 2 or whole.spread <= 0:
        return None
    return whole.questions * (whole.spread - whole.spreads) / ((whole.questions - 1) * whole.spread)
