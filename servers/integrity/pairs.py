"""Pairs of students: which are compared, what they have in common, and how likely each item was to match. In double precision;
the screening of millions is in screen.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from servers.integrity.responses import Floats, Item, Model, rows_of
from servers.integrity.tails import upper_tail

Ids = NDArray[np.int64]

BLOCK = 1_024


class Index(StrEnum):
    """What is counted: see similarity.py."""

    OMEGA = "omega"
    GBT = "gbt"
    SHARED_WRONG = "shared_wrong"


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """A way to be near each other, such as a room: a number for each student; who shares one is compared. -1: with nobody."""

    name: str
    of: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """What was answered: students x items, a code for each answer, the same whatever order a student saw the options in.

    `BLANK` is 0, `NOT_PRESENTED` -1; any other number is an answer: an option, or a set of options, or a number. `shown` is
    students x items too: which item each student was shown at each place. None: all as they stand in the paper.
    """

    students: tuple[str, ...]
    items: tuple[Item, ...]
    answers: NDArray[np.int16]
    groupings: tuple[Grouping, ...] = ()
    shown: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError("an exam has items")
        if self.answers.shape != (len(self.students), len(self.items)):
            raise ValueError(f"{len(self.students)} students x {len(self.items)} items, but answers are {self.answers.shape}")
        if any(one.of.shape != (len(self.students),) for one in self.groupings):
            raise ValueError("a grouping has a number for each student")
        if self.shown is not None and self.shown.shape != self.answers.shape:
            raise ValueError("each student was shown each item")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some students beside some others; `tested` says which of these pairs are compared, each of them in one block only."""

    rows: Ids
    columns: Ids
    tested: NDArray[np.bool_]


def blocks(exam: Exam, *, everybody: bool, size: int = BLOCK) -> Iterator[Block]:
    """Yield all pairs of students who share a group of any grouping, or of all students."""
    groupings = (Grouping("", np.zeros(len(exam.students), np.int32)),) if everybody else exam.groupings
    for at, grouping in enumerate(groupings):
        order = np.argsort(grouping.of, kind="stable")
        codes, starts = np.unique(grouping.of[order], return_index=True)
        for code, start, end in zip(codes, starts, np.append(starts[1:], len(order)), strict=False):
            members = order[start:end]
            if code < 0 or len(members) < 2:
                continue
            for top in range(0, len(members), size):
                for left in range(top, len(members), size):
                    rows, columns = members[top : top + size], members[left : left + size]
                    tested = rows[:, None] < columns if top == left else np.ones((len(rows), len(columns)), np.bool_)
                    for earlier in groupings[:at]:  # where they share an earlier group, that has had them
                        mine = earlier.of[rows, None]
                        tested &= (mine != earlier.of[columns]) | (mine < 0)
                    yield Block(rows, columns, tested)


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Of some pairs: how many items matched, and the chance of each, 0 where the two are not compared."""

    matches: Ids
    chances: Floats
    compared: Ids

    @property
    def value(self) -> Floats:
        """How many deviations the matches are above what is expected."""
        mean = self.chances.sum(axis=1)
        variance = (self.chances * (1 - self.chances)).sum(axis=1)
        value: Floats = np.divide(self.matches - mean, np.sqrt(variance), out=np.zeros(len(mean)), where=variance > 0)
        return value

    @property
    def p(self) -> Floats:
        """The chance of at least so many."""
        return upper_tail(self.chances, self.matches)


def omega(model: Model, copiers: Ids, sources: Ids) -> Matches:
    """Compare answers with a source's, which are given: an item's chance is the copier's of that very answer."""
    mine, given = model.layout.picked[copiers], model.layout.picked[sources]
    both = (mine >= 0) & (given >= 0)
    chances = np.take_along_axis(np.pad(model.answers(copiers), ((0, 0), (0, 1))), given, axis=1)
    return Matches((both & (mine == given)).sum(axis=1), np.where(both, chances, 0.0), both.sum(axis=1))


def gbt(model: Model, first: Ids, second: Ids) -> Matches:
    """Compare two students' answers, neither of which is given."""
    one, other = model.layout.picked[first], model.layout.picked[second]
    both = (one >= 0) & (other >= 0)
    chances = (model.answers(first) * model.answers(second)) @ model.layout.onto_items
    return Matches((both & (one == other)).sum(axis=1), np.where(both, chances, 0.0), both.sum(axis=1))


def shared_wrong(model: Model, first: Ids, second: Ids) -> Matches:
    """Compare the wrong answers of two students where both are wrong."""
    layout = model.layout
    one, other = layout.picked[first], layout.picked[second]
    wrong = np.append(layout.wrong, False)
    both = wrong[one] & wrong[other]
    chances = (model.choices[first] * model.choices[second] * layout.wrong) @ layout.onto_items
    return Matches((both & (one == other)).sum(axis=1), np.where(both, chances, 0.0), both.sum(axis=1))


def p_values(model: Model, index: Index, first: Ids, second: Ids) -> Floats:
    """Return each pair's p, exactly; ω's is twice the smaller of both directions'."""
    found, step = np.empty(len(first)), rows_of(model.layout)
    for at in range(0, len(first), step):
        a, b = first[at : at + step], second[at : at + step]
        match index:
            case Index.OMEGA:
                p = np.minimum(1.0, 2 * np.minimum(omega(model, a, b).p, omega(model, b, a).p))
            case Index.GBT:
                p = gbt(model, a, b).p
            case Index.SHARED_WRONG:
                p = shared_wrong(model, a, b).p
        found[at : at + step] = p
    return found
