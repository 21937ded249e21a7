"""Who runs out of time and ticks anything: from which place on, so that those answers are left out like blanks.

One ability for a whole paper is too low for the beginning of who did so, and too high for the end. Where three tenths of a class
did in a paper of 200 items, p was at most 0.001 half as often again as it should be, and most exams had a pair flagged; without
those answers it is a third as often as it should be (docs/integrity-similarity.md).

A hybrid model (Yamamoto, TOEFL Technical Report 10, 1995): up to some place, in the order in which the student was shown the items,
right answers follow the curves; from there on they are luck. Each place is tried, with the ability that explains best what comes
before it. Who knows less at the end than at the beginning, and still knows something, needs no such place: where three tenths of a
class were two deviations weaker at the end, p was as rare as ever. Nor does who guesses throughout.

Who ticks one letter to the end is seen by that, where all saw the options in one order: where a tenth of a class did so in a paper
of 60 items, two of them who knew little were flagged in three exams of four.
"""

import numpy as np
from numpy.typing import NDArray

from servers.integrity.pairs import Exam, Ids
from servers.integrity.responses import BLANK, CELLS, NOT_PRESENTED, Curves, Floats, Model, fit, fit_curves, logistic

LOOKS = 2
"""The first is with curves that were fitted on luck too."""

LEAST_GAIN = 4.0
"""In ln(likelihood), over knowing something to the end and over knowing nothing from the beginning. Of students who had time enough
1 to 2% seem to have run out of it (with 3 in place of 4: 2 to 4%); the more is asked, the more of those who did are missed."""

ABILITIES = np.linspace(-4, 4, 33)
SPREAD = 2.0
"""Of abilities before the place: a normal prior, so that three right answers are not the best of all students."""

RUN_CHANCE = 1e-4
"""The same letter to the end is no accident where it is as unlikely as that, both by luck and by how many of the class gave each of
these answers: seven times in a row where four options are equally popular."""


def fit_unrushed(exam: Exam) -> tuple[Model, Ids]:
    """Fit the model without answers that were ticked in a rush, and return it with the place from which on each student's were: the
    number of items for who did not."""
    starts = runs = _runs(exam)
    for _ in range(LOOKS):
        before = starts
        starts = np.minimum(runs, _starts(exam, fit_curves(exam.items, _without(exam, before))))
        if (starts == before).all():
            break
    return fit(exam.items, _without(exam, starts)), starts


def _runs(exam: Exam) -> Ids:
    """Return the place from which on each student ticked one letter to the end; blanks, and questions without, are passed over."""
    students, items = exam.answers.shape
    if not any(item.places for item in exam.items):
        return np.full(students, items)
    letters, rare = np.full((students, items), -1, np.int8), np.zeros((students, items), np.float32)
    for at, item in enumerate(exam.items):
        answers = exam.answers[:, at]
        for code, place in item.places.items():
            who = answers == code
            letters[who, at] = min(place, 100)
            rare[who, at] = -np.log(max(1 / len(item.places), who.sum() / max(1, (answers > BLANK).sum())))
    if exam.shown is not None:
        order = exam.shown.astype(np.int64)
        letters, rare = np.take_along_axis(letters, order, axis=1), np.take_along_axis(rare, order, axis=1)
    lettered = letters >= 0
    last = np.take_along_axis(letters, items - 1 - lettered[:, ::-1].argmax(axis=1)[:, None], axis=1)
    others = lettered & (letters != last)
    starts: Ids = np.where(others.any(axis=1), items - others[:, ::-1].argmax(axis=1), 0)
    run = (rare * (np.arange(items) >= starts[:, None])).sum(axis=1)
    starts[run < -np.log(RUN_CHANCE)] = items
    return starts


def _without(exam: Exam, starts: Ids) -> NDArray[np.int16]:
    """Return the answers but for those from some place on."""
    answers = exam.answers.copy()
    rushed = np.flatnonzero(starts < answers.shape[1])
    places = np.arange(answers.shape[1]) if exam.shown is None else np.argsort(exam.shown[rushed], axis=1)
    answers[rushed] = np.where(places >= starts[rushed, None], np.int16(NOT_PRESENTED), answers[rushed])
    return answers


def _starts(exam: Exam, curves: Curves) -> Ids:
    """Return the place from which on each student's right answers are luck, by curves that are given."""
    students, items = exam.answers.shape
    right = np.stack([np.isin(exam.answers[:, at], list(item.right)) for at, item in enumerate(exam.items)], axis=1)
    keyed = np.bincount(curves.layout.item, curves.layout.right, items) > 0
    lucky = np.array([1 / max(2, len(np.unique(exam.answers[exam.answers[:, at] > BLANK, at]))) for at in range(items)])
    known = logistic(curves.intercept + curves.slope * ABILITIES[:, None])
    chances = np.clip(np.concatenate([known, lucky[None]]), 1e-6, 1 - 1e-6)
    logs = np.log(chances), np.log(1 - chances)
    found = np.empty(students, np.int64)
    step = max(1, CELLS // items)
    for at in range(0, students, step):
        rows = slice(at, at + step)
        asked = (exam.answers[rows] > BLANK) & keyed
        order = None if exam.shown is None else exam.shown[rows].astype(np.int64)
        found[rows] = _best(right[rows], asked, order, logs)
    return found


def _best(right: NDArray[np.bool_], asked: NDArray[np.bool_], order: Ids | None, logs: tuple[Floats, Floats]) -> Ids:
    """Return the place of some students; the last row of `logs` is luck, those before it are abilities."""

    def summed(row: int) -> Floats:
        """Add up the likelihood of all before each place, and of all."""
        each = np.where(asked, np.where(right, logs[0][row], logs[1][row]), 0.0)
        each = each if order is None else np.take_along_axis(each, order, axis=1)
        return np.pad(np.cumsum(each, axis=1), ((0, 0), (1, 0)))

    known = np.full((len(right), right.shape[1] + 1), -np.inf)
    for row, ability in enumerate(ABILITIES):
        np.maximum(known, summed(row) - (ability / SPREAD) ** 2 / 2, out=known)
    luck = summed(-1)
    likelihood = known + luck[:, -1:] - luck
    start: Ids = likelihood.argmax(axis=1)
    gain = likelihood.max(axis=1) - np.maximum(likelihood[:, 0], likelihood[:, -1])
    start[gain <= LEAST_GAIN] = right.shape[1]
    return start
