"""Regrading: results that were graded with keys that were wrong are graded again, beside everything else that goes on.

A run is a row that says who asked; what is left of it can always be seen from the results themselves (those with older
keys), so that a run that is killed goes on where it was, and what arrives late under old keys is swept afterwards.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import structlog
from finalbell.v1 import scoring_pb2 as pb

from servers import errors
from servers.messages import timestamp
from servers.scoring.changes import Changes, Worth, ranks_before_and_after
from servers.scoring.grading import Tell, derived
from servers.scoring.rules import Grader, voided
from servers.serving.run import sleep_until
from servers.serving.wrap import Call, refused
from stores.answer_keys import AnswerKeys
from stores.catalog import Catalog
from stores.places import Places
from stores.records import Attempt, Result
from stores.regrades import Regrade, Regrades, RunLost
from stores.revisions import Regraded, Revisions

CHUNK = 200
PAGE = 5_000
LOOK_SECONDS = 1.0
SWEEP_SECONDS = 5.0
HELD_SECONDS = 0.1
SWEPT = "its answers arrived while older keys were still in use"
log = structlog.get_logger()


class CannotRegrade(Exception):
    """A run cannot come to its end, and will not by itself; the message is for whoever asked."""


class Stopped(Exception):
    """The process ends: its run is left as it is, and another worker goes on with it."""


class Regrading:
    """Answers for regrades, and does them: one at a time in each process."""

    def __init__(
        self, regrades: Regrades, revisions: Revisions, keys: AnswerKeys, catalog: Catalog, places: Places, tell: Tell
    ) -> None:
        self._regrades = regrades
        self._revisions = revisions
        self._keys = keys
        self._catalog = catalog
        self._places = places
        self._tell = tell
        self._worker = uuid4()
        self._told_until = datetime.now(UTC) - timedelta(hours=1)
        self._asked = asyncio.Event()

    async def request(self, request: pb.RegradeExamRequest, call: Call) -> pb.RegradeExamResponse:
        """Ask for a run."""
        if await self._catalog.exam(request.exam_id) is None:
            raise errors.ExamNotFound("There is no such exam.")
        run = await self._regrades.request(request.exam_id, call.caller.student, request.reason, dry_run=request.dry_run)
        self._asked.set()
        call.answer_with(202)
        return pb.RegradeExamResponse(regrade=_message(run))

    async def read(self, request: pb.GetRegradeRequest, call: Call) -> pb.GetRegradeResponse:
        """Return how far a run is."""
        run = await self._regrades.read(request.exam_id, UUID(request.regrade_id))
        if run is None:
            raise errors.RegradeNotFound("There is no such regrade of this exam.")
        return pb.GetRegradeResponse(regrade=_message(run))

    async def run(self, stop: asyncio.Event) -> None:
        """Do what was asked for, here or anywhere."""
        while not stop.is_set():
            try:
                while not stop.is_set() and (run := await self._regrades.take(self._worker)) is not None:
                    await self._do(run, stop)
            except Exception as failure:  # a store is away; the lease ends by itself
                log.warning("no regrade", error=f"{type(failure).__name__}: {failure}"[:200])
            await self._wait(stop)

    async def sweep(self, stop: asyncio.Event) -> None:
        """Sweep up what came late, and tell the boards once more what may have been missed, whatever runs do."""
        while not stop.is_set():
            for sweep in (self._sweep, self._sweep_boards, self._show):
                try:
                    await sweep(stop)
                except Exception as failure:
                    _log_failure("not swept", failure)
            await sleep_until(stop, SWEEP_SECONDS)

    async def _wait(self, stop: asyncio.Event) -> None:
        self._asked.clear()
        asked = asyncio.ensure_future(self._asked.wait())
        resting = asyncio.ensure_future(sleep_until(stop, LOOK_SECONDS))
        await asyncio.wait([asked, resting], return_when=asyncio.FIRST_COMPLETED)
        for waiting in (asked, resting):
            waiting.cancel()

    async def _do(self, run: Regrade, stop: asyncio.Event) -> None:
        """Do one run, or what is left of it, to its end; raises what passes, so that it is tried again."""
        try:
            await (self._foresee(run, stop) if run.dry_run else self._apply(run, stop))
        except Stopped:
            return
        except RunLost:
            log.info("another worker has the regrade", regrade=str(run.id))
            return
        except CannotRegrade as why:
            await self._regrades.finish(run.id, self._worker, str(why))
            return
        except Exception as failure:
            if not _is_a_bug(failure):
                raise
            _log_failure("regrade failed", failure, regrade=str(run.id))
            await self._regrades.finish(
                run.id, self._worker, f"Something went wrong on our side; the log of scoring names {run.id}."
            )
            return
        await self._regrades.finish(run.id, self._worker)

    async def _apply(self, run: Regrade, stop: asyncio.Event) -> None:
        """Regrade until no result is behind the keys of the run, those included that somebody was grading meanwhile."""
        if run.report:  # it goes on where another worker was
            report = Changes(**run.report)  # type: ignore[arg-type]
        else:
            foreseen = await self._foresee(run, stop)
            report = Changes(ranks=foreseen.ranks, places=foreseen.places, examples=foreseen.examples)
        for grader in await self._graders(run):
            keys = grader.keys
            while await self._revisions.page_behind(keys.exam, keys.exam_version, keys.key_version, None, 1):
                while (await self._chunk(grader, run, report)).looked_at:
                    _go_on(stop)
                _go_on(stop)
                await sleep_until(stop, HELD_SECONDS)

    async def _chunk(self, grader: Grader, run: Regrade | None, report: Changes) -> Regraded:
        """Regrade some results, and tell boards and watchers."""

        async def note(connection: asyncpg.Connection, done: Regraded) -> None:
            for before, after in done.changed:
                report.count(before, after)
            if run is not None:
                await self._regrades.add(connection, run.id, self._worker, done.looked_at, report.plain())

        reason = (run.reason or "regraded") if run is not None else SWEPT
        place = (grader.keys.exam, grader.keys.exam_version, grader.keys.key_version)
        out = [key.question for key in grader.keys.keys if voided(key) is not None]
        done = await self._revisions.regrade(place, CHUNK, partial(derived, grader), reason, out, note)
        await self._tell([after.session for _, after in done.changed], done.standings)
        return done

    async def _sweep(self, stop: asyncio.Event) -> None:
        for exam, exam_version, key_version in await self._regrades.swept():
            try:
                grader = await self._grader(exam, exam_version, key_version)
                while not stop.is_set() and (await self._chunk(grader, None, Changes())).looked_at:
                    pass
            except Exception as failure:  # the other exams' results are swept nevertheless
                _log_failure("not swept", failure, exam=exam)

    async def _sweep_boards(self, stop: asyncio.Event) -> None:
        """Tell the boards once more of what changed lately: whoever changed it may have died before it did, or not reached
        them."""
        until, after = await self._revisions.settled(), ("", "")
        while page := await self._revisions.changed(self._told_until, until, after, PAGE):
            await self._tell([], page)
            after = (page[-1].exam, page[-1].student)
            if stop.is_set():
                return
        self._told_until = until

    async def _show(self, stop: asyncio.Event) -> None:
        """Show what a board that was frozen has held back: its release, or another schedule, may have met a score on its way."""
        await self._places.show(PAGE)

    async def _foresee(self, run: Regrade, stop: asyncio.Event) -> Changes:
        """Grade everything that is behind, and change nothing: what scores and ranks would become."""
        changes, worth, looked_at = Changes(), dict[UUID, Worth](), 0
        for grader in await self._graders(run):
            keys, after = grader.keys, None
            while page := await self._revisions.page_behind(keys.exam, keys.exam_version, keys.key_version, after, CHUNK):
                essays = await self._revisions.essays([result.session for result in page]) if grader.has_essay else {}
                for result, new in await asyncio.to_thread(_graded, page, grader, essays):
                    changes.count(result, new)
                    changes.show(result, new)
                    worth[result.session] = new.score, new.partial
                after, looked_at = page[-1].session, looked_at + len(page)
                _go_on(stop)
                if run.dry_run:
                    await self._regrades.note(run.id, self._worker, looked_at, {})
                else:
                    await self._regrades.keep(run.id, self._worker)
        await self._compare_ranks(run, stop, worth, changes)
        if run.dry_run:
            await self._regrades.note(run.id, self._worker, looked_at, changes.plain())
        return changes

    async def _compare_ranks(self, run: Regrade, stop: asyncio.Event, worth: Mapping[UUID, Worth], changes: Changes) -> None:
        exam, attempts, after = await self._catalog.exam(run.exam), list[Attempt](), None
        if exam is None:
            raise CannotRegrade("The exam is gone.")
        while page := await self._revisions.attempts(run.exam, after, PAGE):
            attempts += page
            after = page[-1].session
            _go_on(stop)
            await self._regrades.keep(run.id, self._worker)
        before, later = await asyncio.to_thread(ranks_before_and_after, attempts, worth, exam.tie_break)
        for student in before.keys() | later.keys():
            if before.get(student) != later.get(student):
                changes.ranks += 1
                changes.places = max(changes.places, abs(before.get(student, 0) - later.get(student, 0)))
        for example in changes.examples:
            example["rankBefore"], example["rankAfter"] = (ranks.get(str(example["student"])) for ranks in (before, later))

    async def _graders(self, run: Regrade) -> Sequence[Grader]:
        """Return a grader for every version of the exam's paper, with the keys that were the newest when the run was asked
        for: what is mended meanwhile is another run's."""
        return [await self._grader(*place) for place in await self._keys.papers(run.exam, run.key_version)]

    async def _grader(self, exam: str, exam_version: int, key_version: int) -> Grader:
        keys = await self._keys.read(exam, exam_version, key_version)
        if keys is None:
            raise CannotRegrade(f"Key version {key_version} is not complete.")
        return Grader(keys)


