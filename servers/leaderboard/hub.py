"""Hubs: each watched board is read once per tick, encoded once, and the same bytes go to everybody who watches it.

A watcher's own place is a small message of its own, made from the board's counts and what the board has of all its watchers,
which is read for many at once. A reader that is slow holds one message, and gets the newest when it has taken it.
"""

import asyncio
from collections import Counter as Counted
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from json.encoder import encode_basestring
from random import uniform as by_chance
from time import monotonic
from typing import NamedTuple

import structlog
from finalbell.v1 import leaderboard_pb2 as pb
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import Counter, Gauge, Histogram

from servers import errors
from servers.leaderboard import rules
from servers.leaderboard.rules import Sight, Which
from servers.serving.proto_json import to_json
from servers.serving.run import sleep_until
from stores.boards import Boards, Entry, Frame, points_of

TICK_SECONDS = 1.0
STILL_SECONDS = 15.0
"""How often a watcher hears that there is nothing new."""

WATCHED_SECONDS = 3500.0
MOST_WATCHERS = 30_000
MOST_WITHOUT_TOKEN = 10_000
"""So many strangers at most, lest they leave no room for students."""

MOST_OF_ONE_STUDENT = 5
COME_BACK_SECONDS = (0.5, 3.0)
"""Between these, by chance: when watchers come back who have lost their stream. A service takes about half a second to start again,
and should not be met by all of them at once."""

LEAVE_SECONDS = (0.2, 5.0)
"""The same where the service says that it is about to go: others are there to go to."""

READ_TOGETHER = 500
MEET_SECONDS = 0.05
MOST_ROWS = 100
STILL = b":\n\n"

WATCHING = Gauge("finalbell_board_watchers", "Streams that watch a board")
FRAMES = Counter("finalbell_board_frames_total", "Times that a watched board had changed")
PUSHED = Counter("finalbell_board_pushes_total", "Messages to watchers")
TICKS = Histogram("finalbell_board_tick_seconds", "Time that a tick takes to read what one board's watchers are sent")
log = structlog.get_logger()

Look = Callable[[Which], Awaitable[Sight]]
Rebuild = Callable[[Sight, Which], Awaitable[None]]


class Own(NamedTuple):
    """Where a watcher stands; `rank` 0 means nowhere."""

    rank: int = 0
    points: int = 0
    alias: str = ""
    error: int = 0
    percentile: float = 0.0
    row: int = -1


NOWHERE = Own()


