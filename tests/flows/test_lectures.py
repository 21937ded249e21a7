"""Lectures from the list to the last segment, through the gateway: who may, with what link, and for how long."""

import json
import re
import time
from datetime import datetime
from typing import Any

import httpx
import pytest
from finalbell.v1 import lecture_pb2

from servers.links import PathSigner, read_keys
from tests.faults.harm import another, stopped
from tests.flows.lecturing import LINK_SECONDS, add_lecture, media, own
from tests.flows.sitting import Student, good, refusal
from tests.flows.transports import Native
from tests.stack import Stack, eventually, fresh

MASTER = "sample-1/master.m3u8"


async def playback(student: Student, lecture: str) -> dict[str, Any]:
    return good(await student.http.get(f"/api/v1/lectures/{lecture}/playback"))


def signed(stack: Stack, file: str = "master.m3u8", folder: str = "sample-1", seconds: int = 60) -> str:
    """A link of one's own making, with the stack's key."""
    key = read_keys((stack.home / "keys" / "media.json").read_text())[0]
    return PathSigner("/media", key).link(folder, file, int(time.time()) + seconds)


# What there is


async def test_lectures_are_listed_by_topic_page_by_page(stack: Stack) -> None:
    topic, names = fresh("topic"), sorted(fresh("t") for _ in range(5))
    for name in names:
        await add_lecture(stack, name, topic=topic)
    await add_lecture(stack, fresh("t"), topic="another")

    seen, token, pages = [], "", 0
    async with Student(stack) as student:
        while token or not pages:
            page = good(await student.http.get("/api/v1/lectures", params={"topic": topic, "pageSize": 2, "pageToken": token}))
            seen += [lecture["lectureId"] for lecture in page["lectures"]]
            token, pages = page["nextPageToken"], pages + 1

    assert (seen, pages) == (names, 3)


async def test_a_page_token_is_good_for_its_own_topic_only(stack: Stack) -> None:
    topic = fresh("topic")
    for _ in range(2):
        await add_lecture(stack, fresh("t"), topic=topic)
    async with Student(stack) as student:
        page = good(await student.http.get("/api/v1/lectures", params={"topic": topic, "pageSize": 1}))
        other = await student.http.get("/api/v1/lectures", params={"pageToken": page["nextPageToken"]})

    assert refusal(other)[1] == "INVALID_FIELD"


async def test_a_lecture_says_what_it_is_and_what_opens_it(stack: Stack) -> None:
    lecture, first, second = fresh("t"), fresh("pa"), fresh("pb")
    await add_lecture(stack, lecture, second, first, title="Odd numbers", description="About squares.", topic="numbers")

    async with Student(stack) as student:
        reply = await student.http.get(f"/api/v1/lectures/{lecture}")

    assert good(reply) == {
        "lectureId": lecture,
        "title": "Odd numbers",
        "description": "About squares.",
        "topic": "numbers",
        "durationSeconds": 16,
        "captions": [{"language": "en", "label": "English"}, {"language": "uz", "label": "O‘zbekcha"}],
        "playable": False,
        "productIds": [first, second],
    }
    assert reply.headers["cache-control"] == "private, max-age=0, stale-if-error=86400"


# Who may


async def test_a_free_lecture_plays_for_everybody_with_a_token(stack: Stack) -> None:
    lecture = fresh("t")
    await add_lecture(stack, lecture)
    async with Student(stack) as student, stack.rest() as nobody:
        assert good(await student.http.get(f"/api/v1/lectures/{lecture}"))["playable"] is True
        assert (await student.http.get((await playback(student, lecture))["playlistUrl"])).status_code == 200
        assert (await nobody.get(f"/api/v1/lectures/{lecture}/playback")).status_code == 401


async def test_a_sold_lecture_plays_for_who_owns_one_of_its_products_now(stack: Stack) -> None:
    lecture, product, other = fresh("t"), fresh("pa"), fresh("pb")
    await add_lecture(stack, lecture, product, other)
    async with Student(stack) as owner, Student(stack) as late, Student(stack) as refunded, Student(stack) as stranger:
        await own(stack, owner.name, other)
        await own(stack, late.name, product, until="-1 second")
        await own(stack, refunded.name, product, revoked="-1 second")
        shown = {
            student.name: good(await student.http.get(f"/api/v1/lectures/{lecture}"))["playable"]
            for student in (owner, late, refunded, stranger)
        }
        listed = [
            next(
                one["playable"]
                for one in good(await student.http.get("/api/v1/lectures", params={"pageSize": 200}))["lectures"]
                if one["lectureId"] == lecture
            )
            for student in (owner, stranger)
        ]
        assert (await playback(owner, lecture))["lectureId"] == lecture
        refused = [refusal(await who.http.get(f"/api/v1/lectures/{lecture}/playback")) for who in (late, refunded, stranger)]

    assert shown == {owner.name: True, late.name: False, refunded.name: False, stranger.name: False}
    assert listed == [True, False]
    assert {(status, reason) for status, reason in refused} == {(403, "ENTITLEMENT_REQUIRED")}


async def test_who_was_refunded_gets_no_further_link(stack: Stack) -> None:
    lecture, product = fresh("t"), fresh("p")
    await add_lecture(stack, lecture, product)
    async with Student(stack) as student:
        await own(stack, student.name, product)
        before = await playback(student, lecture)

        await own(stack, student.name, product, revoked="0 seconds")

        async def refused() -> bool:
            reply = await student.http.get(f"/api/v1/lectures/{lecture}/playback")
            return reply.status_code != 200 and refusal(reply) == (403, "ENTITLEMENT_REQUIRED")

        await eventually(refused, 40)  # told at once, known within 30 s
        assert (await student.http.get(before["playlistUrl"])).status_code == 200  # until it expires


