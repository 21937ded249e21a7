"""Calls to a finalbell as an admin, over gRPC."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, cast

import grpc
from finalbell.v1 import admin_pb2, content_pb2, integrity_pb2, lecture_pb2, payment_pb2, scoring_pb2, session_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub, SessionAdminServiceStub
from finalbell.v1.content_pb2_grpc import ContentServiceStub
from finalbell.v1.integrity_pb2_grpc import IntegrityAdminServiceStub, IntegrityServiceStub
from finalbell.v1.lecture_pb2_grpc import LectureAdminServiceStub, LectureServiceStub
from finalbell.v1.payment_pb2_grpc import PaymentAdminServiceStub, PaymentServiceStub
from finalbell.v1.scoring_pb2_grpc import ScoringServiceStub
from finalbell.v1.session_pb2_grpc import SessionServiceStub
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

CHUNK = 512 * 1024
SECONDS = 120
EXPORT_SECONDS = 600
WATCH_SECONDS = 3_700
OPTIONS = [
    ("grpc.max_metadata_size", 1 << 20),  # room for every error of a file
    ("grpc.absolute_max_metadata_size", 1 << 21),
    ("grpc.max_receive_message_length", 64 << 20),  # a case of eight students with 500 questions, as a report and as JSON
]


class Admin:
    """One finalbell; each method is one call, and raises grpc.RpcError."""

    def __init__(self, target: str, token: str, *, secure: bool, through_proxy: bool) -> None:
        options = [*OPTIONS, ("grpc.enable_http_proxy", int(through_proxy))]
        channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
            if secure
            else grpc.insecure_channel(target, options=options)
        )
        self._channel = channel
        authorized = grpc.intercept_channel(channel, _Bearer(token))
        self._stub = ExamAdminServiceStub(authorized)
        self._sessions = SessionAdminServiceStub(authorized)
        self._students = SessionServiceStub(authorized)
        self._scoring = ScoringServiceStub(authorized)
        self._shop = PaymentServiceStub(authorized)
        self._payments = PaymentAdminServiceStub(authorized)
        self._content = ContentServiceStub(authorized)
        self._lectures = LectureAdminServiceStub(authorized)
        self._shown_lectures = LectureServiceStub(authorized)
        self._integrity = IntegrityServiceStub(authorized)
        self._integrity_admin = IntegrityAdminServiceStub(authorized)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def watch_integrity(self, exam: str, top: int) -> Iterator[integrity_pb2.IntegrityView]:
        """Return an exam's sessions with something over its threshold, and again whenever they change, for an hour at most."""
        request = integrity_pb2.WatchIntegrityRequest(exam_id=exam, top=top)
        for message in self._integrity.WatchIntegrity(request, timeout=WATCH_SECONDS):
            if message.HasField("view"):
                yield message.view

    def thresholds(self, exam: str) -> integrity_pb2.GetThresholdsResponse:
        """Return from which number on each indicator of an exam is shown."""
        return self._integrity_admin.GetThresholds(integrity_pb2.GetThresholdsRequest(exam_id=exam))

    def set_thresholds(self, exam: str, changes: Mapping[str, int | None]) -> integrity_pb2.SetThresholdsResponse:
        """Set some of an exam's thresholds; None: never shown."""
        wanted = [integrity_pb2.ThresholdChange(name=name, threshold=threshold) for name, threshold in changes.items()]
        return self._integrity_admin.SetThresholds(integrity_pb2.SetThresholdsRequest(exam_id=exam, changes=wanted))

    def erase_signals(self, student: str) -> integrity_pb2.EraseSignalsResponse:
        """Delete what is kept of what happened around a student's sessions."""
        return self._integrity_admin.EraseSignals(integrity_pb2.EraseSignalsRequest(student_id=student))

    def analyse(self, exam: str, groupings: Sequence[str], fdr: float, strongest: int) -> integrity_pb2.Analysis:
        """Have an exam's answers compared; returns the run, done or under way."""
        wanted = [integrity_pb2.Analysis.Grouping.Value(name) for name in groupings]
        request = integrity_pb2.AnalyseExamRequest(exam_id=exam, groupings=wanted, fdr=fdr, strongest=strongest)
        return self._integrity_admin.AnalyseExam(request).analysis

    def analysis(self, exam: str, version: int) -> integrity_pb2.Analysis:
        """Return a run; 0: the newest."""
        return self._integrity_admin.GetAnalysis(integrity_pb2.GetAnalysisRequest(exam_id=exam, version=version)).analysis

    def pairs(self, exam: str, version: int, *, flagged: bool) -> tuple[int, Sequence[integrity_pb2.SimilarPair]]:
        """Return which run it is (0: the newest that is done) and its pairs, the strongest first."""
        found: list[integrity_pb2.SimilarPair] = []
        after = ""
        while True:
            request = integrity_pb2.ListPairsRequest(
                exam_id=exam, version=version, flagged_only=flagged, page_size=200, page_token=after
            )
            page = self._integrity_admin.ListPairs(request)
            found += page.pairs
            after, version = page.next_page_token, page.version
            if not after:
                return version, found

    def open_case(self, exam: str, sessions: Sequence[str], note: str) -> integrity_pb2.IntegrityCase:
        """Open a case about sessions, or return the one that there is."""
        request = integrity_pb2.OpenCaseRequest(exam_id=exam, session_ids=sessions, note=note)
        return self._integrity_admin.OpenCase(request).case

    def case(self, case: str) -> integrity_pb2.IntegrityCase:
        """Return a case with all that is kept of it."""
        return self._integrity_admin.GetCase(integrity_pb2.GetCaseRequest(case_id=case)).case

    def cases(self, exam: str, student: str) -> integrity_pb2.ListCasesResponse:
        """Return all cases, or those of an exam or a student."""
        whole, after = integrity_pb2.ListCasesResponse(), ""
        while True:
            request = integrity_pb2.ListCasesRequest(exam_id=exam, student_id=student, page_size=200, page_token=after)
            page = self._integrity_admin.ListCases(request)
            whole.cases.extend(page.cases)
            after = page.next_page_token
            if not after:
                return whole

    def move_case(self, case: str, revision: int, to: str, note: str) -> integrity_pb2.IntegrityCase:
        """Move a case on from what was looked at."""
        state = integrity_pb2.IntegrityCase.State.Value(to)
        request = integrity_pb2.MoveCaseRequest(case_id=case, revision=revision, to_state=state, note=note)
        return self._integrity_admin.MoveCase(request).case

    def export_case(self, case: str) -> integrity_pb2.ExportCaseResponse:
        """Return a case as a report and as JSON."""
        return self._integrity_admin.ExportCase(integrity_pb2.ExportCaseRequest(case_id=case))

    def import_products(self, request: payment_pb2.ImportProductsRequest) -> payment_pb2.ImportProductsResponse:
        """Keep products and coupons."""
        return self._payments.ImportProducts(request)

    def products(self) -> payment_pb2.ListProductsResponse:
        """Return what can be bought."""
        return self._shop.ListProducts(payment_pb2.ListProductsRequest())

    def payments(self, student: str) -> payment_pb2.ListPaymentsResponse:
        """Return a student's orders."""
        return self._payments.ListPayments(payment_pb2.ListPaymentsRequest(student_id=student))

    def payment_record(self, payment: str) -> payment_pb2.GetPaymentRecordResponse:
        """Return all that is known of an order."""
        return self._payments.GetPaymentRecord(payment_pb2.GetPaymentRecordRequest(payment_id=payment))

    def refund(self, payment: str, reason: str, amount: int | None, key: str) -> payment_pb2.Payment:
        """Give money back, once per key."""
        request = payment_pb2.RefundPaymentRequest(payment_id=payment, reason=reason, amount=amount, idempotency_key=key)
        return self._payments.RefundPayment(request).payment

    def grant(self, student: str, product: str, reason: str, days: int | None) -> None:
        """Give a student a product without money; `days` None: for good."""
        wanted = payment_pb2.GrantEntitlementRequest(student_id=student, product_id=product, reason=reason, days=days)
        self._payments.GrantEntitlement(wanted)

    def revoke(self, student: str, product: str, reason: str) -> None:
        """Take back what staff gave."""
        wanted = payment_pb2.RevokeEntitlementRequest(student_id=student, product_id=product, reason=reason)
        self._payments.RevokeEntitlement(wanted)

    def reconcile(self, provider: str) -> payment_pb2.ReconcilePaymentsResponse:
        """Ask the gateways what has become of open orders."""
        return self._payments.ReconcilePayments(payment_pb2.ReconcilePaymentsRequest(provider=provider))

    def drift(self, days: int) -> payment_pb2.GetPaymentDriftResponse:
        """Compare what is paid with what is owned."""
        return self._payments.GetPaymentDrift(payment_pb2.GetPaymentDriftRequest(days=days))

    def import_exam(self, file: bytes, exam_id: str, settings: dict[str, str]) -> admin_pb2.ImportExamResponse:
        """Import an exam file under its own id or `exam_id`, with fields of `exam` replaced by `settings`."""
        return self._stub.ImportExam(_chunks(file, exam_id, settings))

    def import_bank(self, file: bytes, bank_id: str) -> admin_pb2.ImportBankResponse:
        """Import a bank of practice questions under its own id or `bank_id`."""
        pieces = (file[at : at + CHUNK] for at in range(0, max(1, len(file)), CHUNK))
        return self._stub.ImportBank(
            admin_pb2.ImportBankRequest(bank_id="" if n else bank_id, chunk=piece) for n, piece in enumerate(pieces)
        )

    def banks(self) -> content_pb2.ListBanksResponse:
        """Return every bank of practice questions."""
        whole, after = content_pb2.ListBanksResponse(), ""
        while True:
            page = self._content.ListBanks(content_pb2.ListBanksRequest(page_size=200, page_token=after))
            whole.banks.extend(page.banks)
            after = page.next_page_token
            if not after:
                return whole

    def delete_bank(self, bank: str) -> None:
        """Remove a bank with its questions."""
        self._stub.DeleteBank(admin_pb2.DeleteBankRequest(bank_id=bank))

    def reports(self, *, rehearsals: bool = False) -> admin_pb2.ListExamReportsResponse:
        """Return all exams with their counts, and where wanted the shadows of rehearsals too."""
        whole = admin_pb2.ListExamReportsResponse()
        while True:
            after = whole.next_page_token
            request = admin_pb2.ListExamReportsRequest(page_size=200, page_token=after, show_rehearsals=rehearsals)
            page = self._stub.ListExamReports(request)
            whole.reports.extend(page.reports)
            whole.next_page_token = page.next_page_token
            if not page.next_page_token:
                return whole

    def report(self, exam: str) -> admin_pb2.ExamReport:
        """Return one exam with its counts."""
        return self._stub.GetExamReport(admin_pb2.GetExamReportRequest(exam_id=exam)).report

    def close_exam(self, exam: str) -> admin_pb2.ExamReport:
        """Let nobody start an exam any more."""
        return self._stub.CloseExam(admin_pb2.CloseExamRequest(exam_id=exam)).report

    def release(self, exam: str) -> admin_pb2.ExamReport:
        """Release the scores of an exam."""
        return self._stub.ReleaseExam(admin_pb2.ReleaseExamRequest(exam_id=exam)).report

    def warm(self, exam: str) -> admin_pb2.WarmExamResponse:
        """Read what the first starts of an exam would wait for."""
        return self._stub.WarmExam(admin_pb2.WarmExamRequest(exam_id=exam))

    def results(self, exam: str) -> admin_pb2.ListResultsResponse:
        """Return all results of an exam, best first."""
        whole, after = admin_pb2.ListResultsResponse(), ""
        while True:
            page = self._stub.ListResults(admin_pb2.ListResultsRequest(exam_id=exam, page_size=1000, page_token=after))
            whole.results.extend(page.results)
            after = page.next_page_token
            if not after:
                return whole

    def item_statistics(self, exam: str) -> scoring_pb2.ItemStatistics:
        """Have an exam's item statistics computed, and return them; a call that ends too early is repeated."""
        while True:
            reply = self._scoring.ComputeItemStatistics(scoring_pb2.ComputeItemStatisticsRequest(exam_id=exam))
            if not reply.computing:
                return reply.statistics

    def set_key(self, request: admin_pb2.SetAnswerKeyRequest) -> admin_pb2.SetAnswerKeyResponse:
        """Change what counts as right for one question."""
        return self._stub.SetAnswerKey(request)

    def regrade(self, exam: str, reason: str, *, dry_run: bool) -> scoring_pb2.Regrade:
        """Ask for a regrade, or for what it would change."""
        request = scoring_pb2.RegradeExamRequest(exam_id=exam, reason=reason, dry_run=dry_run)
        return self._scoring.RegradeExam(request).regrade

    def regrade_of(self, exam: str, regrade: str) -> scoring_pb2.Regrade:
        """Return how far a regrade is."""
        return self._scoring.GetRegrade(scoring_pb2.GetRegradeRequest(exam_id=exam, regrade_id=regrade)).regrade

    def history(self, session: str) -> scoring_pb2.ListResultHistoryResponse:
        """Return what a session's result was before."""
        return self._scoring.ListResultHistory(scoring_pb2.ListResultHistoryRequest(session_id=session))

    def grading_tasks(self, exam: str, question: str, status: str) -> scoring_pb2.ListGradingTasksResponse:
        """Return all tasks, oldest first."""
        whole, after = scoring_pb2.ListGradingTasksResponse(), ""
        wanted = scoring_pb2.GradingTask.Status.Value(status) if status else scoring_pb2.GradingTask.STATUS_UNSPECIFIED
        while True:
            request = scoring_pb2.ListGradingTasksRequest(
                exam_id=exam, question_id=question, status=wanted, page_size=200, page_token=after
            )
            page = self._scoring.ListGradingTasks(request)
            whole.tasks.extend(page.tasks)
            after = page.next_page_token
            if not after:
                return whole

    def claim(self, exam: str, question: str, task: str) -> scoring_pb2.ClaimGradingTaskResponse:
        """Take a task."""
        request = scoring_pb2.ClaimGradingTaskRequest(exam_id=exam, question_id=question, task_id=task)
        return self._scoring.ClaimGradingTask(request)

    def renew(self, task: str, claim: str) -> scoring_pb2.RenewGradingTaskResponse:
        """Keep a claimed task longer."""
        return self._scoring.RenewGradingTask(scoring_pb2.RenewGradingTaskRequest(task_id=task, claim_id=claim))

    def release_task(self, task: str, claim: str) -> None:
        """Give a claimed task back."""
        self._scoring.ReleaseGradingTask(scoring_pb2.ReleaseGradingTaskRequest(task_id=task, claim_id=claim))

    def grade(
        self, task: str, claim: str, points: Sequence[int], comments: Sequence[str], comment: str
    ) -> scoring_pb2.SubmitGradeResponse:
        """Grade a claimed task."""
        request = scoring_pb2.SubmitGradeRequest(task_id=task, claim_id=claim, comment=comment)
        for given, text in zip_longest(points, comments[: len(points)], fillvalue=""):
            request.criteria.add(points=int(given), comment=text)
        return self._scoring.SubmitGrade(request)

    def backlog(self) -> admin_pb2.GetScoringBacklogResponse:
        """Return what is on its way to a score."""
        return self._sessions.GetScoringBacklog(admin_pb2.GetScoringBacklogRequest())

    def dead_letter(self, letter: str) -> admin_pb2.GetDeadLetterResponse:
        """Return one submit that could not be scored, with its answers."""
        return self._sessions.GetDeadLetter(admin_pb2.GetDeadLetterRequest(letter_id=letter))

    def rebuild(self, exam: str) -> admin_pb2.RebuildLeaderboardResponse:
        """Build an exam's boards again."""
        return self._stub.RebuildLeaderboard(admin_pb2.RebuildLeaderboardRequest(exam_id=exam))

    def verify(self, exam: str) -> admin_pb2.VerifyLeaderboardResponse:
        """Compare an exam's boards with PostgreSQL."""
        return self._stub.VerifyLeaderboard(admin_pb2.VerifyLeaderboardRequest(exam_id=exam))

    def freeze(self, exam: str) -> admin_pb2.FreezeLeaderboardResponse:
        """Freeze an exam's board."""
        return self._stub.FreezeLeaderboard(admin_pb2.FreezeLeaderboardRequest(exam_id=exam))

    def reveal(self, exam: str, steps: int) -> admin_pb2.RevealLeaderboardResponse:
        """Show some more of a frozen board."""
        return self._stub.RevealLeaderboard(admin_pb2.RevealLeaderboardRequest(exam_id=exam, steps=steps))

    def release_board(self, exam: str) -> admin_pb2.ReleaseLeaderboardResponse:
        """Show all of a frozen board."""
        return self._stub.ReleaseLeaderboard(admin_pb2.ReleaseLeaderboardRequest(exam_id=exam))

    def export(self, exam: str, cohort: str, form: str) -> Iterator[admin_pb2.ExportLeaderboardResponse]:
        """Read a whole board as a file, piece by piece."""
        kind = admin_pb2.ExportLeaderboardRequest.Format.Value(form)
        request = admin_pb2.ExportLeaderboardRequest(exam_id=exam, cohort=cohort, format=kind)
        yield from self._stub.ExportLeaderboard(request, timeout=EXPORT_SECONDS)

    def set_series(self, series: str, title: str, exams: Sequence[str], best: int | None) -> admin_pb2.ExamSeries:
        """Make or change a series."""
        request = admin_pb2.SetExamSeriesRequest(series_id=series, title=title, exam_ids=exams, best_of=best)
        return self._stub.SetExamSeries(request).series

    def series(self) -> admin_pb2.ListExamSeriesResponse:
        """Return every series."""
        return self._stub.ListExamSeries(admin_pb2.ListExamSeriesRequest())

    def delete_series(self, series: str) -> None:
        """Forget a series."""
        self._stub.DeleteExamSeries(admin_pb2.DeleteExamSeriesRequest(series_id=series))

    def set_lecture(self, request: lecture_pb2.SetLectureRequest) -> lecture_pb2.SetLectureResponse:
        """Make or change a lecture."""
        return self._lectures.SetLecture(request)

    def lectures(self, topic: str) -> lecture_pb2.ListLecturesResponse:
        """Return all lectures, or those of one topic."""
        whole, after = lecture_pb2.ListLecturesResponse(), ""
        while True:
            page = self._shown_lectures.ListLectures(lecture_pb2.ListLecturesRequest(topic=topic, page_size=200, page_token=after))
            whole.lectures.extend(page.lectures)
            after = page.next_page_token
            if not after:
                return whole

    def delete_lecture(self, lecture: str) -> None:
        """Forget a lecture."""
        self._lectures.DeleteLecture(lecture_pb2.DeleteLectureRequest(lecture_id=lecture))

    def create_rehearsal(self, exam: str, session_seconds: int) -> admin_pb2.ExamReport:
        """Make a shadow of an exam, whose sessions last at least so long."""
        return self._stub.CreateRehearsal(admin_pb2.CreateRehearsalRequest(exam_id=exam, session_seconds=session_seconds)).report

    def remove_rehearsal(self, shadow: str) -> admin_pb2.RemoveRehearsalResponse:
        """Remove as much of a shadow as goes within some seconds; to be repeated while sessions are left."""
        return self._stub.RemoveRehearsal(admin_pb2.RemoveRehearsalRequest(rehearsal_id=shadow))

    def reschedule(self, request: admin_pb2.UpdateScheduleRequest) -> admin_pb2.UpdateScheduleResponse:
        """Move when an exam opens and closes."""
        return self._stub.UpdateSchedule(request)

    def accommodate(self, request: admin_pb2.SetAccommodationRequest) -> admin_pb2.SetAccommodationResponse:
        """Give a student extra time."""
        return self._stub.SetAccommodation(request)

    def deadline(self, session: str) -> session_pb2.Deadline:
        """Return why a session ends when it ends."""
        return self._students.ExplainDeadline(session_pb2.ExplainDeadlineRequest(session_id=session)).deadline

    def adjust(self, session: str, seconds: int, reason: str, key: str) -> session_pb2.Deadline:
        """Give a session time, once for each key."""
        request = admin_pb2.AdjustDeadlineRequest(session_id=session, seconds=seconds, reason=reason, idempotency_key=key)
        return self._sessions.AdjustDeadline(request).deadline

    def dead_letters(self) -> admin_pb2.ListDeadLettersResponse:
        """Return all submits that could not be scored and wait, oldest first."""
        whole, after = admin_pb2.ListDeadLettersResponse(), ""
        while True:
            page = self._sessions.ListDeadLetters(admin_pb2.ListDeadLettersRequest(page_size=200, page_token=after))
            whole.letters.extend(page.letters)
            after = page.next_page_token
            if not after:
                return whole

    def replay(self, letter: str) -> str:
        """Send a submit to scoring once more; returns its session."""
        return str(self._sessions.ReplayDeadLetter(admin_pb2.ReplayDeadLetterRequest(letter_id=letter)).session_id)

    def discard(self, letter: str, reason: str) -> None:
        """Lay a message down that belongs to no session."""
        self._sessions.DiscardDeadLetter(admin_pb2.DiscardDeadLetterRequest(letter_id=letter, reason=reason))