class Hub:
    """One board and who watches it in this process."""

    def __init__(self, which: Which, boards: Boards, look: Look, rebuild: Rebuild) -> None:
        self._which = which
        self._boards = boards
        self._look = look
        self._rebuild = rebuild
        self._sight: Sight | None = None
        self._frame: Frame | None = None
        self._as_of = Timestamp()
        self._encoded: dict[tuple[int, bool, bool], bytes] = {}
        self._entries: dict[str, Entry | None] = {}
        self._ranks: dict[int, int] = {}
        self._rows: dict[str, int] = {}
        self._newcomers: set[str] = set()
        self._meeting: asyncio.Task[None] | None = None
        self._spoke = monotonic()
        self._first: asyncio.Task[None] | None = None
        self._reread = False
        self._reading = False
        self._gone = False
        self.students: Counted[str] = Counted()
        """How many streams each student has here; "" is nobody with a name."""

        self.version = 0
        """Rises with whatever is new."""

        self.news = asyncio.Event()
        """Set when there is something to say; another event takes its place then."""

    async def begun(self) -> None:
        """Wait until the board has been read for the first time; who comes first has it read."""
        if self._first is None:
            self._first = asyncio.create_task(self.tick())
        await asyncio.shield(self._first)

    async def tick(self) -> None:
        """Read the board, unless it is just being read, and tell its watchers when it has changed, or when they have heard nothing
        for a while."""
        if self._reading:
            return
        self._reading = True
        try:
            with TICKS.time():
                changed = await self._read()
                self._gone = False
        except (errors.ExamNotFound, errors.SeriesNotFound):
            self._gone = changed = True
        except Exception as failure:  # a store is away: what was read last stays
            log.warning("board not read", exam=self._which.exam, error=f"{type(failure).__name__}: {failure}"[:200])
            changed = False
        finally:
            self._reading = False
        if changed:
            FRAMES.inc()
            self.version += 1
        if changed or monotonic() - self._spoke >= STILL_SECONDS:
            self.wake()

    def wake(self) -> None:
        """Have every watcher that waits look again."""
        self._spoke = monotonic()
        self.news.set()
        self.news = asyncio.Event()

    def open_to(self, student: str) -> bool:
        """Whether a watcher may go on: not once the board is gone, nor as a stranger once it is public no more."""
        return not self._gone and (bool(student) or self._sight is None or self._sight.public)

    async def meet(self, student: str) -> None:
        """Read what the board has of a student who has just come."""
        if student and student not in self._entries and self._frame is not None:
            self._newcomers.add(student)
            if self._meeting is None:
                self._meeting = asyncio.create_task(self._meet_all())
            await asyncio.shield(self._meeting)

    def forget(self, student: str) -> None:
        """Keep nothing of a student whose last stream has ended."""
        self._entries.pop(student, None)

    def board(self, top: int, *, staff: bool, events: bool) -> bytes:
        """Return the frame with so many rows, encoded once for everybody."""
        known = self._encoded.get((top, staff, events))
        if known is None:
            frame = self._message(top, staff=staff)
            if events:
                known = b"id: %d\nevent: board\ndata: %s\n\n" % (self.version, to_json(frame))
            else:
                known = pb.WatchLeaderboardResponse(board=frame).SerializeToString()
            self._encoded[top, staff, events] = known
        return known

    def own(self, student: str, top: int, *, staff: bool) -> Own | None:
        """Return where a watcher stands in the frame that is shown; None while that is not known."""
        sight, frame, cohort = self._sight, self._frame, self._which.cohort
        if sight is None or frame is None or student not in self._entries:
            return None
        entry = self._entries[student]
        if entry is None or (sight.hidden and not staff) or not frame.total or (cohort and cohort not in entry.cohorts):
            return NOWHERE
        row, error = self._rows.get(student, -1), 0
        if row >= 0:
            rank = frame.rows[row].rank
        elif frame.exact_bands or frame.approximate:
            rank, error = frame.histogram.rank(entry.order_key)
        else:
            rank = self._ranks.get(entry.order_key, 0)
        percentile = round(frame.histogram.percentile(entry.order_key), 2)
        return Own(rank, points_of(entry.order_key, sight.tie_break), entry.alias, error, percentile, row if row < top else -1)

    async def _read(self) -> bool:
        """Read what is shown; returns whether it is anything new."""
        sight = await self._look(self._which)
        known = self._frame.changes if self._frame is not None and sight == self._sight and not self._reread else ""
        found = await self._boards.frame(sight.board, self._which.cohort or None, known, MOST_ROWS)
        if found is True:
            return False
        frame = None if found is False else found
        entries: dict[str, Entry | None] = {}
        ranks: dict[int, int] = {}
        while frame and (come := [student for student in self.students if student and student not in entries]):
            # And then those who have come meanwhile.
            frame = frame if await self._find(sight, frame, come, entries, ranks) else None
        if frame is None:
            await self._rebuild(sight, self._which)
            anew = self._frame is not None or self._sight is None
            self._sight, self._frame, self._encoded = sight, None, {}
            return anew
        self._sight, self._frame, self._entries, self._ranks, self._encoded = sight, frame, entries, ranks, {}
        self._rows, self._reread = {place.student: row for row, place in enumerate(frame.rows)}, False
        self._as_of.GetCurrentTime()
        return True

    async def _meet_all(self) -> None:
        """Read what the board has of those who came within some milliseconds: of a crowd that comes back many at once."""
        await asyncio.sleep(MEET_SECONDS)
        self._meeting, students = None, list(self._newcomers)
        self._newcomers.clear()
        sight, frame = self._sight, self._frame
        entries: dict[str, Entry | None] = {}
        ranks: dict[int, int] = {}
        try:
            complete = sight is not None and frame is not None and await self._find(sight, frame, students, entries, ranks)
        except Exception as failure:  # a store is away: the next tick reads all of them
            log.warning("watchers not read", exam=self._which.exam, error=f"{type(failure).__name__}: {failure}"[:200])
            self._reread = True
            return
        if complete and frame is self._frame:  # else all have been read anew meanwhile
            self._entries |= {student: entry for student, entry in entries.items() if student in self.students}
            self._ranks |= ranks

    async def _find(
        self, sight: Sight, frame: Frame, students: Sequence[str], entries: dict[str, Entry | None], ranks: dict[int, int]
    ) -> bool:
        """Add what the board has of some students, and the ranks that the counts do not tell: where ties are broken, unless the
        board ranks approximately. False: it is incomplete, and nothing that it has is to be believed."""
        for at in range(0, len(students), READ_TOGETHER):
            some = students[at : at + READ_TOGETHER]
            found = await self._boards.several(sight.board, some)
            if found is None:
                return False
            entries |= zip(some, found, strict=True)
            if frame.exact_bands or frame.approximate:
                continue
            keys = sorted({entry.order_key for entry in found if entry} - ranks.keys())
            told = await self._boards.ranks(sight.board, self._which.cohort or None, keys)
            if told is None:
                return False
            ranks |= zip(keys, told, strict=True)
        return True

    def _message(self, top: int, *, staff: bool) -> pb.LeaderboardFrame:
        sight, frame = self._sight, self._frame
        message = pb.LeaderboardFrame(as_of=self._as_of)
        if sight is None or frame is None:
            message.rebuilding = True
            return message
        message.frozen = sight.frozen
        if staff or not sight.hidden:
            message.total = frame.total
            for place in frame.rows[:top]:
                seen = rules.seen(place, points_of(place.order_key, sight.tie_break), "", staff=staff)
                message.entries.add(rank=seen.rank, score=seen.points, alias=seen.alias, student_id=seen.student)
        return message


