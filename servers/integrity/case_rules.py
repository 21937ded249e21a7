"""How a case goes on. People make every step; this only says which there are."""

from collections.abc import Mapping, Sequence

from stores.case_records import CaseState

STEPS: Mapping[CaseState, frozenset[CaseState]] = {
    CaseState.OPEN: frozenset({CaseState.REVIEWED}),
    CaseState.REVIEWED: frozenset({CaseState.DISMISSED, CaseState.CONFIRMED}),
    CaseState.DISMISSED: frozenset({CaseState.APPEALED}),
    CaseState.CONFIRMED: frozenset({CaseState.APPEALED}),
    CaseState.APPEALED: frozenset({CaseState.DISMISSED, CaseState.CONFIRMED}),
}
"""Nobody decides on what nobody has reviewed, and every decision may be appealed, by whomever it went against."""

CLOSE_MS = 30_000
"""Two answers within so long of each other are close in time."""


def leading_to(state: CaseState) -> Sequence[CaseState]:
    """Return the states from which a case may come to this one."""
    return [before for before, after in STEPS.items() if state in after]


def close_in_time(
    one: Mapping[str, str], other: Mapping[str, str], one_at: Mapping[str, int], other_at: Mapping[str, int]
) -> tuple[int, int, int, int]:
    """Return of what two students' answers mean (by question) and their times in ms: how many are the same and how many of those
    close in time, and both numbers of those that differ, which say how close these two are anyway."""
    same = same_close = differ = differ_close = 0
    for question, answer in one.items():
        if question not in other or question not in one_at or question not in other_at:
            continue
        close = abs(one_at[question] - other_at[question]) <= CLOSE_MS
        if other[question] == answer:
            same, same_close = same + 1, same_close + close
        else:
            differ, differ_close = differ + 1, differ_close + close
    return same, same_close, differ, differ_close
