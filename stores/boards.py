"""Boards: one zset per exam and per cohort, ordered by one number that holds points and tie-break.

Boards are an index of `standing` and can be built again from it at any time. A board is complete only while it holds
its sentinel `!`, which is no legal student id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import cast

from prometheus_client import Counter
from redis.asyncio import Redis

from stores.pipeline import Functions
from stores.records import Place, Rank, Standing
from stores.standings import Standings

TIE_BITS = {"NONE": 0, "DURATION": 27, "SUBMITTED_AT": 35}
"""How many of the 53 bits that a double holds exactly the tie-break takes; points get the others.

DURATION counts milliseconds (37 hours), SUBMITTED_AT milliseconds since the exam was imported (13 months).
The same rule stands in `standings.py` as SQL; a test compares the two.
"""


def order_key(points: int, tiebreak: int, policy: str) -> int:
    """Pack points and tie-break so that a larger number is a better place; a smaller tie-break is better."""
    bits = TIE_BITS[policy]
    worst = (1 << bits) - 1
    return (points << bits) + worst - min(max(tiebreak, 0), worst)


def points_of(key: int, policy: str) -> int:
    """Read the points back; right for negative points too, since the shift rounds down."""
    return key >> TIE_BITS[policy]


REBUILT = Counter("finalbell_board_rebuilds_total", "Times that an exam's boards were built again")
REBUILD_TRIES = 5
REBUILD_ALONE_MS = 60_000


@dataclass(frozen=True, slots=True)
class BoardPage:
    """One moment of one board; `ready` False: it has to be rebuilt, and nothing else counts."""

    ready: bool
    total: int
    top: tuple[Place, ...]
    me: Place | None
    around: tuple[Place, ...]


class Boards:
    """The boards of all exams."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._functions = Functions(redis, queue="boards")

    async def place(self, standings: Sequence[Standing]) -> set[str]:
        """Put students where their standings say, if newer; returns the exams whose board has to be rebuilt."""
        replies = await self._functions.call_all([_placing(standing) for standing in standings])
        incomplete = set()
        for standing, reply in zip(standings, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            if reply == 0:
                incomplete.add(standing.exam)
        return incomplete

    async def page(self, exam: str, cohort: str | None, *, top: int, student: str | None, window: int) -> BoardPage:
        """Return the top of a board, a student's place and `window` places above and below it, all of one moment."""
        places = [board_key(exam, cohort), names_key(exam)]
        reply = cast(list[object], await self._functions.call("page", places, top, student or "", window))
        ready, total, rows, me, around = reply
        return BoardPage(bool(ready), cast(int, total), _places(rows), _places([me])[0] if me else None, _places(around))

    async def rank(self, exam: str, student: str, policy: str) -> Rank | None:
        """Return where a student stands in the exam; None without a place, or while the board is incomplete."""
        found = cast(list[int], await self._functions.call("rank", [board_key(exam, None)], student, 1 << TIE_BITS[policy]))
        if not found:
            return None
        rank, fewer, as_many, students = found
        return Rank(rank, 100 * (fewer + as_many / 2) / students)

    async def rebuild(self, exam: str, standings: Standings, more_cohorts: Sequence[str] = ()) -> tuple[int, int] | None:
        """Build an exam's boards again from its standings while scoring goes on; returns students and boards.

        Scoring places through the same function and the newer standing wins. None: another rebuild is going on. A board
        that is deleted meanwhile makes it begin again; after five times it gives up with TimeoutError. `more_cohorts`
        get a board though it is empty.
        """
        for _ in range(REBUILD_TRIES):
            token, students = token_hex(8), 0
            cohorts = sorted({*more_cohorts, *await standings.cohorts(exam)})
            boards = [board_key(exam, None), *(board_key(exam, cohort) for cohort in cohorts)]
            opening = [rebuild_key(exam), versions_key(exam), names_key(exam), *boards]
            if await self._functions.call("reopen", opening, token, REBUILD_ALONE_MS) == 0:
                return None
            async for page in standings.all(exam):
                await self.place(page)
                students += sum(standing.order_key is not None for standing in page)
            if await self._functions.call("seal", [rebuild_key(exam), *boards], token) == 1:
                REBUILT.inc()
                return students, len(boards)
        raise TimeoutError(f"the boards of {exam} were deleted {REBUILD_TRIES} times while they were rebuilt")

    async def drop(self, exam: str, cohorts: Sequence[str]) -> None:
        """Forget the boards of an exam that is no more."""
        boards = [board_key(exam, cohort) for cohort in (None, *cohorts)]
        await self._redis.delete(*boards, versions_key(exam), names_key(exam), rebuild_key(exam))

    async def entries(self, exam: str, cohort: str | None) -> tuple[bool, dict[str, int]]:
        """Return whether a board is complete, and all its order keys by student; for verification."""
        rows = cast(list[tuple[bytes, float]], await self._redis.zrange(board_key(exam, cohort), 0, -1, withscores=True))
        found = {member.decode(): score for member, score in rows}
        return "!" in found, {student: int(score) for student, score in found.items() if not student.startswith("!")}


def board_key(exam: str, cohort: str | None) -> str:
    """Return the key of a board; the exam is the hash tag, so that its boards share a slot."""
    return f"lb:{{{exam}}}" if cohort is None else f"lb:{{{exam}}}:c:{cohort}"


def versions_key(exam: str) -> str:
    """Return the key of the standing versions that the boards have."""
    return f"lbver:{{{exam}}}"


def names_key(exam: str) -> str:
    """Return the key of the aliases."""
    return f"lbname:{{{exam}}}"


def rebuild_key(exam: str) -> str:
    """Return the key that keeps two rebuilds of one exam apart."""
    return f"lb:{{{exam}}}:rebuild"


def _placing(standing: Standing) -> tuple[str, list[str], list[str | bytes | int]]:
    boards = [board_key(standing.exam, None), *(board_key(standing.exam, cohort) for cohort in standing.cohorts)]
    key = "" if standing.order_key is None else standing.order_key
    return (
        "place",
        [versions_key(standing.exam), names_key(standing.exam), *boards],
        [standing.student, standing.version, key, standing.alias],
    )


def _places(rows: object) -> tuple[Place, ...]:
    return tuple(
        Place(rank=int(rank), student=student.decode(), alias=alias.decode(), order_key=int(float(key)))
        for rank, student, key, alias in cast(list[tuple[int, bytes, bytes, bytes]], rows)
    )
