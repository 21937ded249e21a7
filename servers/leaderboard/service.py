"""LeaderboardService: who stands where. Nobody's click reaches PostgreSQL but for the exam's policies, which are cached."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from math import inf
from time import time_ns

from finalbell.v1 import leaderboard_pb2 as pb

from servers import errors
from servers.leaderboard import rules
from servers.leaderboard.hub import Hubs
from servers.leaderboard.rules import Sight, Which
from servers.messages import read_page_token, write_page_token
from servers.serving.wrap import Call
from stores.boards import BoardPage, Boards, Cursor, points_of
from stores.catalog import Catalog
from stores.histogram import Histogram
from stores.places import Places
from stores.records import Place

EMPTY = BoardPage(ready=True)
REBUILD_WAIT_SECONDS = 0.5
CURSOR = re.compile(r"([ud])(-?[0-9]{1,16})/([0-9]{1,9})/([0-9a-f]{16})")


class LeaderboardService:
    """Reads boards, and has one built again that is not complete."""

    def __init__(self, boards: Boards, catalog: Catalog, places: Places) -> None:
        self._boards = boards
        self._catalog = catalog
        self._places = places
        self._hubs = Hubs(boards, self._sight, self._rebuild)

    async def GetLeaderboard(self, request: pb.GetLeaderboardRequest, call: Call) -> pb.GetLeaderboardResponse:
        which = Which(request.exam_id, request.series, request.cohort)
        sight = await self._admitted(which, call)
        scope = f"leaderboard/{which.exam}/{which.series}/{which.cohort}"
        cursor = read_page_token(request.page_token, scope, _cursor)
        if sight.hidden and not call.caller.staff:
            return _reply(EMPTY, None, sight, scope, call)
        page = await self._page(request, sight, cursor, call)
        if not page.ready:
            await self._rebuild(sight, which)
            page = await self._page(request, sight, cursor, call)
        histogram = await self._boards.histogram(sight.board, which.cohort or None) if request.histogram else None
        return _reply(page, histogram, sight, scope, call)

    async def WatchLeaderboard(self, request: pb.WatchLeaderboardRequest, call: Call) -> AsyncIterator[bytes]:
        return await self._watch(request, call, events=False)

    async def StreamLeaderboard(self, request: pb.StreamLeaderboardRequest, call: Call) -> AsyncIterator[bytes]:
        return await self._watch(request, call, events=True)

    async def run(self, stop: asyncio.Event) -> None:
        """Read what is watched, until it is time to stop; then ask all watchers to come back."""
        await self._hubs.run(stop)

    async def drain(self) -> None:
        """Give up the builds that were begun."""
        await self._places.drain()

    async def _watch(
        self, request: pb.WatchLeaderboardRequest | pb.StreamLeaderboardRequest, call: Call, *, events: bool
    ) -> AsyncIterator[bytes]:
        which = Which(request.exam_id, request.series, request.cohort)
        await self._admitted(which, call)
        top = request.top if request.HasField("top") else rules.WATCHED_TOP
        return self._hubs.watch(which, call.caller.student, top, staff=call.caller.staff, events=events)

    async def _admitted(self, which: Which, call: Call) -> Sight:
        """Return what may be seen of a board, or refuse. Who has no token does not learn which exams there are."""
        try:
            sight = await self._sight(which)
        except (errors.ExamNotFound, errors.SeriesNotFound):
            if call.caller.student:
                raise
            sight = None
        if not call.caller.student and (sight is None or not sight.public):
            raise errors.TokenInvalid("This board is not public: send the header 'Authorization: Bearer <token>'.")
        if which.cohort and not call.caller.staff and which.cohort not in call.caller.cohorts:
            raise errors.CohortForbidden("That cohort is not one of yours.")
        assert sight is not None
        return sight

    async def _sight(self, which: Which) -> Sight:
        """Return what may be seen of a board now; refuses one that does not exist."""
        exam = await self._catalog.exam(which.exam)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam.")
        now_ms = time_ns() // 1_000_000
        if not which.series:
            hidden = not exam.shows_scores(ended=exam.asks_for_end() and await self._catalog.ended(exam.id))
            return Sight(exam.id, exam.tie_break, hidden, exam.board_public, exam.frozen(now_ms))
        for series in await self._catalog.series_of(exam.id):
            if series.id == which.series:
                board, counted = await self._places.board_of(series)
                exams = [one for one in [await self._catalog.exam(one) for one in counted] if one is not None]
                public = exam.board_public and all(one.board_public for one in exams)  # a sum tells of each exam in it
                return Sight(board, "NONE", hidden=False, public=public, frozen=any(one.frozen(now_ms) for one in exams))
        raise errors.SeriesNotFound("The exam is in no such series.")

    async def _page(self, request: pb.GetLeaderboardRequest, sight: Sight, cursor: Cursor | None, call: Call) -> BoardPage:
        return await self._boards.page(
            sight.board,
            request.cohort or None,
            top=request.top if request.HasField("top") else rules.TOP,
            student=call.caller.student,
            window=(request.window if request.HasField("window") else rules.WINDOW) if request.around else 0,
            cursor=cursor,
        )

    async def _rebuild(self, sight: Sight, which: Which) -> None:
        await self._places.rebuild_soon({sight.board}, REBUILD_WAIT_SECONDS, which.cohort or None)


def _cursor(position: str) -> Cursor:
    found = CURSOR.fullmatch(position)
    if found is None:
        raise ValueError
    return Cursor(found[1] == "u", int(found[2]), int(found[3]), found[4])


def _token(cursor: Cursor | None, scope: str) -> str:
    if cursor is None:
        return ""
    return write_page_token(f"{'u' if cursor.up else 'd'}{cursor.order_key}/{cursor.offset}/{cursor.digest}", scope)


def _bars(histogram: Histogram, tie_break: str) -> Sequence[pb.ScoreCount]:
    """Return how many students have which score; what is below all bounds goes with the lowest."""
    bars: dict[int, int] = {}
    lowest = [band for band, _ in histogram.bars() if band > -inf]
    for band, count in histogram.bars():
        score = points_of(int(max(band, lowest[0] if lowest else 0)), tie_break)
        bars[score] = bars.get(score, 0) + count
    return [pb.ScoreCount(score=score, count=bars[score]) for score in sorted(bars)]


def _reply(page: BoardPage, histogram: Histogram | None, sight: Sight, scope: str, call: Call) -> pb.GetLeaderboardResponse:
    def entry(place: Place, error: int = 0) -> pb.LeaderboardEntry:
        seen = rules.seen(place, points_of(place.order_key, sight.tie_break), call.caller.student, staff=call.caller.staff)
        return pb.LeaderboardEntry(
            rank=seen.rank, score=seen.points, alias=seen.alias, student_id=seen.student, me=seen.me, rank_error=error or None
        )

    reply = pb.GetLeaderboardResponse(
        entries=[entry(place) for place in page.rows],
        me=entry(page.me, page.error) if page.me else None,
        around=[entry(place) for place in page.around],
        total=page.total,
        rebuilding=not page.ready,
        next_page_token=_token(page.below, scope),
        previous_page_token=_token(page.above, scope),
        percentile=page.percentile,
        frozen=sight.frozen,
        cohorts=call.caller.cohorts,
        histogram=_bars(histogram, sight.tie_break) if histogram else (),
    )
    reply.as_of.GetCurrentTime()
    return reply
