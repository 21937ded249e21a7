"""Reading results: at once, or watched until they come and whenever they change."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from time import monotonic
from uuid import UUID

from finalbell.v1 import scoring_pb2 as pb
from google.api.httpbody_pb2 import HttpBody
from redis.exceptions import RedisError

from servers import errors
from servers.messages import timestamp
from servers.scoring.news import News
from servers.scoring.showing import Showing
from servers.serving.proto_json import to_json, writer
from servers.serving.rest import SESSION, RestMethod
from servers.serving.wrap import Call
from stores.catalog import Catalog
from stores.live import Glance, LiveSessions
from stores.records import SessionStatus
from stores.results import Owner, Results
from stores.revisions import Revisions

WATCHED_SECONDS = 3600.0
STILL_SECONDS = 15.0
"""How often a watcher hears that there is nothing new; then the result is looked at too, should the news be lost."""


class Reading:
    """Reads results. Whether a session is handed in is Redis's to say first, since PostgreSQL hears of it later."""

    def __init__(
        self,
        results: Results,
        revisions: Revisions,
        catalog: Catalog,
        live: LiveSessions,
        showing: Showing,
        news: News,
    ) -> None:
        self._results = results
        self._revisions = revisions
        self._catalog = catalog
        self._live = live
        self._showing = showing
        self._news = news

    async def get(self, request: pb.GetResultRequest, call: Call) -> pb.GetResultResponse:
        result = await self._result(UUID(request.session_id), call.caller.student)
        if result.status == pb.Result.SCORING:
            call.answer_with(202)
            call.header("retry-after", str(self._news.ask_again_seconds()))
        return pb.GetResultResponse(result=result)

    async def watch(self, request: pb.WatchResultRequest, call: Call) -> AsyncIterator[pb.WatchResultResponse]:
        async for result in self._watch(UUID(request.session_id), call):
            if result is not None:
                yield pb.WatchResultResponse(result=result)

    async def stream(self, request: pb.StreamResultRequest, call: Call) -> AsyncIterator[HttpBody]:
        async for result in self._watch(UUID(request.session_id), call):
            yield HttpBody(content_type="text/event-stream", data=_frame(result))

    async def history(self, request: pb.ListResultHistoryRequest, call: Call) -> pb.ListResultHistoryResponse:
        revisions = await self._revisions.history(UUID(request.session_id))
        if revisions is None:
            raise errors.SessionNotFound
        return pb.ListResultHistoryResponse(
            revisions=[
                pb.ResultRevision(
                    revision=one.revision,
                    score=one.score,
                    status=pb.Result.PARTIAL if one.partial else pb.Result.SCORED,
                    key_version=one.key_version,
                    replaced_at=timestamp(one.replaced_ms),
                    reason=one.reason,
                )
                for one in revisions
            ]
        )

    async def _watch(self, session: UUID, call: Call) -> AsyncIterator[pb.Result | None]:
        """Yield the result now and whenever it is another one; None after every while without news."""
        ends, shown = monotonic() + WATCHED_SECONDS, None
        with self._news.watching(session) as changed:
            while True:
                changed.clear()
                result = await self._result(session, call.caller.student)
                seen = _lasting(result)
                yield result if seen != shown else None
                shown = seen
                if self._news.ending or monotonic() > ends:
                    return
                await self._news.wait(changed, STILL_SECONDS)

    async def _result(self, session: UUID, student: str) -> pb.Result:
        """Return what a student may see of a session of theirs; refuse where there is none, or it is not handed in."""
        glance = await self._glance(session)
        if glance is not None and glance.status is not SessionStatus.SCORED:
            return _unscored(glance, student)
        result = await self._results.read(session)
        if result is None:
            return _unscored(await self._owner(session), student)
        exam = await self._catalog.exam(result.exam)
        if exam is None or result.student != student:
            raise errors.SessionNotFound
        return await self._showing.shown(result, exam)

    async def _glance(self, session: UUID) -> Glance | None:
        """Ask Redis first, which hears of a submit before PostgreSQL and costs a tenth: in a burst most who ask have to wait.
        None: ask PostgreSQL; also where Redis is away."""
        try:
            return await self._live.glance(session)
        except (RedisError, OSError):
            return None

    async def _owner(self, session: UUID) -> Owner:
        """Return how far a session is that Redis does not know for certain."""
        owner = await self._results.owner(session)
        if owner is None:
            raise errors.SessionNotFound
        if owner.status is SessionStatus.IN_PROGRESS:
            return replace(owner, status=await self._live.peek(session) or owner.status)
        return owner


def _unscored(found: Glance | Owner, student: str) -> pb.Result:
    """Return what is to be said of a session without a result: it is on its way, or still running."""
    if found.student != student:
        raise errors.SessionNotFound
    if found.status is SessionStatus.IN_PROGRESS:
        raise errors.SessionInProgress("The session is not handed in yet; submit it first.")
    waiting = pb.Result(status=pb.Result.SCORING)
    if found.submitted_ms is not None:
        waiting.submitted_at.CopyFrom(timestamp(found.submitted_ms))
    return waiting


def _lasting(result: pb.Result) -> bytes:
    """Return what of a result is worth another message: not that others' scores have moved its rank."""
    lasting = pb.Result()
    lasting.CopyFrom(result)
    for passing in ("rank", "percentile", "rank_as_of"):
        lasting.ClearField(passing)
    return lasting.SerializeToString(deterministic=True)


def _frame(result: pb.Result | None) -> bytes:
    """Return a server-sent event, its data as GET answers it; a comment where there is nothing new."""
    if result is None:
        return b":\n\n"
    return b"id: %d\nevent: result\ndata: %s\n\n" % (result.revision, to_json(result))


def _read(session: str, body: bytes) -> tuple[pb.GetResultRequest, bool]:
    """Read a request, and say whether it is surely valid; a body means nothing."""
    return pb.GetResultRequest(session_id=session), SESSION.fullmatch(session) is not None


GET_RESULT = RestMethod(
    path="/finalbell.v1.ScoringService/GetResult",
    verb=b"GET",
    url=re.compile(rb"/api/v1/sessions/([^/?]+)/result"),
    read=_read,
    write=writer(pb.GetResultResponse, "result"),
)
"""GetResult as REST: after the bell everybody asks at once."""
