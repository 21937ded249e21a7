"""ContentService: exams, papers, explanations; practice is in practice.py. It needs PostgreSQL and nothing else, for a while not
even that, and never sees the key of an exam."""

import time

from finalbell.v1 import content_pb2 as pb

from servers import errors
from servers.content.doors import Doors
from servers.content.practice import Practice
from servers.content.replies import IF_AWAY, IMMUTABLE, Reply, encoded
from servers.content.shelves import SEALED_UNCHANGED, Shelves
from servers.errors import Refusal
from servers.messages import exam_message, exam_position, read_page_token, timestamp, write_page_token
from servers.serving.wrap import Call
from stores.catalog import Sat
from stores.records import Exam

KEPT_SECONDS = 5
"""For how long a client may keep what it has read of exams, but not beyond when one of them opens or closes."""


class ContentService:
    """Serves exams to everybody with a token, a paper to those who have started it, a sealed one to anybody."""

    def __init__(self, shelves: Shelves, doors: Doors) -> None:
        self._shelves = shelves
        self._doors = doors
        practice = Practice(shelves, doors)
        self.ListBanks, self.ListQuestions = practice.list_banks, practice.list_questions
        self.GetSolution, self.CheckAnswer = practice.get_solution, practice.check_answer

    async def ListExams(self, request: pb.ListExamsRequest, call: Call) -> bytes:
        reply, count, now_ms = Reply(call), request.page_size or 50, _now_ms()
        after = read_page_token(request.page_token, "exams", exam_position) or ""
        exams = reply.take(await self._shelves.exams(after, count + 1))
        page = pb.ListExamsResponse(
            exams=[exam_message(exam, now_ms) for exam in exams[:count]],
            next_page_token=write_page_token(exams[count - 1].id, "exams") if len(exams) > count else "",
        )
        return reply.send(encoded(page), _kept(now_ms, *exams[:count]))

    async def GetExam(self, request: pb.GetExamRequest, call: Call) -> bytes:
        reply, now_ms = Reply(call), _now_ms()
        exam = await self._exam(request.exam_id, reply)
        return reply.send(encoded(pb.GetExamResponse(exam=exam_message(exam, now_ms))), _kept(now_ms, exam))

    async def GetPaper(self, request: pb.GetPaperRequest, call: Call) -> bytes:
        reply = Reply(call)
        exam = await self._opened(request.exam_id, reply)
        kept = await self._shelves.seat(exam.id, call.caller.student)
        if kept is None:
            raise errors.SessionRequired("Start the exam first; its paper opens with your session.")
        seat = reply.take(kept)
        if not seat.running:  # a session that runs is never cut
            await self._doors.admit(call.caller.student, exam.products, reply)
        return reply.send(reply.take(await self._shelves.paper(exam.id, seat.exam_version)))

    async def GetSealedPaper(self, request: pb.GetSealedPaperRequest, call: Call) -> bytes:
        reply = Reply(call)
        kept = await self._shelves.sealed(request.exam_id, request.version)
        if kept is None:
            raise errors.SealedPaperNotFound
        return reply.send(reply.take(kept), IMMUTABLE, SEALED_UNCHANGED)

    async def GetExplanation(self, request: pb.GetExplanationRequest, call: Call) -> bytes:
        reply = Reply(call)
        exam = await self._opened(request.exam_id, reply)
        kept = await self._shelves.sat(exam.id, call.caller.student)
        if kept is None:
            raise await self._unsat(exam, call, reply)
        sat = reply.take(kept)
        ended = exam.asks_for_end() and reply.take(await self._shelves.ended(exam.id))
        if not (exam.shows_scores(ended=ended) and exam.shows_review(ended=ended)):
            raise _withheld(exam)
        await self._doors.admit(call.caller.student, exam.products, reply)
        return reply.send(encoded(pb.GetExplanationResponse(explanation=await self._explanation(exam, sat, request, reply))))

    async def _explanation(self, exam: Exam, sat: Sat, request: pb.GetExplanationRequest, reply: Reply) -> pb.Explanation:
        kept = await self._shelves.explanations(exam.id, sat)
        if kept is None:
            raise _withheld(exam)
        body = reply.take(kept).get(request.question_id)
        if body is None:
            raise errors.QuestionNotFound("The paper that you have sat has no such question.")
        return pb.Explanation(exam_id=exam.id, question_id=request.question_id, exam_version=sat.exam_version, body=body)

    async def _unsat(self, exam: Exam, call: Call, reply: Reply) -> Refusal:
        """Return why somebody without a result may see nothing of it."""
        kept = await self._shelves.seat(exam.id, call.caller.student)
        if kept is None:
            return errors.SessionRequired("Sit the exam first; its explanations come with your result.")
        if reply.take(kept).running:
            return errors.SessionInProgress("The session is not handed in yet; submit it first.")
        return errors.SessionUnscored("The result is on its way.", retry_seconds=1.0)

    async def _exam(self, exam_id: str, reply: Reply) -> Exam:
        kept = await self._shelves.exam(exam_id)
        if kept is None:
            raise errors.ExamNotFound("There is no such exam.")
        return reply.take(kept)

    async def _opened(self, exam_id: str, reply: Reply) -> Exam:
        exam = await self._exam(exam_id, reply)
        if not exam.opened(_now_ms()):
            raise errors.ExamNotOpen("The exam is not open yet.", opensAt=timestamp(exam.opens_ms or 0).ToJsonString())
        return exam


def _withheld(exam: Exam) -> Refusal:
    if exam.release_review == "AFTER_CLOSE" and exam.closes_ms is not None:
        releases_at = timestamp(exam.closes_ms).ToJsonString()
        return errors.ReviewWithheld("The exam does not show this before its last session is over.", releasesAt=releases_at)
    return errors.ReviewWithheld("The exam does not show this, or not yet.")


def _kept(now_ms: int, *exams: Exam) -> str:
    """Return for how long these exams may be kept: until the first of them opens or closes, at most."""
    flips = [at for exam in exams for at in (exam.opens_ms, exam.closes_ms) if at is not None and at > now_ms]
    seconds = min([KEPT_SECONDS, *((at - now_ms) // 1000 for at in flips)])
    return f"private, max-age={seconds}, {IF_AWAY}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