class Hubs:
    """The boards that are watched in this process."""

    def __init__(self, boards: Boards, look: Look, rebuild: Rebuild) -> None:
        self._boards = boards
        self._look = look
        self._rebuild = rebuild
        self._hubs: dict[Which, Hub] = {}
        self._streams: Counted[str] = Counted()
        self._watching = 0
        self._ticking: set[asyncio.Task[None]] = set()
        self._ending = False
        WATCHING.set_function(lambda: self._watching)

    async def run(self, stop: asyncio.Event) -> None:
        """Read all watched boards once per tick, until it is time to stop; then ask all watchers to come back."""
        while not stop.is_set():
            began = monotonic()
            for hub in self._hubs.values():  # one that waits for a store holds up no other
                ticking = asyncio.create_task(hub.tick())
                self._ticking.add(ticking)
                ticking.add_done_callback(self._ticking.discard)
            await sleep_until(stop, max(0.0, began + TICK_SECONDS - monotonic()))
        self._ending = True
        for hub in self._hubs.values():
            hub.wake()

    async def watch(self, which: Which, student: str, top: int, *, staff: bool, events: bool) -> AsyncIterator[bytes]:
        """Yield encoded messages, the first at once: WatchLeaderboardResponse, or HttpBody with events; refuses one stream too
        many."""
        encode = _event if events else bytes
        ends, greeting = monotonic() + _between(WATCHED_SECONDS / 2, WATCHED_SECONDS), _greeting(events=events)
        shown, said = -1, NOWHERE
        with self._joined(which, student) as hub:
            await hub.begun()
            await hub.meet(student)
            while not self._ending and monotonic() < ends and hub.open_to(student):  # who comes back is told why
                news, message = hub.news, greeting
                if hub.version != shown:
                    message += hub.board(top, staff=staff, events=events)
                    shown = hub.version
                own = hub.own(student, top, staff=staff)
                if own is not None and own != said:
                    message += own_bytes(own, events=events)
                    said = own
                PUSHED.inc()
                yield encode(message or (STILL if events else b""))
                greeting = b""
                await news.wait()
        yield encode(greeting + _reconnect(events=events))

    @contextmanager
    def _joined(self, which: Which, student: str) -> Iterator[Hub]:
        if self._watching >= MOST_WATCHERS or (not student and self._streams[""] >= MOST_WITHOUT_TOKEN):
            raise errors.RateLimited("Too many watch boards here; read the board instead.", retry_seconds=_between(10, 30))
        if student and self._streams[student] >= MOST_OF_ONE_STUDENT:
            raise errors.RateLimited("You watch too many boards already; end another stream first.", retry_seconds=10)
        hub = self._hubs.get(which)
        if hub is None:
            hub = self._hubs[which] = Hub(which, self._boards, self._look, self._rebuild)
        self._watching += 1
        for counted in (self._streams, hub.students):
            counted[student] += 1
        try:
            yield hub
        finally:
            self._watching -= 1
            for counted in (self._streams, hub.students):
                counted[student] -= 1
                if not counted[student]:
                    del counted[student]
            if student not in hub.students:
                hub.forget(student)
            if not hub.students and self._hubs.get(which) is hub:
                del self._hubs[which]


