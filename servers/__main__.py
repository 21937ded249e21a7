"""`python -m servers session leaderboard`: hosts the named units in this process, built by hand."""

import asyncio
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import structlog
import uvloop
from finalbell.v1 import admin_pb2, content_pb2, integrity_pb2, leaderboard_pb2, lecture_pb2, payment_pb2, scoring_pb2, session_pb2
from google.protobuf.descriptor import ServiceDescriptor
from structlog.tracebacks import ExceptionDictTransformer

from servers.admin.banks import BankImports
from servers.admin.boards import ExamBoards
from servers.admin.lectures import LectureAdminService
from servers.admin.sealing import seal
from servers.admin.service import MAX_IMPORT_MESSAGE_BYTES, ExamAdminService
from servers.admin.sessions import SessionAdminService
from servers.content.doors import Doors
from servers.content.lectures import LectureService
from servers.content.service import ContentService
from servers.content.shelves import Shelves
from servers.deadline import deadline
from servers.integrity.admin import IntegrityAdminService
from servers.integrity.analysing import Analysing
from servers.integrity.cases import CaseDesk
from servers.integrity.feed import Feed
from servers.integrity.frames import Frames
from servers.integrity.live import Views
from servers.integrity.owners import Owners
from servers.integrity.rest import REPORT_SIGNALS
from servers.integrity.service import IntegrityService
from servers.integrity.worker import IntegrityWorker
from servers.leaderboard.service import LeaderboardService
from servers.links import Gate, MediaKey, PathSigner, read_keys
from servers.payments import rules as money
from servers.payments.admin import PaymentAdminService
from servers.payments.providers import providers
from servers.payments.reconciler import Reconciler
from servers.payments.service import PaymentService
from servers.receipts import Receipts
from servers.scoring.grading import Grading
from servers.scoring.item_statistics import ItemStatistics
from servers.scoring.news import News
from servers.scoring.reading import GET_RESULT, Reading
from servers.scoring.regrade import Regrading
from servers.scoring.rules import decided
from servers.scoring.service import ScoringService
from servers.scoring.showing import Showing
from servers.scoring.telling import Telling
from servers.scoring.worker import ScoringWorker
from servers.serving.rates import Rates
from servers.serving.run import MAX_MESSAGE_BYTES, Hosted, Worker, serve
from servers.session.bell import Bell
from servers.session.handing_in import SUBMIT_SESSION
from servers.session.papers import Papers
from servers.session.saves import SAVE_ANSWER
from servers.session.service import SessionService
from servers.session.snapshots import Snapshots
from servers.session.submits import Submits, decode
from servers.settings import Settings
from stores.analyses import Analyses
from stores.answer_keys import AnswerKeys
from stores.banks import Banks
from stores.boards import Boards
from stores.cases import Cases
from stores.catalog import Catalog
from stores.connect import Stores, StoreSettings, connect
from stores.dead_letters import DeadLetters
from stores.deadlines import Deadlines
from stores.entitlements import Entitlements
from stores.exams import Exams
from stores.exports import Exports
from stores.grading import GradingTasks
from stores.lectures import Lectures
from stores.ledger import Ledger
from stores.live import LiveSessions, Patience
from stores.places import Places
from stores.regrades import Regrades
from stores.rehearsals import Rehearsals
from stores.restore import Restorer
from stores.results import Results
from stores.revisions import Revisions
from stores.series import AllSeries
from stores.sessions import Sessions
from stores.signal_log import SignalLog
from stores.signals import Signals
from stores.standings import Standings
from stores.starts import Starts
from stores.statistics import Statistics
from stores.submit_log import SubmitLog
from stores.warming import Warming

GC_THRESHOLDS = {"native": (100_000, 20, 100), "grpcio": (2_000, 20, 100)}
"""By engine. Calls leave no cycles behind on the native one, and the caches hold a million objects that a collection would walk
through: as seldom as can be. grpc.aio leaves one of ten objects for each call: often, since nobody is answered meanwhile, and
100,000 of them take 90 ms."""

FILES = [
    module.DESCRIPTOR
    for module in (admin_pb2, content_pb2, integrity_pb2, leaderboard_pb2, lecture_pb2, payment_pb2, scoring_pb2, session_pb2)
]


