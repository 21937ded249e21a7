"""ContentService: exams and papers. It needs PostgreSQL and nothing else, and never sees a key."""

import time
from hashlib import sha256
from typing import TypeVar

from finalbell.v1 import content_pb2 as pb
from google.protobuf.message import Message

from servers import errors
from servers.content.messages import paper_message
from servers.messages import exam_message, exam_position, read_page_token, timestamp, write_page_token
from servers.serving.wrap import Call
from stores.catalog import Catalog
from stores.records import Exam

Reply = TypeVar("Reply", bound=Message)


class ContentService:
    """Serves exams to everybody with a token, and a paper to those who have started it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._papers: dict[tuple[str, int], pb.GetPaperResponse] = {}

    async def ListExams(self, request: pb.ListExamsRequest, call: Call) -> pb.ListExamsResponse:
        count = request.page_size or 50
        exams = await self._catalog.exams(read_page_token(request.page_token, "exams", exam_position) or "", count + 1)
        reply = pb.ListExamsResponse(
            exams=[exam_message(exam, _now_ms()) for exam in exams[:count]],
            next_page_token=write_page_token(exams[count - 1].id, "exams") if len(exams) > count else "",
        )
        return _tagged(reply, call)

    async def GetExam(self, request: pb.GetExamRequest, call: Call) -> pb.GetExamResponse:
        exam = await self._exam(request.exam_id)
        return _tagged(pb.GetExamResponse(exam=exam_message(exam, _now_ms())), call)

    async def GetPaper(self, request: pb.GetPaperRequest, call: Call) -> pb.GetPaperResponse:
        exam = await self._exam(request.exam_id)
        if not exam.opened(_now_ms()):
            raise errors.ExamNotOpen("The exam is not open yet.", opensAt=timestamp(exam.opens_ms or 0).ToJsonString())
        version = await self._catalog.newest_session_version(exam.id, call.caller.student)
        if version is None:
            raise errors.SessionRequired("Start the exam first; its paper opens with your session.")
        call.header("cache-control", "private")
        return _tagged(await self._paper(exam.id, version), call)

    async def _exam(self, exam_id: str) -> Exam:
        exam = await self._catalog.exam(exam_id)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam.")
        return exam

    async def _paper(self, exam: str, version: int) -> pb.GetPaperResponse:
        """Return a paper; a version never changes, so this process builds each once."""
        if (exam, version) not in self._papers:
            questions = await self._catalog.questions(exam, version)
            self._papers[exam, version] = pb.GetPaperResponse(paper=paper_message(exam, version, questions))
        return self._papers[exam, version]


def _tagged(reply: Reply, call: Call) -> Reply:
    """Send an ETag with a reply, and an empty 304 instead of what the caller has already."""
    etag = f'"{sha256(reply.SerializeToString(deterministic=True)).hexdigest()[:32]}"'
    call.header("etag", etag)
    if etag in [one.strip().removeprefix("W/") for one in call.sent.get("if-none-match", "").split(",")]:
        call.answer_with(304)
        return type(reply)()
    return reply


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
