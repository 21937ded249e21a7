"""LectureService: what lectures there are, who may play them, and links that do."""

from collections.abc import Sequence, Set
from time import time

from finalbell.v1 import lecture_pb2 as pb

from servers import errors
from servers.content.doors import Doors
from servers.content.replies import Reply, encoded
from servers.content.shelves import Shelves
from servers.links import Signer, good_until
from servers.messages import exam_position, read_page_token, timestamp, write_page_token
from servers.serving.wrap import Call
from stores.lectures import Lecture


class LectureService:
    """Serves lectures to everybody with a token, and links to those who may play them; what it has read before also while
    PostgreSQL is away."""

    def __init__(self, shelves: Shelves, doors: Doors, signer: Signer | None, link_seconds: int) -> None:
        self._shelves = shelves
        self._doors = doors
        self._signer = signer
        self._link_seconds = link_seconds

    async def ListLectures(self, request: pb.ListLecturesRequest, call: Call) -> bytes:
        reply, count, scope = Reply(call), request.page_size or 50, f"lectures/{request.topic}"
        after = read_page_token(request.page_token, scope, exam_position) or ""
        found = reply.take(await self._shelves.lectures(request.topic, after, count + 1))
        page, owned = found[:count], await self._owned(found[:count], call, reply)
        return reply.send(
            encoded(
                pb.ListLecturesResponse(
                    lectures=[_message(lecture, owned) for lecture in page],
                    next_page_token=write_page_token(page[-1].id, scope) if len(found) > count else "",
                )
            )
        )

    async def GetLecture(self, request: pb.GetLectureRequest, call: Call) -> bytes:
        reply = Reply(call)
        lecture = await self._find(request.lecture_id, reply)
        owned = await self._owned([lecture], call, reply)
        return reply.send(encoded(pb.GetLectureResponse(lecture=_message(lecture, owned))))

    async def GetPlayback(self, request: pb.GetPlaybackRequest, call: Call) -> pb.GetPlaybackResponse:
        reply = Reply(call)
        lecture = await self._find(request.lecture_id, reply)
        await self._doors.admit(call.caller.student, lecture.products, reply)
        if self._signer is None:
            raise errors.MediaNotConfigured("This installation has no media: lectures cannot be played.")
        expires = good_until(time(), self._link_seconds)
        reply.mark("private, no-store")
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

    async def _find(self, lecture_id: str, reply: Reply) -> Lecture:
        kept = await self._shelves.lecture(lecture_id)
        if kept is None:
            raise errors.LectureNotFound
        return reply.take(kept)

    async def _owned(self, lectures: Sequence[Lecture], call: Call, reply: Reply) -> Set[str]:
        """Return what the caller owns, where any of these lectures asks for it."""
        return await self._doors.owned(call.caller.student, reply) if any(one.products for one in lectures) else frozenset()


def _message(lecture: Lecture, owned: Set[str]) -> pb.Lecture:
    return pb.Lecture(
        lecture_id=lecture.id,
        title=lecture.title,
        description=lecture.description,
        topic=lecture.topic,
        duration_seconds=lecture.duration_seconds,
        captions=[pb.CaptionLanguage(language=one.language, label=one.label) for one in lecture.captions],
        playable=not lecture.products or not owned.isdisjoint(lecture.products),
        product_ids=lecture.products,
    )