def _go_on(stop: asyncio.Event) -> None:
    """Raise Stopped once it is time to stop."""
    if stop.is_set():
        raise Stopped


def _is_a_bug(failure: Exception) -> bool:
    """Whether a failure would be the same the next time, since no store was away."""
    return isinstance(refused(failure), errors.Internal)


def _log_failure(what: str, failure: Exception, **facts: str) -> None:
    if _is_a_bug(failure):
        log.error(what, **facts, exc_info=failure)
    else:
        log.warning(what, **facts, error=f"{type(failure).__name__}: {failure}"[:200])


def _graded(page: Sequence[Result], grader: Grader, essays: Mapping[UUID, Mapping[str, int]]) -> list[tuple[Result, Result]]:
    return [(result, derived(grader, result, essays.get(result.session, {}))) for result in page]


def _message(run: Regrade) -> pb.Regrade:
    changes = Changes(**run.report) if run.report else Changes()  # type: ignore[arg-type]
    message = pb.Regrade(
        regrade_id=str(run.id),
        exam_id=run.exam,
        dry_run=run.dry_run,
        status=pb.Regrade.Status.Value(run.status),
        key_version=run.key_version,
        results=run.results,
        done=run.done,
        scores_changed=changes.changed,
        scores_raised=changes.raised,
        scores_lowered=changes.lowered,
        largest_gain=changes.gain,
        largest_loss=changes.loss,
        mean_change=changes.total / run.results if run.results else 0,
        ranks_changed=changes.ranks,
        largest_rank_move=changes.places,
        requested_by=run.actor,
        reason=run.reason,
        requested_at=timestamp(run.requested_ms),
        finished_at=timestamp(run.finished_ms) if run.finished_ms is not None else None,
        error=run.error,
    )
    for one in changes.examples:
        message.examples.add(
            session_id=str(one["session"]),
            student_id=str(one["student"]),
            score_before=int(str(one["before"])),
            score_after=int(str(one["after"])),
            rank_before=one.get("rankBefore"),
            rank_after=one.get("rankAfter"),
        )
    return message
