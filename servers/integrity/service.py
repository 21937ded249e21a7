"""IntegrityService: takes what clients report, in microseconds and whatever is away; shows staff what it adds up to."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import monotonic, time_ns
from uuid import UUID, uuid4

from finalbell.v1 import events_pb2 as events
from finalbell.v1 import integrity_pb2 as pb
from prometheus_client import Counter

from servers import errors
from servers.integrity.feed import DROPPED, Feed
from servers.integrity.frames import Frames
from servers.integrity.interval import Interval
from servers.integrity.live import Views
from servers.integrity.messages import address, known, token_digest
from servers.integrity.owners import Owners, Whose
from servers.messages import timestamp
from servers.serving.rates import Rates
from servers.serving.wrap import Call
from stores import gauges

STREAM_SECONDS = 100.0
SESSIONS = 200_000
TAKEN = Counter("finalbell_signals_taken_total", "Signals that clients reported and that are on their way")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a report's signals."""

    accepted: int
    dropped: int


class IntegrityService:
    """Takes reports into a queue; nothing here waits for a broker, and a quarter of a second at most for PostgreSQL."""

    def __init__(
        self, owners: Owners, feed: Feed, views: Views, frames: Frames | None, *, rates: Rates, most: int, collecting: bool
    ) -> None:
        self._owners = owners
        self._feed = feed
        self._views = views
        self._frames = frames
        self._rates = rates
        self._most = most
        self._collecting = collecting
        self._interval = Interval()
        self._counts: OrderedDict[UUID, int] = OrderedDict()
        gauges.cached("signal counts", self._counts)

    async def ReportSignals(self, request: pb.ReportSignalsRequest, call: Call) -> pb.ReportSignalsResponse:
        taken = await self._take(UUID(request.session_id), request.device_id, request, call)
        call.answer_with(202)
        return pb.ReportSignalsResponse(
            accepted=taken.accepted,
            dropped=taken.dropped,
            collecting=self._collecting,
            next_report_seconds=self._interval.next_seconds(),
        )

    async def StreamSignals(self, requests: AsyncIterator[pb.StreamSignalsRequest], call: Call) -> pb.StreamSignalsResponse:
        session, device, accepted, dropped, ends = "", "", 0, 0, monotonic() + STREAM_SECONDS
        while (request := await _next(requests, ends)) is not None:
            session, device = session or request.session_id, request.device_id or device
            if not session or request.session_id not in ("", session):
                raise errors.InvalidField([("sessionId", "is needed in the first message, and the same in all of them")])
            taken = await self._take(UUID(session), device, request, call)
            accepted, dropped = accepted + taken.accepted, dropped + taken.dropped
        return pb.StreamSignalsResponse(accepted=accepted, dropped=dropped, collecting=self._collecting)

    async def CreateFrameUpload(self, request: pb.CreateFrameUploadRequest, call: Call) -> pb.CreateFrameUploadResponse:
        session = UUID(request.session_id)
        match await self._owners.whose(session, call.caller.student):
            case Whose.FOREIGN:
                raise errors.SessionNotFound
            case Whose.UNVERIFIED:
                raise errors.StoreUnavailable("Nobody can say now whose session it is; ask again.")
        if self._frames is None or not self._collecting:
            raise errors.FramesNotConfigured("This installation takes no pictures.")
        self._rates.take(call.caller)
        frame, now_ms = uuid4(), time_ns() // 1_000_000
        link = self._frames.upload(session, frame, request.content_type, request.size_bytes, now_ms)
        call.header("cache-control", "private, no-store")
        return pb.CreateFrameUploadResponse(
            frame_id=str(frame),
            upload_url=link.url,
            content_type=request.content_type,
            expires_at=timestamp(link.expires_ms),
            kept_until=timestamp(link.kept_until_ms),
        )

    async def WatchIntegrity(self, request: pb.WatchIntegrityRequest, call: Call) -> AsyncIterator[bytes]:
        return await self._views.watch(request.exam_id, request.top if request.HasField("top") else None)

    async def _take(
        self, session: UUID, device: str, request: pb.ReportSignalsRequest | pb.StreamSignalsRequest, call: Call
    ) -> Taken:
        """Take a report, or refuse it: another's session, or too many."""
        if not self._collecting:
            DROPPED.labels("off").inc(len(request.signals))
            return Taken(0, len(request.signals))
        if await self._owners.whose(session, call.caller.student) is Whose.FOREIGN:
            raise errors.SessionNotFound
        self._limit(call, max(1, len(request.signals)))
        signals = known(request.signals)
        DROPPED.labels("unknown_kind").inc(len(request.signals) - len(signals))
        signals = signals[: self._room(session, len(signals))]
        self._feed.offer(_report(session, device, request, signals, self._interval.mean_seconds, call))
        TAKEN.inc(len(signals))
        return Taken(len(signals), len(request.signals) - len(signals))

    def _limit(self, call: Call, count: int) -> None:
        try:
            self._rates.take(call.caller, count)
        except errors.RateLimited:
            DROPPED.labels("rate").inc(count)
            raise

    def _room(self, session: UUID, count: int) -> int:
        """Count signals of a session, and return how many of them may be taken."""
        before = self._counts.pop(session, 0)
        taken = max(0, min(count, self._most - before))
        self._counts[session] = before + taken
        if len(self._counts) > SESSIONS:
            self._counts.popitem(last=False)
        DROPPED.labels("session_bound").inc(count - taken)
        return taken


async def _next(requests: AsyncIterator[pb.StreamSignalsRequest], ends: float) -> pb.StreamSignalsRequest | None:
    """Return a stream's next message; None: there is none, or it has lasted long enough."""
    try:
        async with asyncio.timeout(max(0.0, ends - monotonic())):
            return await anext(requests, None)
    except TimeoutError:
        return None


def _report(
    session: UUID,
    device: str,
    request: pb.ReportSignalsRequest | pb.StreamSignalsRequest,
    signals: Sequence[pb.Signal],
    report_seconds: int,
    call: Call,
) -> events.SignalReport:
    return events.SignalReport(
        report_id=uuid4().bytes,
        session_id=session.bytes,
        student_id=call.caller.student,
        received_at=timestamp(time_ns() // 1_000_000),
        client_now=request.client_now if request.HasField("client_now") else None,
        address=address(call.sent.get("x-forwarded-for", "")),
        device_id=device,
        token_digest=token_digest(call.sent.get("authorization", "")),
        signals=signals,
        report_seconds=report_seconds,
    )
