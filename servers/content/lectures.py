"""LectureService: what lectures there are, who may play them, and links that do."""

from time import time

from finalbell.v1 import lecture_pb2 as pb

from servers import errors
from servers.links import Signer, good_until
from servers.messages import exam_position, read_page_token, timestamp, write_page_token
from servers.serving.wrap import Call
from stores.lectures import Lecture, Lectures, Opening


class LectureService:
    """Serves lectures to everybody with a token, and links to those who may play them."""

    def __init__(self, lectures: Lectures, signer: Signer | None, link_seconds: int) -> None:
        self._lectures = lectures
        self._signer = signer
        self._link_seconds = link_seconds

    async def ListLectures(self, request: pb.ListLecturesRequest, call: Call) -> pb.ListLecturesResponse:
        count, scope = request.page_size or 50, f"lectures/{request.topic}"
        after = read_page_token(request.page_token, scope, exam_position) or ""
        found = await self._lectures.lectures(request.topic, after, count + 1)
        page = found[:count]
        openings = await self._lectures.openings(call.caller.student, [lecture.id for lecture in page])
        call.header("cache-control", "private")
        return pb.ListLecturesResponse(
            lectures=[_message(lecture, openings[lecture.id]) for lecture in page],
            next_page_token=write_page_token(page[-1].id, scope) if len(found) > count else "",
        )

    async def GetLecture(self, request: pb.GetLectureRequest, call: Call) -> pb.GetLectureResponse:
        lecture, opening = await self._find(request.lecture_id, call)
        call.header("cache-control", "private")
        return pb.GetLectureResponse(lecture=_message(lecture, opening))

    async def GetPlayback(self, request: pb.GetPlaybackRequest, call: Call) -> pb.GetPlaybackResponse:
        lecture, opening = await self._find(request.lecture_id, call)
        if not opening.open:
            products = ",".join(opening.products)
            raise errors.EntitlementRequired("This lecture needs a product that you do not own.", productIds=products)
        if self._signer is None:
            raise errors.MediaNotConfigured("This installation has no media: lectures cannot be played.")
        expires = good_until(time(), self._link_seconds)
        call.header("cache-control", "private, no-store")
        return pb.GetPlaybackResponse(
            playback=pb.Playback(
                lecture_id=lecture.id,
                playlist_url=self._signer.link(lecture.folder, lecture.playlist, expires),
                captions=[
                    pb.CaptionLink(language=one.language, label=one.label, url=self._signer.link(lecture.folder, one.file, expires))
                    for one in lecture.captions
                ],
                expires_at=timestamp(expires * 1000),
                renew_at=timestamp((expires - self._link_seconds // 2) * 1000),
            )
        )

    async def _find(self, lecture_id: str, call: Call) -> tuple[Lecture, Opening]:
        lecture = await self._lectures.lecture(lecture_id)
        if lecture is None:
            raise errors.LectureNotFound
        openings = await self._lectures.openings(call.caller.student, [lecture.id])
        return lecture, openings[lecture.id]


def _message(lecture: Lecture, opening: Opening) -> pb.Lecture:
    return pb.Lecture(
        lecture_id=lecture.id,
        title=lecture.title,
        description=lecture.description,
        topic=lecture.topic,
        duration_seconds=lecture.duration_seconds,
        captions=[pb.CaptionLanguage(language=one.language, label=one.label) for one in lecture.captions],
        playable=opening.open,
        product_ids=opening.products,
    )