def exam_row(report: admin_pb2.ExamReport) -> list[str]:
    """Return an exam as cells: id, title, state, version, questions, in progress, submitted, scored."""
    exam = report.exam
    counts = (exam.version, exam.question_count, report.in_progress, report.submitted, report.scored)
    return [exam.exam_id, exam.title, content_pb2.Exam.State.Name(exam.state), *map(str, counts)]


def bank_row(bank: content_pb2.Bank) -> list[str]:
    """Return a bank as cells: id, title, version, questions, topics, what opens it."""
    topics = ", ".join(f"{one.topic or '(none)'} {one.question_count}" for one in bank.topics)
    return [bank.bank_id, bank.title, str(bank.version), str(bank.question_count), topics, " ".join(bank.product_ids) or "free"]


def result_row(result: admin_pb2.ExamResult) -> list[str]:
    """Return a result as cells: rank, student, alias, attempt, score, max, status, submitted, session."""
    rank = str(result.rank) if result.HasField("rank") else ""
    numbers = [str(number) for number in (result.attempt, result.score, result.max_score)]
    status, submitted = scoring_pb2.Result.Status.Name(result.status), result.submitted_at.ToJsonString()
    return [rank, result.student_id, result.alias, *numbers, status, submitted, result.session_id]


def task_row(task: scoring_pb2.GradingTask) -> list[str]:
    """Return a grading task as cells: task, exam, question, which grade, status, since, claimed until."""
    until = task.claimed_until.ToJsonString() if task.HasField("claimed_until") else ""
    status = scoring_pb2.GradingTask.Status.Name(task.status)
    return [task.task_id, task.exam_id, task.question_id, str(task.slot), status, task.created_at.ToJsonString(), until]


