"""Changes: what a regrade changes, or would change, counted; and the ranks before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from stores.boards import order_key
from stores.records import Attempt, Result

EXAMPLES = 20
Worth = tuple[int, bool]
"""What a session would be worth: its score, and whether it would wait for a grader."""


@dataclass(slots=True)
class Changes:
    """What a run changes, or would change: what `regrade.report` holds."""

    changed: int = 0
    raised: int = 0
    lowered: int = 0
    gain: int = 0
    loss: int = 0
    total: int = 0
    ranks: int = 0
    places: int = 0
    examples: list[dict[str, object]] = field(default_factory=list)

    def count(self, before: Result, after: Result) -> None:
        """Count one result."""
        difference = after.score - before.score
        self.changed += difference != 0
        self.raised += difference > 0
        self.lowered += difference < 0
        self.gain, self.loss = max(self.gain, difference), max(self.loss, -difference)
        self.total += difference

    def show(self, before: Result, after: Result) -> None:
        """Keep one result as an example, if its score moves more than the others'."""
        if after.score == before.score:
            return
        example = {"session": str(before.session), "student": before.student, "before": before.score, "after": after.score}
        self.examples = sorted([*self.examples, example], key=_size, reverse=True)[:EXAMPLES]

    def plain(self) -> dict[str, object]:
        """Return it as JSON's values."""
        return {name: getattr(self, name) for name in self.__slots__}


def ranks_before_and_after(
    attempts: Sequence[Attempt], worth: Mapping[UUID, Worth], policy: str
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return everybody's competition rank as it is, and as it would be with `worth` in the place of what results have."""
    before, after = dict[str, int](), dict[str, int]()
    for attempt in attempts:
        score, partial = worth.get(attempt.session, (attempt.score, attempt.partial))
        if not attempt.partial:
            key = order_key(attempt.score, attempt.tiebreak, policy)
            before[attempt.student] = max(before.get(attempt.student, key), key)
        if not partial:
            key = order_key(score, attempt.tiebreak, policy)
            after[attempt.student] = max(after.get(attempt.student, key), key)
    return _ranks(before), _ranks(after)


def _ranks(keys: Mapping[str, int]) -> Mapping[str, int]:
    ranks, rank, last = dict[str, int](), 0, None
    for place, (student, key) in enumerate(sorted(keys.items(), key=lambda item: item[1], reverse=True), 1):
        rank = rank if key == last else place
        ranks[student], last = rank, key
    return ranks


def _size(example: Mapping[str, object]) -> int:
    return abs(int(str(example["after"])) - int(str(example["before"])))
