"""LeaderboardService: who stands where. Nobody's click reaches PostgreSQL but for the exam's policies, which are cached."""

import asyncio

import structlog
from finalbell.v1 import leaderboard_pb2 as pb

from servers import errors
from servers.leaderboard import rules
from servers.serving.wrap import Call
from stores.boards import BoardPage, Boards, points_of
from stores.catalog import Catalog
from stores.records import Exam, Place
from stores.standings import Standings

HIDDEN = BoardPage(ready=True, total=0, top=(), me=None, around=())
REBUILD_WAIT_SECONDS = 0.5
log = structlog.get_logger()


class LeaderboardService:
    """Reads boards, and has one built again that is not complete."""

    def __init__(self, boards: Boards, catalog: Catalog, standings: Standings) -> None:
        self._boards = boards
        self._catalog = catalog
        self._standings = standings
        self._rebuilding: dict[str, asyncio.Task[None]] = {}

    async def GetLeaderboard(self, request: pb.GetLeaderboardRequest, call: Call) -> pb.GetLeaderboardResponse:
        exam = await self._catalog.exam(request.exam_id)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam.")
        if request.cohort and not call.caller.staff and request.cohort not in call.caller.cohorts:
            raise errors.CohortForbidden("That cohort is not one of yours.")
        if not call.caller.staff and not exam.shows_scores(ended=await self._catalog.ended(exam.id)):
            return _reply(HIDDEN, exam, call)
        page = await self._page(request, call)
        if not page.ready:
            await self._rebuilt(exam.id, request.cohort)
            page = await self._page(request, call)
        return _reply(page, exam, call)

    async def drain(self) -> None:
        """Finish the rebuilds that were begun."""
        await asyncio.gather(*self._rebuilding.values())

    async def _page(self, request: pb.GetLeaderboardRequest, call: Call) -> BoardPage:
        return await self._boards.page(
            request.exam_id,
            request.cohort or None,
            top=request.top if request.HasField("top") else 100,
            student=call.caller.student,
            window=rules.WINDOW if request.around else 0,
        )

    async def _rebuilt(self, exam: str, cohort: str) -> None:
        """Build an exam's boards again, once at a time and beside the call; wait for it as long as a reader would."""
        if exam not in self._rebuilding:
            task = asyncio.create_task(self._rebuild_now(exam, cohort))
            self._rebuilding[exam] = task
            task.add_done_callback(lambda _: self._rebuilding.pop(exam, None))
        await asyncio.wait([self._rebuilding[exam]], timeout=REBUILD_WAIT_SECONDS)

    async def _rebuild_now(self, exam: str, cohort: str) -> None:
        try:
            built = await self._boards.rebuild(exam, self._standings, [cohort] if cohort else [])
            if built is not None:
                log.info("boards rebuilt", exam=exam, students=built[0], boards=built[1])
        except Exception as failure:  # the next reader tries again
            log.warning("boards not rebuilt yet", exam=exam, error=f"{type(failure).__name__}: {failure}"[:200])


def _reply(page: BoardPage, exam: Exam, call: Call) -> pb.GetLeaderboardResponse:
    def entry(place: Place) -> pb.LeaderboardEntry:
        seen = rules.seen(place, points_of(place.order_key, exam.tie_break), call.caller.student, staff=call.caller.staff)
        return pb.LeaderboardEntry(rank=seen.rank, score=seen.points, alias=seen.alias, student_id=seen.student, me=seen.me)

    reply = pb.GetLeaderboardResponse(
        entries=[entry(place) for place in page.top],
        me=entry(page.me) if page.me else None,
        around=[entry(place) for place in page.around],
        total=page.total,
        rebuilding=not page.ready,
    )
    reply.as_of.GetCurrentTime()
    return reply