def revision_row(revision: scoring_pb2.ResultRevision) -> list[str]:
    """Return an earlier revision of a result as cells."""
    status, until = scoring_pb2.Result.Status.Name(revision.status), revision.replaced_at.ToJsonString()
    return [str(revision.revision), str(revision.score), status, str(revision.key_version), until, revision.reason]


def as_json(message: Message) -> str:
    """Return a reply as the REST contract would, but numbers of 64 bits as numbers: scripts reckon with them, and round none."""
    return json.dumps(_plain(message), indent=2, ensure_ascii=False)


def _with_numbers(described: Descriptor, found: dict[str, Any]) -> dict[str, Any]:
    """Return a message's JSON with all its numbers as such."""
    fields = {field.json_name: field for field in described.fields}

    def plain(field: FieldDescriptor, value: Any) -> Any:
        if isinstance(value, list):
            return [plain(field, one) for one in value]
        if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
            return int(value)
        kind = field.message_type
        if kind is None or not isinstance(value, dict):  # a time, too, is a text
            return value
        if kind.GetOptions().map_entry:
            return {name: plain(kind.fields_by_name["value"], one) for name, one in value.items()}
        return _with_numbers(kind, value)

    return {name: plain(fields[name], value) for name, value in found.items()}


def as_line(message: Message) -> str:
    """Return a reply as JSON on one line."""
    return json.dumps(_plain(message), ensure_ascii=False)


