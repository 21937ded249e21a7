"""Rules of a board: what a place looks like to whom."""

from dataclasses import dataclass

from stores.records import Place

WINDOW = 10
"""How many places above and below one's own `around=me` shows, unless it is told."""

TOP = 100
"""How many places a page has, unless it is told."""

WATCHED_TOP = 10
"""How many places a watched board shows, unless it is told."""


@dataclass(frozen=True, slots=True)
class Which:
    """A board as it is asked for: of an exam, or of a series that it belongs to; of all, or of one cohort."""

    exam: str
    series: str
    cohort: str


@dataclass(frozen=True, slots=True)
class Sight:
    """What may be seen of a board now: its name, how it breaks ties, whether it is hidden from all but staff, whether it may be
    seen without a token, and whether it shows an earlier moment."""

    board: str
    tie_break: str
    hidden: bool
    public: bool
    frozen: bool


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
