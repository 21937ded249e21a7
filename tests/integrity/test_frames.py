"""Webcam pictures: off unless a bucket is named; one upload of one size each; gone when the student's data are erased."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from finalbell.v1 import integrity_pb2 as pb
from finalbell.v1.integrity_pb2_grpc import IntegrityAdminServiceStub, IntegrityServiceStub

from tests.faults.harm import another
from tests.flows.sitting import Student, refusal
from tests.flows.transports import native_refusal
from tests.integrity import s3
from tests.media import versity
from tests.media.bucket import KEY_ID, REGION, SECRET
from tests.stack import Stack, bearer, eventually

PICTURE = b"\xff\xd8 a picture"


@dataclass(frozen=True, slots=True)
class Pictured:
    """A service that takes pictures, and what is in its bucket."""

    files: Callable[[], dict[str, bytes]]
    channel: grpc.aio.Channel

    async def ask(self, student: Student, session: str, size: int = len(PICTURE)) -> pb.CreateFrameUploadResponse:
        request = pb.CreateFrameUploadRequest(session_id=session, content_type="image/jpeg", size_bytes=size)
        return await IntegrityServiceStub(self.channel).CreateFrameUpload(request, metadata=bearer(student.token))


@pytest.fixture(params=["a counterpart", "a real bucket"])
async def pictured(
    request: pytest.FixtureRequest, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pictured]:
    """One more process of the service, with a bucket."""
    keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": REGION}
    taken: dict[str, bytes] = {}
    faces = tmp_path / "faces"
    async with AsyncExitStack() as opened:
        if request.param == "a counterpart":
            endpoint, files = await opened.enter_async_context(s3.serving(taken, faces.name)), lambda: taken
        else:
            for name, value in keys.items():
                monkeypatch.setenv(name, value)
            endpoint, files = await opened.enter_async_context(versity.serving({}, faces.name, tmp_path)), lambda: _under(faces)
        address, _ = opened.enter_context(another(stack, "integrity", keys, FRAMES_BUCKET=faces.name, FRAMES_ENDPOINT=endpoint))
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(address))

        async def up() -> bool:
            return channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

        await eventually(up, 40)
        yield Pictured(files, channel)


def _under(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder by their names in it."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


async def test_a_picture_is_uploaded_once_as_it_was_announced(pictured: Pictured, exam: str, stack: Stack) -> None:
    async with Student(stack) as student, httpx.AsyncClient() as http:
        session = (await student.sit(exam))["sessionId"]
        link = await pictured.ask(student, session)
        kind = {"content-type": link.content_type}
        larger = await http.put(link.upload_url, content=PICTURE * 2, headers=kind)
        other = await http.put(link.upload_url, content=PICTURE, headers={"content-type": "text/html"})
        elsewhere = await http.put(link.upload_url.replace(session, "another"), content=PICTURE, headers=kind)
        taken = await http.put(link.upload_url, content=PICTURE, headers=kind)

    assert [reply.status_code for reply in (larger, other, elsewhere, taken)] == [403, 403, 403, 200]
    assert pictured.files() == {f"frames/{session}/{link.frame_id}": PICTURE}
    kept = link.kept_until.ToDatetime() - link.expires_at.ToDatetime()
    assert timedelta(days=29) < kept < timedelta(days=31)


async def test_a_picture_of_anothers_session_has_no_address(pictured: Pictured, exam: str, stack: Stack) -> None:
    async with Student(stack) as student, Student(stack) as other:
        session = (await student.sit(exam))["sessionId"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pictured.ask(other, session)

    assert native_refusal(refused.value).reason == "SESSION_NOT_FOUND"


async def test_erasure_deletes_the_pictures_of_the_student_and_no_others(pictured: Pictured, exam: str, stack: Stack) -> None:
    async with Student(stack) as student, Student(stack) as other, httpx.AsyncClient() as http:
        sessions = [(await one.sit(exam))["sessionId"] for one in (student, other)]
        for one, session in [(student, sessions[0]), (student, sessions[0]), (other, sessions[1])]:
            link = await pictured.ask(one, session)
            await http.put(link.upload_url, content=PICTURE, headers={"content-type": link.content_type})
        request = pb.EraseSignalsRequest(student_id=student.name)
        erased = await IntegrityAdminServiceStub(pictured.channel).EraseSignals(
            request, metadata=bearer(stack.token(roles=["admin"]))
        )

    assert erased.frames == 2
    assert [key.split("/")[1] for key in pictured.files()] == [sessions[1]]


@pytest.mark.parametrize(
    "body", [{"contentType": "image/png", "sizeBytes": 1}, {"contentType": "image/jpeg", "sizeBytes": 300_000}]
)
async def test_what_is_no_picture_is_refused(stack: Stack, exam: str, body: dict[str, Any]) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        reply = await student.http.post(f"/api/v1/sessions/{session}/frames", json=body)

    assert refusal(reply) == (400, "INVALID_FIELD")