def _event(text: bytes) -> bytes:
    body: bytes = HttpBody(content_type="text/event-stream", data=text).SerializeToString()
    return body


def _between(least: float, most: float) -> float:
    """Return some time, by chance, so that many do not all come at once."""
    return by_chance(least, most)  # noqa: S311


def _milliseconds(between: tuple[float, float]) -> int:
    return round(1000 * _between(*between))


def _greeting(*, events: bool) -> bytes:
    """Return how long to wait should the stream break off: messages are joined by writing one after the other."""
    after = _milliseconds(COME_BACK_SECONDS)
    return b"retry: %d\n\n" % after if events else pb.WatchLeaderboardResponse(reconnect_after_ms=after).SerializeToString()


def _reconnect(*, events: bool) -> bytes:
    reconnect = pb.Reconnect(after_ms=_milliseconds(LEAVE_SECONDS))
    if events:
        return b"event: reconnect\ndata: %s\n\n" % to_json(reconnect)
    return pb.WatchLeaderboardResponse(reconnect=reconnect).SerializeToString()


def own_bytes(own: Own, *, events: bool) -> bytes:
    """Return one's own place; as an event in words of its own, since each watcher's is another one: a test compares them with
    those that all JSON is written in."""
    if events:
        row = f',"row":{own.row}' if own.row >= 0 else ""
        error = f',"rankError":{own.error}' if own.error else ""
        place = f'"place":{{"rank":{own.rank},"score":{own.points},"alias":{encode_basestring(own.alias)},"me":true{error}}}'
        told = f'{{{place},"percentile":{own.percentile:.12g}{row}}}' if own.rank else "{}"
        return f"event: me\ndata: {told}\n\n".encode()
    return pb.WatchLeaderboardResponse(me=own_message(own)).SerializeToString()


def own_message(own: Own) -> pb.OwnPlace:
    """Return one's own place as the API says it."""
    message = pb.OwnPlace()
    if own.rank:
        message.place.MergeFrom(
            pb.LeaderboardEntry(rank=own.rank, score=own.points, alias=own.alias, me=True, rank_error=own.error or None)
        )
        message.percentile = own.percentile
        if own.row >= 0:
            message.row = own.row
    return message
