"""ExamAdminService: import, close and release exams, read their results; what it does with boards is in boards.py, with
practice questions in banks.py."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from finalbell.v1 import admin_pb2 as pb
from finalbell.v1 import scoring_pb2

from servers import errors
from servers.admin.banks import BankImports
from servers.admin.boards import ExamBoards
from servers.admin.key_rules import mended, taken_out
from servers.admin.rules import LARGEST_FILE, InvalidExamFile, keys_digest, paper_digest, read_exam
from servers.messages import exam_message, exam_position, read_page_token, timestamp, whole_position, write_page_token
from servers.serving.wrap import Call
from stores.catalog import Catalog
from stores.deadlines import Deadlines, settle
from stores.exam_records import ExamFile
from stores.exams import Exams, ImportOutcome
from stores.live import LiveSessions
from stores.records import Accommodation, Exam
from stores.rehearsals import Rehearsals
from stores.results import Results, StaffRow
from stores.warming import Warming

MAX_IMPORT_MESSAGE_BYTES = 1_200_000
REMOVING_SECONDS = 6.0
"""Of one call: well within the 15 s that the gateway gives it."""

JSON_NAME = {"opens_at": "opensAt", "closes_at": "closesAt"}


class ExamAdminService:
    """What examiners and operators do."""

    def __init__(
        self,
        exams: Exams,
        catalog: Catalog,
        deadlines: Deadlines,
        live: LiveSessions,
        results: Results,
        boards: ExamBoards,
        rehearsals: Rehearsals,
        warming: Warming,
        banks: BankImports,
    ) -> None:
        self._exams = exams
        self._catalog = catalog
        self._deadlines = deadlines
        self._live = live
        self._results = results
        self._rehearsals = rehearsals
        self._warming = warming
        self.ImportBank, self.DeleteBank = banks.import_bank, banks.delete_bank
        self.RebuildLeaderboard, self.VerifyLeaderboard = boards.rebuild, boards.verify
        self.FreezeLeaderboard, self.RevealLeaderboard = boards.freeze, boards.reveal
        self.ReleaseLeaderboard, self.ExportLeaderboard = boards.release, boards.export
        self.SetExamSeries, self.ListExamSeries, self.DeleteExamSeries = boards.set_series, boards.list_series, boards.delete_series

    async def ImportExam(self, requests: AsyncIterator[pb.ImportExamRequest], call: Call) -> pb.ImportExamResponse:
        file = await _read_file(requests)
        kept = await self._exams.keep(file, paper_digest(file), keys_digest(file), call.caller.student)
        match kept.outcome:
            case ImportOutcome.SESSIONS_LIVE:
                raise errors.ExamInUse(
                    "Students are sitting this exam: questions and duration cannot change now. Wait, or import it under another id."
                )
            case ImportOutcome.SESSIONS_RANKED:
                raise errors.ExamInUse("Students have sat this exam: its tie-break cannot change. Import it under another id.")
            case ImportOutcome.KEPT:
                pass
        if kept.exam is None:
            raise AssertionError("a kept exam is returned")
        await settle(self._deadlines, self._live, kept.moved)
        return pb.ImportExamResponse(
            exam=exam_message(kept.exam, _now_ms()), key_version=kept.exam.key_version, changes=kept.changes
        )

    async def SetAnswerKey(self, request: pb.SetAnswerKeyRequest, call: Call) -> pb.SetAnswerKeyResponse:
        if bool(request.accept) == bool(request.void):
            raise errors.InvalidField([("accept", "or void: give what counts as right, or take the question out")])
        await self._exam(request.exam_id)
        accept = list(dict.fromkeys(request.accept))

        def mend(kind: str, key: str, options: Sequence[str]) -> str:
            if request.void:
                return taken_out(key, pb.SetAnswerKeyRequest.Void.Name(request.void))
            return mended(kind, key, options, accept, also=request.also)

        change = await self._exams.set_key(request.exam_id, request.question_id, mend, call.caller.student, request.reason)
        if change is None:
            raise errors.QuestionNotFound("The exam's newest paper has no such question.")
        return pb.SetAnswerKeyResponse(
            key_version=change.key_version,
            changed=change.changed,
            before=change.before,
            after=change.after,
            results_behind=change.behind,
        )

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, call: Call) -> pb.UpdateScheduleResponse:
        exam = await self._exam(request.exam_id)
        wanted = _schedule(request, exam)
        moved = await self._exams.reschedule(exam.id, wanted, call.caller.student)
        if moved is None:
            raise errors.ExamClosed("The exam was closed by hand; it keeps its schedule.")
        await settle(self._deadlines, self._live, moved)
        return pb.UpdateScheduleResponse(report=await self._report(exam.id), sessions_moved=len(moved))

    async def SetAccommodation(self, request: pb.SetAccommodationRequest, call: Call) -> pb.SetAccommodationResponse:
        if request.exam_id:
            await self._exam(request.exam_id)
        seconds = request.extra_seconds if request.HasField("extra_seconds") else None
        factor = Decimal(repr(request.factor)) if request.HasField("factor") else None  # 1.1 is 1.1, not what is nearest to it
        moved = await self._deadlines.accommodate(
            request.student_id,
            request.exam_id,
            Accommodation(bool(request.exam_id), seconds, factor),
            request.reason,
            call.caller.student,
        )
        await settle(self._deadlines, self._live, moved)
        return pb.SetAccommodationResponse(sessions_moved=len(moved))

    async def ListExamReports(self, request: pb.ListExamReportsRequest, call: Call) -> pb.ListExamReportsResponse:
        count = request.page_size or 50
        scope = "rehearsals" if request.show_rehearsals else "reports"
        last = read_page_token(request.page_token, scope, exam_position) or ""
        exams = await self._catalog.exams(last, count + 1, rehearsals=request.show_rehearsals)
        return pb.ListExamReportsResponse(
            reports=await self._reports(exams[:count]),
            next_page_token=write_page_token(exams[count - 1].id, scope) if len(exams) > count else "",
        )

    async def GetExamReport(self, request: pb.GetExamReportRequest, call: Call) -> pb.GetExamReportResponse:
        return pb.GetExamReportResponse(report=await self._report(request.exam_id))

    async def CloseExam(self, request: pb.CloseExamRequest, call: Call) -> pb.CloseExamResponse:
        if not await self._catalog.close(request.exam_id, call.caller.student):
            raise _no_exam()
        return pb.CloseExamResponse(report=await self._report(request.exam_id))

    async def ReleaseExam(self, request: pb.ReleaseExamRequest, call: Call) -> pb.ReleaseExamResponse:
        if not await self._catalog.release(request.exam_id, call.caller.student):
            raise _no_exam()
        return pb.ReleaseExamResponse(report=await self._report(request.exam_id))

    async def WarmExam(self, request: pb.WarmExamRequest, call: Call) -> pb.WarmExamResponse:
        warmed = await self._warming.warm(request.exam_id)
        if warmed is None:
            raise _no_exam()
        return pb.WarmExamResponse(
            exam_version=warmed.version,
            questions=warmed.questions,
            accommodations=warmed.accommodations,
            sessions=warmed.sessions,
            months=warmed.months,
        )

    async def ListResults(self, request: pb.ListResultsRequest, call: Call) -> pb.ListResultsResponse:
        await self._exam(request.exam_id)
        scope, count = f"results/{request.exam_id}", request.page_size or 200
        rows = await self._results.page(request.exam_id, read_page_token(request.page_token, scope, _result_position), count + 1)
        last = rows[count - 1] if len(rows) > count else None
        return pb.ListResultsResponse(
            results=[_row(row) for row in rows[:count]],
            next_page_token=write_page_token(f"{last.score}/{last.session}", scope) if last else "",
        )

    async def CreateRehearsal(self, request: pb.CreateRehearsalRequest, call: Call) -> pb.CreateRehearsalResponse:
        shadow = await self._rehearsals.create(request.exam_id, request.session_seconds, call.caller.student)
        if shadow is None:
            raise _no_exam()
        return pb.CreateRehearsalResponse(report=await self._report(shadow))

    async def RemoveRehearsal(self, request: pb.RemoveRehearsalRequest, call: Call) -> pb.RemoveRehearsalResponse:
        removed = await self._rehearsals.remove(request.rehearsal_id, call.caller.student, within_seconds=REMOVING_SECONDS)
        if removed is None:
            raise errors.ExamNotFound("There is no such rehearsal; only a rehearsal can be removed.")
        return pb.RemoveRehearsalResponse(
            sessions_removed=removed.gone, sessions_left=removed.left, sessions_busy=min(removed.busy, removed.left)
        )

    async def _exam(self, exam_id: str) -> Exam:
        exam = await self._catalog.exam(exam_id, fresh=True)
        if exam is None:
            raise _no_exam()
        return exam

    async def _report(self, exam_id: str) -> pb.ExamReport:
        return (await self._reports([await self._exam(exam_id)]))[0]

    async def _reports(self, exams: Sequence[Exam]) -> Sequence[pb.ExamReport]:
        counts = await self._catalog.counts([exam.id for exam in exams])
        origins = await self._rehearsals.origins([exam.id for exam in exams])
        return [
            pb.ExamReport(
                exam=exam_message(exam, _now_ms()),
                key_version=exam.key_version,
                sessions=counts[exam.id].in_progress + counts[exam.id].submitted + counts[exam.id].scored,
                in_progress=counts[exam.id].in_progress,
                submitted=counts[exam.id].submitted,
                scored=counts[exam.id].scored,
                released_at=timestamp(exam.released_ms) if exam.released_ms is not None else None,
                rehearsal_of=origins.get(exam.id, ""),
            )
            for exam in exams
        ]


async def _read_file(requests: AsyncIterator[pb.ImportExamRequest]) -> ExamFile:
    """Gather the chunks and read the exam; refuse it with every error at once."""
    data, exam_id, settings = bytearray(), "", dict[str, str]()
    async for request in requests:
        if data and (request.exam_id or request.settings):
            raise errors.InvalidField([("examId", "and settings belong into the first message")])
        exam_id, settings = exam_id or request.exam_id, settings | dict(request.settings)
        data += request.chunk
        if len(data) > LARGEST_FILE:
            raise errors.RequestTooLarge("An exam file may have 32 MiB; this one is larger.")
    try:
        return read_exam(bytes(data), exam_id=exam_id or None, settings=settings)
    except InvalidExamFile as invalid:
        raise errors.InvalidExam(invalid.violations) from None


def _schedule(request: pb.UpdateScheduleRequest, exam: Exam) -> Mapping[str, datetime | None]:
    """Return what the schedule becomes; refuse a close that would end sessions in the past, or before they can start."""
    asked = {"opens_at": request.opens_at, "closes_at": request.closes_at}
    clear = {"opens_at": request.clear_opens_at, "closes_at": request.clear_closes_at}
    named = {field.name for field, _ in request.ListFields()}
    wanted = {"opens_at": _moment(exam.opens_ms), "closes_at": _moment(exam.closes_ms)}
    wrong = [(JSON_NAME[name], "is both set and cleared") for name in wanted if name in named and clear[name]]
    for name in wanted:
        if name in named or clear[name]:
            wanted[name] = asked[name].ToDatetime(UTC) if name in named else None
    opens, closes = wanted["opens_at"], wanted["closes_at"]
    if "closes_at" in named and closes is not None and closes <= datetime.now(UTC):
        wrong.append(("closesAt", "is not ahead; to end an exam now, close it"))
    if opens is not None and closes is not None and closes <= opens:
        wrong.append(("closesAt", "is not after opensAt"))
    if wrong:
        raise errors.InvalidField(wrong)
    return wanted


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)


def _result_position(position: str) -> tuple[int, UUID]:
    score, session = position.split("/")
    return whole_position(score, 31), UUID(session)


def _row(row: StaffRow) -> pb.ExamResult:
    return pb.ExamResult(
        session_id=str(row.session),
        student_id=row.student,
        alias=row.alias,
        attempt=row.attempt,
        status=scoring_pb2.Result.PARTIAL if row.partial else scoring_pb2.Result.SCORED,
        score=row.score,
        max_score=row.max_score,
        rank=row.rank,
        revision=row.revision,
        submitted_at=timestamp(row.submitted_ms),
    )


def _no_exam() -> errors.ExamNotFound:
    return errors.ExamNotFound("There is no such exam.")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
