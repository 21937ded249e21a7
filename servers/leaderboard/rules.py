"""Rules of a board: what a place looks like to whom."""

from dataclasses import dataclass

from stores.records import Place

WINDOW = 10
"""How many places above and below one's own `around=me` shows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A place as one viewer sees it; `student` is None unless the viewer is staff."""

    rank: int
    points: int
    alias: str
    student: str | None
    me: bool


def seen(place: Place, points: int, viewer: str, *, staff: bool) -> Seen:
    """Return what a viewer sees of a place: aliases for all, ids for staff only."""
    return Seen(place.rank, points, place.alias, place.student if staff else None, place.student == viewer)
