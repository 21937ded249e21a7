"""LectureAdminService: what lectures there are, and where their media lie."""

from finalbell.v1 import lecture_pb2 as pb

from servers import errors
from servers.messages import refuse_twice
from servers.serving.wrap import Call
from stores.lectures import Captions, Lecture, Lectures, SetOutcome

PLAYLIST = "master.m3u8"


class LectureAdminService:
    """What staff do with lectures; all of it is on record."""

    def __init__(self, lectures: Lectures) -> None:
        self._lectures = lectures

    async def SetLecture(self, request: pb.SetLectureRequest, call: Call) -> pb.SetLectureResponse:
        refuse_twice([one.language.lower() for one in request.captions], "captions[{}].language")
        outcome = await self._lectures.set(_lecture(request), call.caller.student)
        return pb.SetLectureResponse(made=outcome is SetOutcome.MADE, changed=outcome is not SetOutcome.SAME)

    async def DeleteLecture(self, request: pb.DeleteLectureRequest, call: Call) -> pb.DeleteLectureResponse:
        if not await self._lectures.delete(request.lecture_id, call.caller.student):
            raise errors.LectureNotFound
        return pb.DeleteLectureResponse()


def _lecture(request: pb.SetLectureRequest) -> Lecture:
    return Lecture(
        id=request.lecture_id,
        title=request.title,
        description=request.description,
        topic=request.topic,
        duration_seconds=request.duration_seconds,
        folder=request.folder or request.lecture_id,
        playlist=request.playlist or PLAYLIST,
        captions=tuple(Captions(one.language, one.label, one.file) for one in request.captions),
    )