class Parts:
    """The stores' objects, each made once per process and shared by the units it hosts."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self.settings = settings
        self.postgres = stores.postgres
        self.starts = Starts(stores.postgres, deadline)
        self.sessions = Sessions(stores.postgres)
        self.catalog = Catalog(stores.postgres)
        self.exams = Exams(stores.postgres, seal)
        self.banks = Banks(stores.postgres)
        self.entitlements = Entitlements(stores.postgres)
        self.results = Results(stores.postgres, decided)
        self.grading_tasks = GradingTasks(stores.postgres)
        self.revisions = Revisions(stores.postgres, decided)
        self.regrades = Regrades(stores.postgres)
        self.standings = Standings(stores.postgres)
        self.series = AllSeries(stores.postgres)
        self.exports = Exports(stores.postgres)
        self.lectures = Lectures(stores.postgres)
        self.statistics = Statistics(stores.postgres)
        self.answer_keys = AnswerKeys(stores.postgres)
        self.boards = Boards(stores.boards)
        self.places = Places(self.boards, self.standings, self.catalog)
        self.submit_log = SubmitLog(stores.nats)
        self.signal_log = SignalLog(stores.nats, settings.signals_stream_bytes)
        self.signals = Signals(stores.postgres)
        self.analyses = Analyses(stores.postgres)
        self.cases = Cases(stores.postgres)
        self.deadlines = Deadlines(stores.postgres, deadline)
        self.dead_letters = DeadLetters(stores.postgres)
        restorer = Restorer(self.sessions, self.deadlines, self.submit_log, self.dead_letters, decode)
        patience = Patience(int(settings.outage_seconds * 1000), int(settings.hold_seconds * 1000))
        self.live = restorer.live = LiveSessions(stores.live, restorer.restore, stores.generations.begin, patience)
        self.warming = Warming(stores.postgres, self.catalog, self.live)
        self.rehearsals = Rehearsals(stores.postgres, self.live, self.boards)
        self.submits = Submits(
            self.live,
            self.submit_log,
            self.sessions,
            self.deadlines,
            publish_wait_ms=settings.publish_wait_ms,
            crash_at=settings.crash_at,
        )


def receipts(settings: Settings) -> Receipts:
    """Read the keys of receipts; only the units that sign are given them."""
    pem = Path(settings.receipt_key).read_bytes() if settings.receipt_key else None
    return Receipts(pem, Path(settings.receipt_jwks).read_text() if settings.receipt_jwks else "")


def media_keys(settings: Settings) -> Sequence[MediaKey]:
    """Read the secrets of media links; only the units that sign or check them are given them."""
    return read_keys(Path(settings.media_keys).read_text())


async def session(parts: Parts) -> Hosted:
    await parts.live.prepare()
    await parts.submits.listen()
    papers = Papers(parts.live, parts.catalog)
    servicer = SessionService(
        parts.live,
        parts.sessions,
        parts.deadlines,
        parts.catalog,
        parts.starts,
        papers,
        parts.submits,
        receipts(parts.settings),
        inline_wait_ms=parts.settings.inline_wait_ms,
    )
    return Hosted(
        services=[(session_pb2.DESCRIPTOR.services_by_name["SessionService"], servicer)],
        rest=[SAVE_ANSWER, SUBMIT_SESSION],
        workers=[servicer.beat, papers.read_ahead, parts.submits.listen_at_last, parts.submits.mark],
        drains=[parts.submits.drain],
    )


async def snapshots(parts: Parts) -> Hosted:
    await parts.sessions.make_partitions()
    await parts.live.prepare()
    writer = Snapshots(parts.live, parts.sessions)
    return Hosted(workers=[writer.run, writer.make_partitions])


async def bell(parts: Parts) -> Hosted:
    await parts.live.prepare()
    ringer = Bell(parts.live, parts.sessions, parts.deadlines, parts.dead_letters, parts.submits, parts.submit_log)
    return Hosted(workers=[ringer.run, ringer.run_nets, parts.submits.mark], drains=[parts.submits.drain])


async def scoring(parts: Parts) -> Hosted:
    news = News(parts.submit_log, parts.live)
    telling = Telling(parts.places, parts.submit_log)
    grading = Grading(parts.grading_tasks, parts.revisions, parts.answer_keys, telling.tell)
    regrading = Regrading(parts.regrades, parts.revisions, parts.answer_keys, parts.catalog, parts.places, telling.tell)
    signing = receipts(parts.settings)
    showing = Showing(parts.results, parts.answer_keys, parts.catalog, parts.boards, signing)
    statistics = ItemStatistics(parts.statistics, parts.answer_keys, parts.catalog)
    reading = Reading(parts.results, parts.revisions, parts.catalog, parts.live, showing, news)
    servicer = ScoringService(reading, signing, grading, regrading, statistics)
    services = [(scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"], servicer)]
    workers = [news.run, regrading.run, regrading.sweep]
    return Hosted(services=services, rest=[GET_RESULT], workers=workers, drains=[statistics.drain, parts.places.drain])


async def scoring_worker(parts: Parts) -> Hosted:
    worker = ScoringWorker(
        parts.submit_log,
        parts.answer_keys,
        parts.results,
        parts.dead_letters,
        Telling(parts.places, parts.submit_log),
        parts.live,
        crash_at=parts.settings.crash_at,
    )
    await worker.mend()
    return Hosted(workers=[worker.run, worker.run_rows], drains=[parts.places.drain])


async def leaderboard(parts: Parts) -> Hosted:
    servicer = LeaderboardService(parts.boards, parts.catalog, parts.places)
    services = [(leaderboard_pb2.DESCRIPTOR.services_by_name["LeaderboardService"], servicer)]
    return Hosted(services=services, workers=[servicer.run], drains=[servicer.drain])


async def content(parts: Parts) -> Hosted:
    settings = parts.settings
    signer = PathSigner(settings.media_url, media_keys(settings)[0]) if settings.media_url else None
    shelves, doors = Shelves(parts.catalog, parts.banks, parts.lectures), Doors(parts.entitlements)
    lectures = LectureService(shelves, doors, signer, settings.media_seconds)
    servicer = ContentService(shelves, doors)
    return Hosted(
        services=[
            (content_pb2.DESCRIPTOR.services_by_name["ContentService"], servicer),
            (lecture_pb2.DESCRIPTOR.services_by_name["LectureService"], lectures),
        ],
        workers=[parts.entitlements.listen],
        reflected=[service.full_name for file in FILES for service in file.services_by_name.values()],
    )


async def payments(parts: Parts) -> Hosted:
    ledger = Ledger(parts.postgres, money.fold, money.mismatch, money.whole, money.owned_until)
    sold_by = providers(parts.settings.payments, parts.postgres)
    reconciler = Reconciler(ledger, sold_by, parts.settings.reconcile_seconds)
    named = payment_pb2.DESCRIPTOR.services_by_name
    services: list[tuple[ServiceDescriptor, object]] = [
        (named["PaymentService"], PaymentService(ledger, sold_by, parts.settings.crash_at)),
        (named["PaymentAdminService"], PaymentAdminService(ledger, sold_by, reconciler)),
    ]
    drains = [provider.stop for provider in sold_by.values()]
    return Hosted(services=services, workers=[reconciler.run], drains=drains, max_message_bytes=MAX_IMPORT_MESSAGE_BYTES)


async def admin(parts: Parts) -> Hosted:
    exams = ExamAdminService(
        parts.exams,
        parts.catalog,
        parts.deadlines,
        parts.live,
        parts.results,
        ExamBoards(parts.catalog, parts.boards, parts.places, parts.standings, parts.series, parts.exports),
        parts.rehearsals,
        parts.warming,
        BankImports(parts.banks),
    )
    sessions = SessionAdminService(parts.deadlines, parts.dead_letters, parts.live, parts.sessions)
    named = admin_pb2.DESCRIPTOR.services_by_name
    services: list[tuple[ServiceDescriptor, object]] = [
        (named["ExamAdminService"], exams),
        (named["SessionAdminService"], sessions),
        (lecture_pb2.DESCRIPTOR.services_by_name["LectureAdminService"], LectureAdminService(parts.lectures)),
    ]
    return Hosted(services=services, max_message_bytes=MAX_IMPORT_MESSAGE_BYTES)


def frames(settings: Settings) -> Frames | None:
    """The bucket of webcam pictures, where there is one; its libraries are loaded for it only."""
    if not settings.frames_bucket:
        return None
    from stores.buckets import Bucket

    return Frames(Bucket(settings.frames_bucket, settings.frames_endpoint), settings.frames_days)


async def integrity(parts: Parts) -> Hosted:
    settings, pictures = parts.settings, frames(parts.settings)
    collecting = settings.integrity == "on"
    feed, views = Feed(parts.signal_log), Views(parts.signals, collecting=collecting)
    servicer = IntegrityService(
        Owners(parts.signals),
        feed,
        views,
        pictures,
        rates=Rates(settings.signals_per_second, settings.signals_at_once, "signal buckets"),
        most=settings.signals_per_session,
        collecting=collecting,
    )
    analysing = Analysing(
        parts.analyses,
        most_pairs=settings.analysis_pairs,
        most_bytes=settings.analysis_bytes,
        most_seconds=settings.analysis_seconds,
    )
    desk = CaseDesk(parts.analyses, parts.cases, parts.signals)
    named = integrity_pb2.DESCRIPTOR.services_by_name
    services: list[tuple[ServiceDescriptor, object]] = [
        (named["IntegrityService"], servicer),
        (named["IntegrityAdminService"], IntegrityAdminService(parts.signals, pictures, analysing, desk)),
    ]
    return Hosted(services=services, rest=[REPORT_SIGNALS], workers=[feed.run, views.run], drains=[feed.drain, analysing.drain])


async def signal_worker(parts: Parts) -> Hosted:
    settings = parts.settings
    worker = IntegrityWorker(parts.signal_log, parts.signals, days=settings.integrity_days, collecting=settings.integrity == "on")
    return Hosted(workers=[worker.run, worker.run_inference, worker.tidy])


async def media(settings: Settings) -> Hosted:
    """The media origin. It needs no store, so that none is opened."""
    from servers.media.origin import FolderShelf, Origin, OriginServer, Shelf  # its libraries are for this unit only

    shelf: Shelf = FolderShelf(Path(settings.media_folder))
    if settings.media_bucket:
        from servers.media.bucket import BucketShelf
        from stores.buckets import Bucket

        shelf = BucketShelf(Bucket(settings.media_bucket, settings.media_endpoint))
    origin = Origin(Gate(media_keys(settings)), shelf)
    server = OriginServer(origin, settings.rest, leave_seconds=settings.leave_seconds, drain_seconds=settings.drain_seconds)
    return Hosted(workers=[server.run], name=MEDIA)


UNITS = {
    "session": session,
    "snapshots": snapshots,
    "bell": bell,
    "scoring": scoring,
    "scoring-worker": scoring_worker,
    "leaderboard": leaderboard,
    "content": content,
    "payments": payments,
    "admin": admin,
    "integrity": integrity,
    "signal-worker": signal_worker,
}

MEDIA = "media"
"""The unit that needs no store; it has a process for itself."""

SUBMITTING = {"session", "bell", "scoring", "scoring-worker", "integrity", "signal-worker"}
"""The units that need NATS."""


GUARDING = {"session", "snapshots", "bell"}
"""The units that answer for sessions, and so must notice when Redis has lost its memory."""

ANSWERING = {"session", "scoring", "content"}
"""The units behind which a student waits: when PostgreSQL is slow they say so soon, the others take their time."""


CALLED = {"leaderboard", "payments", "admin", "integrity"}
"""The units whose statements may take long and whose callers wait all the same: they hear soon when PostgreSQL is frozen."""


def while_open(lost: asyncio.Event) -> Worker:
    """A worker that ends the process when NATS has hung up for good, so that the supervisor starts one that dials again."""

    async def watch(stop: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (lost, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if lost.is_set() and not stop.is_set():
            raise ConnectionAbortedError("NATS has closed the connection for good")

    return watch


async def host(names: list[str], settings: Settings) -> None:
    """Open the stores, build the named units, and serve them."""
    if names == [MEDIA]:
        await serve(settings, await media(settings))
        return
    urls = StoreSettings(
        postgres=settings.postgres,
        redis=settings.redis,
        boards_redis=settings.boards_redis or settings.redis,
        nats=settings.nats,
        statement_seconds=2.0 if set(names) <= ANSWERING else 30.0,
        needs_nats=bool(SUBMITTING & set(names)),
        hears_silence=bool(CALLED & set(names)),
        guards_sessions=bool(GUARDING & set(names)),
    )
    async with connect(urls) as stores:
        parts = Parts(stores, settings)
        units = [await UNITS[name](parts) for name in names]
        gc.collect()
        gc.freeze()  # what is here now stays: no collection has to look through it
        await serve(
            settings,
            Hosted(
                services=[service for unit in units for service in unit.services],
                workers=[while_open(stores.nats_lost), *(worker for unit in units for worker in unit.workers)],
                drains=[drain for unit in units for drain in unit.drains],
                rest=[method for unit in units for method in unit.rest],
                reflected=[name for unit in units for name in unit.reflected],
                name="+".join(names),
                max_message_bytes=max((unit.max_message_bytes for unit in units), default=MAX_MESSAGE_BYTES),
            ),
        )


def log_json(to: TextIO) -> None:
    """Log lines of JSON. Tracebacks come without local variables: those hold tokens, answers and keys."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=to),
    )


def main() -> None:
    names = sys.argv[1:]
    if names != [MEDIA] and (not names or any(name not in UNITS for name in names)):
        sys.exit(f"usage: python -m servers UNIT…, with units out of: {', '.join(UNITS)}; or, alone, {MEDIA}")
    log_json(sys.stdout)
    settings = Settings.model_validate({})
    gc.set_threshold(*GC_THRESHOLDS[settings.engine])
    uvloop.run(host(names, settings))


if __name__ == "__main__":
    main()
