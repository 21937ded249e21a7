"""ScoringService: results, shown as far as the exam's release policies allow; item_statistics.py has the calls for staff."""

from collections.abc import Sequence
from uuid import UUID

from finalbell.v1 import scoring_pb2 as pb

from servers import errors
from servers.messages import timestamp
from servers.receipts import Receipts, Submission
from servers.scoring import rules
from servers.scoring.item_statistics import ItemStatistics
from servers.serving.wrap import Call
from stores.answer_keys import AnswerKeys
from stores.boards import Boards
from stores.catalog import Catalog
from stores.live import LiveSessions
from stores.records import Answer, Exam, Key, Result, SessionStatus, decode_answers
from stores.results import Results

RETRY_AFTER_SECONDS = "1"


class ScoringService:
    """Reads results. Whether a session is handed in is Redis's to say first, since PostgreSQL hears of it later."""

    def __init__(
        self,
        results: Results,
        keys: AnswerKeys,
        catalog: Catalog,
        boards: Boards,
        live: LiveSessions,
        receipts: Receipts,
        statistics: ItemStatistics,
    ) -> None:
        self._results = results
        self._keys = keys
        self._catalog = catalog
        self._boards = boards
        self._live = live
        self._receipts = receipts
        self._statistics = statistics

    async def GetResult(self, request: pb.GetResultRequest, call: Call) -> pb.GetResultResponse:
        session = UUID(request.session_id)
        result = await self._results.read(session)
        if result is None:
            return await self._waiting(session, call)
        exam = await self._catalog.exam(result.exam)
        if exam is None or result.student != call.caller.student:
            raise errors.SessionNotFound
        return pb.GetResultResponse(result=await self._shown(result, exam))

    async def ListReceiptKeys(self, request: pb.ListReceiptKeysRequest, call: Call) -> pb.ListReceiptKeysResponse:
        keys = [
            pb.ReceiptKey(kty="OKP", crv="Ed25519", x=key.x, kid=key.kid, alg="EdDSA", use="sig") for key in self._receipts.keys
        ]
        return pb.ListReceiptKeysResponse(keys=keys)

    async def ComputeItemStatistics(self, request: pb.ComputeItemStatisticsRequest, call: Call) -> pb.ComputeItemStatisticsResponse:
        return await self._statistics.compute(request, call)

    async def GetItemStatistics(self, request: pb.GetItemStatisticsRequest, call: Call) -> pb.GetItemStatisticsResponse:
        return await self._statistics.get(request, call)

    async def _waiting(self, session: UUID, call: Call) -> pb.GetResultResponse:
        """Answer for a session without a result: still running, or on its way."""
        owner = await self._results.owner(session)
        if owner is None or owner.student != call.caller.student:
            raise errors.SessionNotFound
        status = owner.status
        if status is SessionStatus.IN_PROGRESS:
            status = await self._live.peek(session) or status
        if status is SessionStatus.IN_PROGRESS:
            raise errors.SessionInProgress("The session is not handed in yet; submit it first.")
        call.answer_with(202)
        call.header("retry-after", RETRY_AFTER_SECONDS)
        waiting = pb.Result(status=pb.Result.SCORING)
        if owner.submitted_ms is not None and owner.answers_sha256 is not None:
            submission = Submission(
                session, owner.student, owner.exam, owner.exam_version, owner.submitted_ms, owner.answers_sha256
            )
            waiting = pb.Result(status=pb.Result.SCORING, receipt=self._receipts.sign(submission))
            waiting.submitted_at.CopyFrom(timestamp(owner.submitted_ms))
        return pb.GetResultResponse(result=waiting)

    async def _shown(self, result: Result, exam: Exam) -> pb.Result:
        """Return what may be seen of a result now."""
        ended = await self._catalog.ended(exam.id)
        receipt = self._receipts.sign(_submission(result))
        shown = pb.Result(revision=result.revision, answers_sha256=result.answers_sha256.hex(), receipt=receipt)
        shown.submitted_at.CopyFrom(timestamp(result.submitted_ms))
        if not exam.shows_scores(ended=ended):
            shown.status = pb.Result.WITHHELD
            if exam.release_score == "AFTER_CLOSE" and exam.closes_ms is not None:
                shown.releases_at.CopyFrom(timestamp(exam.closes_ms))
            return shown
        shown.status = pb.Result.PARTIAL if result.partial else pb.Result.SCORED
        shown.score, shown.max_score = result.score, result.max_score
        rank = None if result.partial else await self._boards.rank(exam.id, result.student)
        if rank is not None:
            shown.rank = rank
            shown.rank_as_of.GetCurrentTime()
        if exam.shows_review(ended=ended):
            shown.breakdown.extend(await self._breakdown(result))
        return shown

    async def _breakdown(self, result: Result) -> Sequence[pb.BreakdownItem]:
        """Derive the breakdown from what was scored and the keys it was scored with."""
        keys = await self._keys.read(result.exam, result.exam_version, result.key_version)
        if keys is None:
            return []
        answers = decode_answers(result.answers)
        explanations = await self._keys.explanations(result.exam, result.exam_version, result.key_version)
        grades = rules.grade(answers, keys)
        return [
            _item(
                key,
                answers.get(key.question),
                graded.outcome,
                points,
                keys.marking.correct,
                explanations.get(key.question, ""),
            )
            for key, graded, points in zip(keys.keys, grades.graded, result.points, strict=True)
        ]


def _submission(of: Result) -> Submission:
    return Submission(of.session, of.student, of.exam, of.exam_version, of.submitted_ms, of.answers_sha256)


def _item(key: Key, answer: Answer | None, outcome: rules.Outcome, points: int, correct: int, explanation: str) -> pb.BreakdownItem:
    return pb.BreakdownItem(
        question_id=key.question,
        topic=key.topic,
        points=points,
        max_points=key.points * correct,
        outcome=pb.BreakdownItem.Outcome.Value(outcome),
        given=answer.value if answer else "",
        correct=rules.correct_text(key),
        explanation=explanation,
    )