def _plain(message: Message) -> dict[str, Any]:
    found = MessageToDict(message, always_print_fields_with_no_presence=True)
    return _with_numbers(cast(Descriptor, message.DESCRIPTOR), found)


def explain(failure: grpc.RpcError) -> list[str]:
    """Return what a refusal says: its message, and a line for each violated field that the message does not name."""
    status = rpc_status.from_call(failure)
    if status is None:
        code: grpc.StatusCode = failure.code()
        return [f"finalbell did not answer: {code.name}, {failure.details()}; 'finalbell status' shows what runs."]
    lines = [status.message]
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            named = [": ".join(filter(None, (one.field, one.description))) for one in bad.field_violations]
            lines += [f"  {one}" for one in named if one not in status.message]
    return lines


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends the token with every call, and gives a deadline to every call that has none."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._authorized(details), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._authorized(details), requests)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._authorized(details), request)

    def _authorized(self, details: Any) -> Any:
        return details._replace(metadata=[("authorization", f"Bearer {self._token}")], timeout=details.timeout or SECONDS)


def _chunks(data: bytes, exam_id: str, settings: dict[str, str]) -> Iterator[admin_pb2.ImportExamRequest]:
    """Stream a file; id and settings go with its first piece."""
    yield admin_pb2.ImportExamRequest(exam_id=exam_id, settings=settings, chunk=data[:CHUNK])
    for at in range(CHUNK, len(data), CHUNK):
        yield admin_pb2.ImportExamRequest(chunk=data[at : at + CHUNK])
