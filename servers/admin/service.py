"""ExamAdminService: import, close and release exams, read their results, repair their boards."""

import time
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from finalbell.v1 import admin_pb2 as pb
from finalbell.v1 import scoring_pb2

from servers import errors
from servers.admin.rules import LARGEST_FILE, InvalidExamFile, keys_digest, paper_digest, read_exam
from servers.messages import exam_message, read_page_token, timestamp, write_page_token
from servers.serving.wrap import Call
from stores.boards import Boards
from stores.catalog import Catalog
from stores.exam_records import ExamFile
from stores.exams import Exams, ImportOutcome
from stores.records import Exam
from stores.results import Results, StaffRow, Standings

MAX_IMPORT_MESSAGE_BYTES = 1_200_000
EXAMPLES = 20


class ExamAdminService:
    """What examiners and operators do."""

    def __init__(self, exams: Exams, catalog: Catalog, results: Results, standings: Standings, boards: Boards) -> None:
        self._exams = exams
        self._catalog = catalog
        self._results = results
        self._standings = standings
        self._boards = boards

    async def ImportExam(self, requests: AsyncIterator[pb.ImportExamRequest], call: Call) -> pb.ImportExamResponse:
        file = await _read_file(requests)
        kept = await self._exams.keep(file, paper_digest(file), keys_digest(file), call.caller.student)
        match kept.outcome:
            case ImportOutcome.SESSIONS_LIVE:
                raise errors.ExamInUse(
                    "Students are sitting this exam: its questions cannot change now. Wait, or import it under another id."
                )
            case ImportOutcome.SESSIONS_RANKED:
                raise errors.ExamInUse("Students have sat this exam: its tie-break cannot change. Import it under another id.")
            case ImportOutcome.KEPT:
                pass
        if kept.exam is None:
            raise AssertionError("a kept exam is returned")
        return pb.ImportExamResponse(
            exam=exam_message(kept.exam, _now_ms()), key_version=kept.exam.key_version, changes=kept.changes
        )

    async def ListExamReports(self, request: pb.ListExamReportsRequest, call: Call) -> pb.ListExamReportsResponse:
        count = request.page_size or 50
        exams = await self._catalog.exams(read_page_token(request.page_token, "reports") or "", count + 1)
        return pb.ListExamReportsResponse(
            reports=await self._reports(exams[:count]),
            next_page_token=write_page_token(exams[count - 1].id, "reports") if len(exams) > count else "",
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

    async def ListResults(self, request: pb.ListResultsRequest, call: Call) -> pb.ListResultsResponse:
        await self._exam(request.exam_id)
        scope, count = f"results/{request.exam_id}", request.page_size or 200
        rows = await self._results.page(request.exam_id, _after(request.page_token, scope), count + 1)
        last = rows[count - 1] if len(rows) > count else None
        return pb.ListResultsResponse(
            results=[_row(row) for row in rows[:count]],
            next_page_token=write_page_token(f"{last.score}/{last.session}", scope) if last else "",
        )

    async def RebuildLeaderboard(self, request: pb.RebuildLeaderboardRequest, call: Call) -> pb.RebuildLeaderboardResponse:
        await self._exam(request.exam_id)
        built = await self._boards.rebuild(request.exam_id, self._standings)
        if built is None:
            raise errors.Conflict("The boards are being rebuilt already; look again in a moment.")
        return pb.RebuildLeaderboardResponse(students=built[0], boards=built[1])

    async def VerifyLeaderboard(self, request: pb.VerifyLeaderboardRequest, call: Call) -> pb.VerifyLeaderboardResponse:
        await self._exam(request.exam_id)
        reply = pb.VerifyLeaderboardResponse(complete=True)
        for cohort in [None, *await self._standings.cohorts(request.exam_id)]:
            ranked = await self._standings.ranked(request.exam_id, cohort)
            complete, entries = await self._boards.entries(request.exam_id, cohort)
            if cohort is None:
                reply.students = len(ranked)
            reply.complete &= complete or not ranked
            wrong = sorted(s for s in ranked.keys() | entries.keys() if ranked.get(s) != entries.get(s))
            reply.differences += len(wrong)
            reply.examples.extend(
                _difference(cohort, s, ranked.get(s), entries.get(s)) for s in wrong[: EXAMPLES - len(reply.examples)]
            )
        return reply

    async def _exam(self, exam_id: str) -> Exam:
        exam = await self._catalog.exam(exam_id, fresh=True)
        if exam is None:
            raise _no_exam()
        return exam

    async def _report(self, exam_id: str) -> pb.ExamReport:
        return (await self._reports([await self._exam(exam_id)]))[0]

    async def _reports(self, exams: Sequence[Exam]) -> Sequence[pb.ExamReport]:
        counts = await self._catalog.counts([exam.id for exam in exams])
        return [
            pb.ExamReport(
                exam=exam_message(exam, _now_ms()),
                key_version=exam.key_version,
                sessions=counts[exam.id].in_progress + counts[exam.id].submitted + counts[exam.id].scored,
                in_progress=counts[exam.id].in_progress,
                submitted=counts[exam.id].submitted,
                scored=counts[exam.id].scored,
                released_at=timestamp(exam.released_ms) if exam.released_ms is not None else None,
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


def _after(token: str, scope: str) -> tuple[int, UUID] | None:
    position = read_page_token(token, scope)
    if position is None:
        return None
    score, session = position.split("/")
    return int(score), UUID(session)


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


def _difference(cohort: str | None, student: str, ranked: int | None, entry: int | None) -> str:
    board = f"cohort {cohort}" if cohort else "exam"
    found = entry if entry is not None else "missing"
    wanted = ranked if ranked is not None else "absent"
    return f"{board}: {student} is {found}, and has to be {wanted}"


def _no_exam() -> errors.ExamNotFound:
    return errors.ExamNotFound("There is no such exam.")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