# Links


async def test_a_link_says_until_when_it_is_good_and_when_to_ask_for_the_next(stack: Stack) -> None:
    lecture = fresh("t")
    await add_lecture(stack, lecture)
    async with Student(stack) as student:
        began = time.time()
        found = await playback(student, lecture)

    renew, expires = (datetime.fromisoformat(found[name]).timestamp() for name in ("renewAt", "expiresAt"))
    assert LINK_SECONDS - 1 <= expires - began <= 1.5 * LINK_SECONDS + 1
    assert began < renew < expires
    assert f".{int(expires)}." in found["playlistUrl"]
    assert [one["language"] for one in found["captions"]] == ["en", "uz"]


async def test_all_that_a_playlist_names_comes_through_the_gateway_without_a_token(stack: Stack) -> None:
    lecture = fresh("t")
    await add_lecture(stack, lecture)
    async with Student(stack) as student:
        found = await playback(student, lecture)

    waiting, seen = [found["playlistUrl"], *(one["url"] for one in found["captions"])], set[str]()
    async with stack.rest() as http:
        while waiting:
            url = waiting.pop()
            reply = await http.get(url)
            assert reply.status_code == 200, url
            seen.add(url.rpartition("/sample-1/")[2])
            if url.endswith(".m3u8"):
                named = [line for line in reply.text.splitlines() if line and not line.startswith("#")]
                waiting += [httpx.URL(url).join(one).path for one in [*named, *re.findall(r'URI="([^"]+)"', reply.text)]]
    folder = media(stack) / "sample-1"
    assert seen == {str(file.relative_to(folder)) for file in folder.rglob("*.*")}


async def test_a_part_of_a_segment_comes_through_the_gateway(stack: Stack) -> None:
    await add_lecture(stack, fresh("t"))
    async with stack.rest() as http:
        reply = await http.get(signed(stack, "360p/1.m4s"), headers={"range": "bytes=10-19"})

    assert reply.status_code == 206
    assert reply.content == (media(stack) / "sample-1/360p/1.m4s").read_bytes()[10:20]


@pytest.mark.parametrize("what", ["expired", "another folder", "another time", "no link", "another path"])
async def test_a_link_that_is_not_good_is_refused_and_nothing_else(stack: Stack, what: str) -> None:
    await add_lecture(stack, fresh("t"))
    good_one = signed(stack)
    expires = re.findall(r"\.(\d{10})\.", good_one)[0]
    url = {
        "expired": signed(stack, seconds=-1),
        "another folder": good_one.replace("/sample-1/", "/sample-2/"),
        "another time": good_one.replace(expires, str(int(expires) + 3600)),
        "no link": f"/media/{MASTER}",
        "another path": good_one.replace("sample-1/master.m3u8", "../../keys/media.json"),
    }[what]
    async with stack.rest() as http:
        reply = await http.get(url)

    assert reply.status_code == (403 if what != "another path" else 401)
    if what != "another path":  # which leads out of /media/, where a token is asked for
        assert (reply.content, reply.headers["cache-control"]) == (b"", "no-store")


async def test_another_web_page_may_play_what_it_has_a_link_to(stack: Stack) -> None:
    await add_lecture(stack, fresh("t"))
    async with stack.rest() as http:
        near, far = [
            await http.get(signed(stack), headers={"origin": origin})
            for origin in ("http://localhost:3000", "https://elsewhere.test")
        ]

    assert near.headers["access-control-allow-origin"] in ("*", "http://localhost:3000")
    assert far.headers["access-control-allow-origin"] == "*"


async def test_no_link_is_written_into_a_log(stack: Stack) -> None:
    await add_lecture(stack, fresh("t"))
    urls = [signed(stack, seconds=61 + number) for number in range(50)] + [signed(stack, "none.m3u8"), signed(stack, seconds=-1)]
    async with stack.rest() as http:
        statuses = {(await http.get(url)).status_code for url in urls}
    assert statuses == {200, 403, 404}

    async def refused_ones() -> int:
        lines = (stack.home / "logs" / "access.log").read_text().splitlines()
        return sum(json.loads(line)["path"].startswith("/media/") for line in lines)

    await eventually(refused_ones)
    logs = "".join(file.read_text(errors="replace") for file in (stack.home / "logs").iterdir())
    assert [url for url in urls if url.split("/")[2] in logs] == []


# What it does without


async def test_media_play_while_everything_else_is_away(stack: Stack) -> None:
    await add_lecture(stack, fresh("t"))
    with stopped(stack, "content"), stopped(stack, "redis"), stopped(stack, "nats"), stopped(stack, "postgres"):
        async with stack.rest() as http:
            reply = await http.get(signed(stack))

    assert reply.status_code == 200


async def test_without_media_nothing_is_played_and_the_list_is_there(stack: Stack) -> None:
    lecture = fresh("t")
    await add_lecture(stack, lecture)
    with another(stack, "content", MEDIA_URL="", MEDIA_KEYS="") as (address, _):
        import grpc.aio

        async with grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
            student = Native(channel, stack.token())
            shown = await student.call("GetLecture", lecture_pb2.GetLectureRequest(lecture_id=lecture))
            played = await student.call("GetPlayback", lecture_pb2.GetPlaybackRequest(lecture_id=lecture))

    assert shown.ok.lecture.title == "A lecture"
    assert (played.code, played.reason) == ("FAILED_PRECONDITION", "MEDIA_NOT_CONFIGURED")
