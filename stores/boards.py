"""Boards: one zset for all and one per cohort, ordered by one number that holds points and tie-break.

A board belongs to an exam, or to a series of exams. It is an index of standings and can be built again from them at any time;
`functions/_prelude.lua` says what is where in Redis. Past a set size a board may rank approximately: then it keeps only the
best in its zset, and counts all others in bands.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from secrets import token_hex
from time import time_ns
from typing import TypeVar, cast

import redis.exceptions
from prometheus_client import Counter
from redis.asyncio import Redis

from stores.histogram import Histogram
from stores.pipeline import Functions, Overloaded
from stores.records import Place, Rank, Standing

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


def band_points(highest: int) -> int:
    """Return how many scores share a band of a board's counts: one, unless there may be more scores than are worth counting."""
    return 1 << max(0, (2 * highest // MOST_BANDS).bit_length())


MOST_BANDS = 4_096
REBUILT = Counter("finalbell_board_rebuilds_total", "Times that a board was built again")
REBUILD_TRIES = 5
Answer = TypeVar("Answer")
REBUILD_ALONE_MS = 10_000
"""How long a build keeps others away after its last sign of life."""

WAITS_SECONDS = (0.2, 0.5, 1.0, 2.0)
TOGETHER = 25
CALLS_TOGETHER = 2
"""How many students one call places, and how many calls share a round trip: Redis does nothing else meanwhile, for two milliseconds
on a board of a million; who asks for a rank waits no longer than that."""

KEPT = 2_000
"""How many of the best an approximate board keeps in order; 1,000 of them are shown (the most that one page has)."""

LARGE = 350
"""From how many rows in all a page is large: smaller ones are read at once, large ones one after the other. A thousand rows take
Redis some milliseconds, and saves wait meanwhile."""

LONGEST_LINE = 64
"""How many large pages may be asked for at a time: the gateway lets more calls wait, so that others have room."""

SCANNED = 5_000
EXACT_BANDS, APPROXIMATE = 1, 2
"""The kinds of board in what Redis answers: all in a band share a rank; ranks are approximate."""


BANDS = 1_024
"""In how many bands an approximate board counts; with as many students in each, a rank is off by a 2,048th of all at most."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a board is built from: how it breaks ties, the highest score there may be, all its standings in pages, its cohorts, and,
    where it has to rank approximately, the bounds of so many bands with about as many students in each (none where one band for
    each score will do); None: it ranks exactly."""

    name: str
    tie_break: str
    highest: int
    all: Callable[[], AsyncIterator[Sequence[Standing]]]
    cohorts: Callable[[], Awaitable[Sequence[str]]]
    bounds: Callable[[int], Awaitable[Sequence[int] | None]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A row that a page begins below, or ends above (`up`): its order key, how many rows with the same key come before it, and a
    digest of its student that tells nobody who that is."""

    up: bool
    order_key: int
    offset: int
    digest: str


@dataclass(frozen=True, slots=True)
class BoardPage:
    """One moment of one board; `ready` False: it has to be built again, and nothing else counts.

    `me` is the student's own place, `error` by how many places its rank may be off, either way.
    `above` and `below` are where the pages beside this one are.
    """

    ready: bool
    total: int = 0
    rows: tuple[Place, ...] = ()
    me: Place | None = None
    percentile: float | None = None
    error: int = 0
    around: tuple[Place, ...] = ()
    above: Cursor | None = None
    below: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What everybody who watches a board is sent; `changes` names this state of it."""

    changes: str
    total: int
    rows: tuple[Place, ...]
    approximate: bool
    exact_bands: bool
    """Whether all in a band of the histogram share a rank."""

    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Entry:
    """What a board has of one student."""

    order_key: int
    alias: str
    cohorts: tuple[str, ...]


class Boards:
    """The boards of all exams and series, by name: an exam's id, or a series' `board`."""

    def __init__(self, client: Redis) -> None:
        self._redis = client
        self._functions = Functions(client, queue="boards")
        self._large = asyncio.Semaphore()
        self._in_line = 0

    async def place(self, standings: Sequence[Standing]) -> set[str]:
        """Put students where their standings say, if newer; returns the boards that have to be built again."""
        stale: set[str] = set()
        by_board: dict[str, list[Standing]] = {}
        for standing in standings:
            by_board.setdefault(standing.exam, []).append(standing)
        calls = [
            (board, some[at : at + TOGETHER], frozenset[str]())
            for board, some in by_board.items()
            for at in range(0, len(some), TOGETHER)
        ]
        while calls:
            now, calls = calls[:CALLS_TOGETHER], calls[CALLS_TOGETHER:]
            replies = await self._functions.call_all([_placing(*call) for call in now])
            for (board, some, cohorts), reply in zip(now, replies, strict=True):
                if isinstance(reply, Exception):
                    raise reply
                complete, *former = cast(list[object], reply)
                if not complete:
                    stale.add(board)
                if former:  # some were in these cohorts before, whose boards have to be at hand too
                    calls.append((board, some, cohorts | {cast(bytes, cohort).decode() for cohort in former}))
        return stale

    async def page(
        self, board: str, cohort: str | None, *, top: int, student: str | None, window: int, cursor: Cursor | None = None
    ) -> BoardPage:
        """Return a page of a board, a student's place and `window` places above and below it, all of one moment. Overloaded: too
        many large pages are asked for."""
        after = ("up" if cursor.up else "down", cursor.order_key, cursor.offset, cursor.digest) if cursor else ("",)
        async with self._turn(top + 2 * window):
            reply = await self._functions.call("page", _reading(board, cohort), top, student or "", window, *after)
        ready, total, rows, me, behind, around, kind, counts, above, below = cast(list[object], reply)
        histogram = _histogram(counts, kind) if cast(int, kind) & APPROXIMATE else None
        own, percentile, error = _places([me])[0] if me else None, None, 0
        if own is not None and histogram is not None:
            percentile = histogram.percentile(own.order_key)
            if own.rank == 0:
                rank, error = histogram.rank(own.order_key)
                own = replace(own, rank=rank)
        elif behind:
            percentile = _percentile(*cast(list[int], behind))
        return BoardPage(
            ready=bool(ready),
            total=cast(int, total),
            rows=_places(rows),
            me=own,
            percentile=percentile,
            error=error,
            around=_places(around),
            above=_cursor(above, up=True),
            below=_cursor(below, up=False),
        )

    @asynccontextmanager
    async def _turn(self, rows: int) -> AsyncIterator[None]:
        """Wait until so many rows may be read."""
        if rows < LARGE:
            yield
            return
        if self._in_line >= LONGEST_LINE:
            raise Overloaded
        self._in_line += 1
        try:
            async with self._large:
                yield
        finally:
            self._in_line -= 1

    async def rank(self, board: str, student: str) -> Rank | None:
        """Return where a student stands; None without a place, or while the board is incomplete."""
        found = cast(list[object], await self._functions.call("rank", _reading(board, None), student))
        if not found:
            return None
        if isinstance(found[0], bytes):
            key, histogram = int(found[0]), _histogram(found[2], found[1])
            rank, error = histogram.rank(key)
            return Rank(rank, histogram.percentile(key), error)
        rank, *behind = cast(list[int], found)
        return Rank(rank, _percentile(*behind))

    async def frame(self, board: str, cohort: str | None, changes: str, rows: int) -> Frame | bool:
        """Return a board's top and counts; True when nothing has changed since `changes`, False while it is incomplete."""
        found, *rest = cast(list[object], await self._functions.call("frame", _reading(board, cohort), changes, rows))
        if not rest:
            return bool(found)
        now, total, places, kind, counts = rest
        approximate, exact = bool(cast(int, kind) & APPROXIMATE), bool(cast(int, kind) & EXACT_BANDS)
        return Frame(cast(bytes, now).decode(), cast(int, total), _places(places), approximate, exact, _histogram(counts, kind))

    async def histogram(self, board: str, cohort: str | None) -> Histogram | None:
        """Return how many students a board counts in which band; None while it is incomplete."""
        frame = await self.frame(board, cohort, "", 0)
        return frame.histogram if isinstance(frame, Frame) else None

    async def several(self, board: str, students: Sequence[str]) -> Sequence[Entry | None] | None:
        """Return what a board has of each student, None for those without a place; None for all while it is being built. At most
        some hundred at a time."""
        state, *found = cast(list[bytes | None], await self._redis.hmget(entries_key(board), ["!", *students]))
        return [_entry(entry) if entry else None for entry in found] if state == b"ready" else None

    async def ranks(self, board: str, cohort: str | None, keys: Sequence[int]) -> Sequence[int] | None:
        """Return the ranks of some order keys, at most some hundred at a time; None while the board is incomplete."""
        return cast(list[int] | None, await self._functions.call("ranks", _reading(board, cohort), *keys))

    async def rebuild(self, source: Source, more_cohorts: Sequence[str] = ()) -> tuple[int, int] | None:
        """Build a board again while scoring goes on; returns students and boards. None: another build is going on.

        Scoring places through the same function and the newer standing wins. A board that is deleted meanwhile makes it begin
        again; after five times it gives up with TimeoutError. `more_cohorts` get a board though it is empty.
        """
        name = source.name
        for _ in range(REBUILD_TRIES):
            token = token_hex(8)
            if not await self._redis.set(rebuild_key(name), token, nx=True, px=REBUILD_ALONE_MS):
                return None
            try:
                built = await self._build(source, token, more_cohorts)
            except BaseException:
                with suppress(redis.exceptions.RedisError, OSError, TimeoutError):
                    await self._give_up(name, token)
                raise
            if built is not None:
                REBUILT.inc()
                return built
        raise TimeoutError(f"the board of {name} was deleted {REBUILD_TRIES} times while it was built")

    async def _build(self, source: Source, token: str, more_cohorts: Sequence[str]) -> tuple[int, int] | None:
        """Build a board once; None: a part of it was deleted meanwhile, or another build has taken over."""
        name, students, bounds = source.name, 0, await source.bounds(BANDS)
        cohorts = sorted({*more_cohorts, *await source.cohorts()})
        boards = [key for cohort in (None, *cohorts) for key in (board_key(name, cohort), counts_key(name, cohort))]
        opening = [rebuild_key(name), entries_key(name), bands_key(name), *boards]
        points = 1 << TIE_BITS[source.tie_break]
        width = 0 if bounds else points * band_points(source.highest)
        kept = "" if bounds is None else KEPT
        if not await self._functions.call("reopen", opening, token, points, width, kept, *(bounds or ())):
            return None
        async for page in source.all():
            await at_last(lambda page=page: self.place(page))  # type: ignore[misc]
            await at_last(lambda: self._redis.pexpire(rebuild_key(name), REBUILD_ALONE_MS))
            students += sum(standing.order_key is not None for standing in page)
        sealing, first = [rebuild_key(name), entries_key(name), *boards], time_ns() // 1_000_000
        if not await at_last(lambda: self._functions.call("seal", sealing, token, first, students)):
            return None
        return students, len(cohorts) + 1

    async def _give_up(self, board: str, token: str) -> None:
        """Let others build a board at once."""
        if await self._redis.get(rebuild_key(board)) == token.encode():
            await self._redis.delete(rebuild_key(board))

    async def outgrown(self, board: str, approximate_from: int) -> bool:
        """Return whether a board has grown so much that it should be built in another way: past the size from which it ranks
        approximately, or to twice what its bands were made for."""
        kept, students = cast(list[bytes | None], await self._redis.hmget(entries_key(board), ["!kept", "!students"]))
        if kept is None:
            return await self._redis.zcount(board_key(board, None), "(-inf", "+inf") > approximate_from
        histogram = await self.histogram(board, None)
        return histogram is not None and students is not None and histogram.total > 2 * int(students)

    async def supersede(self, series: str, board: str) -> str | None:
        """Note which board of a series counts now, and return the one that did before, unless it is the same."""
        before = cast(bytes | None, await self._redis.set(board_key(series, None), board, get=True))
        return before.decode() if before is not None and before.decode() != board else None

    async def drop(self, board: str) -> None:
        """Forget a board that is no more, and its cohorts'."""
        found, cursor = set[str](), 0
        while True:
            cursor, some = await self._redis.hscan(entries_key(board), cursor, match="!c:*", count=SCANNED)
            found |= {field.decode().removeprefix("!c:") for field in cast(dict[bytes, bytes], some)}
            if not cursor:
                break
        boards = [key for cohort in (None, *found) for key in (board_key(board, cohort), counts_key(board, cohort))]
        await self._redis.unlink(*boards, entries_key(board), bands_key(board), rebuild_key(board))

    async def entries(self, board: str, cohort: str | None) -> dict[str, int]:
        """Return the order keys of all whom a board keeps in order, by student; read in pieces, so that Redis serves others too:
        who moves meanwhile may be missing."""
        found: dict[str, int] = {}
        cursor = 0
        while True:
            cursor, some = await self._redis.zscan(board_key(board, cohort), cursor, count=SCANNED)
            pairs = cast(list[tuple[bytes, float]], some)
            found |= {member.decode(): int(key) for member, key in pairs if member != b"!"}
            if not cursor:
                return found


async def at_last(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask Redis for what may be asked again; one that is slow for a moment does not end a build of a minute."""
    for wait_seconds in WAITS_SECONDS:
        try:
            return await ask()
        except (TimeoutError, redis.exceptions.TimeoutError, redis.exceptions.ConnectionError):
            await asyncio.sleep(wait_seconds)
    return await ask()


def board_key(board: str, cohort: str | None) -> str:
    """Return the key of a board's order; its name is the hash tag, so that all of a board is in one slot."""
    return f"lb:{{{board}}}" if cohort is None else f"lb:{{{board}}}:c:{cohort}"


def counts_key(board: str, cohort: str | None) -> str:
    """Return the key of a board's counts."""
    return f"lbhist:{{{board}}}" if cohort is None else f"lbhist:{{{board}}}:c:{cohort}"


def entries_key(board: str) -> str:
    """Return the key of what a board has of each student, and of its own state."""
    return f"lbof:{{{board}}}"


def bands_key(board: str) -> str:
    """Return the key of the bounds that an approximate board counts between."""
    return f"lbband:{{{board}}}"


def rebuild_key(board: str) -> str:
    """Return the key that keeps two builds of one board apart."""
    return f"lb:{{{board}}}:rebuild"


def _reading(board: str, cohort: str | None) -> list[str]:
    return [entries_key(board), board_key(board, cohort), counts_key(board, cohort)]


def _placing(board: str, standings: Sequence[Standing], former: frozenset[str]) -> tuple[str, list[str], list[str | bytes | int]]:
    cohorts = sorted(former.union(*(standing.cohorts for standing in standings)))
    keys = [entries_key(board), bands_key(board)]
    for cohort in (None, *cohorts):
        keys += [board_key(board, cohort), counts_key(board, cohort)]
    arguments: list[str | bytes | int] = []
    for standing in standings:
        key = "" if standing.order_key is None else standing.order_key
        arguments += [standing.student, standing.version, key, standing.alias, ",".join(standing.cohorts)]
    return "place", keys, arguments


def _places(rows: object) -> tuple[Place, ...]:
    return tuple(
        Place(rank=int(rank), student=student.decode(), alias=alias.decode(), order_key=int(float(key)))
        for rank, student, key, alias in cast(list[tuple[int, bytes, bytes, bytes]], rows)
    )


def _percentile(fewer: int, as_many: int, students: int) -> float:
    return 100 * (fewer + as_many / 2) / students


def _cursor(cursor: object, *, up: bool) -> Cursor | None:
    if not cursor:
        return None
    key, offset, digest = cast(tuple[bytes, int, bytes], cursor)
    return Cursor(up, int(float(key)), offset, digest.decode())


def _histogram(counts: object, kind: object) -> Histogram:
    flat, exact = cast(list[bytes], counts), bool(cast(int, kind) & EXACT_BANDS)
    return Histogram({float(flat[at]): int(flat[at + 1]) for at in range(0, len(flat), 2)}, exact=exact)


def _entry(entry: bytes) -> Entry | None:
    _, key, cohorts, alias = entry.decode().split("|", 3)
    return Entry(int(key), alias, tuple(filter(None, cohorts.split(",")))) if key else None
