"""The media origin: files with ranges for who has a link, and nothing at all for anybody else."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

import httpx
import pytest

from servers.links import Gate, MediaKey, PathSigner
from servers.media.bucket import Bucket, BucketShelf
from servers.media.origin import FolderShelf, Origin, OriginServer
from tests.media import bucket as counterpart

SAMPLE = Path(__file__).parents[2] / "ops/sample_lecture"
KEY = MediaKey("m1", b"k" * 32)
SIGNER = PathSigner("/media", KEY)
MASTER = "master.m3u8"
SEGMENT = (SAMPLE / "sample-1/360p/1.m4s").read_bytes()


def link(file: str, folder: str = "sample-1", seconds: int = 60) -> str:
    return SIGNER.link(folder, file, int(time()) + seconds)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an origin that serves the sample lecture."""
    origin = httpx.ASGITransport(Origin(Gate([KEY]), FolderShelf(SAMPLE)))
    async with httpx.AsyncClient(transport=origin, base_url="http://media.test") as http:
        yield http


async def test_all_that_a_playlist_names_is_reached_by_its_relative_addresses(http: httpx.AsyncClient) -> None:
    waiting, seen = [link(MASTER)], set[str]()
    while waiting:
        url = waiting.pop()
        reply = await http.get(url)
        assert reply.status_code == 200, url
        seen.add(url.rpartition("/sample-1/")[2])
        if url.endswith(".m3u8"):
            named = [line for line in reply.text.splitlines() if line and not line.startswith("#")]
            waiting += [str(httpx.URL(url).join(one)) for one in [*named, *re.findall(r'URI="([^"]+)"', reply.text)]]

    assert seen == {str(file.relative_to(SAMPLE / "sample-1")) for file in (SAMPLE / "sample-1").rglob("*.*")}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("master.m3u8", "application/vnd.apple.mpegurl"),
        ("360p/0.m4s", "video/iso.segment"),
        ("360p/init_0.mp4", "video/mp4"),
        ("captions/uz.vtt", "text/vtt; charset=utf-8"),
    ],
)
async def test_a_file_says_what_it_is_and_that_any_page_may_read_it(http: httpx.AsyncClient, file: str, kind: str) -> None:
    reply = await http.get(link(file))

    assert reply.headers["content-type"] == kind
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.content == (SAMPLE / "sample-1" / file).read_bytes()


@pytest.mark.parametrize(
    ("asked", "first", "last"), [("bytes=0-99", 0, 99), ("bytes=100-", 100, None), ("bytes=-50", -50, None), ("bytes=5-5", 5, 5)]
)
async def test_a_range_is_answered_with_that_part(http: httpx.AsyncClient, asked: str, first: int, last: int | None) -> None:
    reply = await http.get(link("360p/1.m4s"), headers={"range": asked})

    wanted = SEGMENT[first:] if last is None else SEGMENT[first : last + 1]
    assert (reply.status_code, reply.content) == (206, wanted)
    begin = len(SEGMENT) + first if first < 0 else first
    assert reply.headers["content-range"] == f"bytes {begin}-{begin + len(wanted) - 1}/{len(SEGMENT)}"
    assert reply.headers["content-type"] == "video/iso.segment"


async def test_a_range_past_the_end_is_none(http: httpx.AsyncClient) -> None:
    reply = await http.get(link("360p/1.m4s"), headers={"range": "bytes=99999999-"})

    assert (reply.status_code, reply.headers["content-range"]) == (416, f"bytes */{len(SEGMENT)}")


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0", "bytes=5-2", "bytes=x", "x", "bytes=" + "9" * 5_000 + "-"])
async def test_the_refusal_of_a_range_is_for_any_page_to_read_and_for_no_cache_to_keep(http: httpx.AsyncClient, asked: str) -> None:
    reply = await http.get(link("360p/1.m4s"), headers={"range": asked})

    assert reply.status_code in (400, 416)
    assert (reply.headers["access-control-allow-origin"], reply.headers["cache-control"]) == ("*", "no-store")
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.png").symlink_to("a.png")
    origin = httpx.ASGITransport(Origin(Gate([KEY]), FolderShelf(tmp_path)))
    async with httpx.AsyncClient(transport=origin, base_url="http://media.test") as http:
        reply = await http.get(link("a.png", "f"))

    assert (reply.status_code, reply.content, reply.headers["retry-after"]) == (503, b"", "2")


async def test_what_a_player_has_already_is_not_sent_again(http: httpx.AsyncClient) -> None:
    etag = (await http.head(link(MASTER))).headers["etag"]

    again = await http.get(link(MASTER), headers={"if-none-match": etag})

    assert (again.status_code, again.content) == (304, b"")


async def test_no_cache_keeps_a_file_longer_than_its_link_is_good(http: httpx.AsyncClient) -> None:
    soon, late = await http.get(link(MASTER, seconds=60)), await http.get(link(MASTER, seconds=10**6))

    ages = [int(re.findall(r"max-age=(\d+)", reply.headers["cache-control"])[0]) for reply in (soon, late)]
    assert 0 < ages[0] <= 60
    assert ages[1] == 86_400


def forgeries() -> dict[str, str]:
    """Addresses without a right, by what is wrong with them."""
    good = link(MASTER)
    token = good.split("/")[2]
    expires = int(token.split(".")[1])
    return {
        "expired": link(MASTER, seconds=-1),
        "another folder": good.replace("/sample-1/", "/sample-2/"),
        "a later end": good.replace(str(expires), str(expires + 1)),
        "another key": PathSigner("/media", MediaKey("m1", b"x" * 32)).link("sample-1", MASTER, expires),
        "a key of no name": good.replace("/m1.", "/m9."),
        "no signature": good.replace(token, f"m1.{expires}."),
        "nothing": f"/media/sample-1/{MASTER}",
        "an empty token": f"/media//sample-1/{MASTER}",
        "no such file": good.replace(token, "x").replace(MASTER, "none.m3u8"),
        "no path": "/media/",
        "another path": "/etc/passwd",
        "metrics": "/metrics",
    }


@pytest.mark.parametrize("what", forgeries())
async def test_who_has_no_good_link_is_refused_and_learns_nothing_else(http: httpx.AsyncClient, what: str) -> None:
    refused = [await http.request(verb, forgeries()[what]) for verb in ("GET", "POST", "DELETE")]

    for reply in refused:
        assert (reply.status_code, reply.content) == (403, b"")
        assert set(reply.headers) <= {
            *("content-length", "cache-control", "access-control-allow-origin", "cross-origin-resource-policy"),
            "x-content-type-options",
        }
        assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "file",
    ["none.m3u8", "360p", "360p/", "", "../lecture.json", "a/../../lecture.json", "lecture.json", ".m3u8", "a\0.m3u8", "a" * 999],
)
async def test_a_good_link_opens_nothing_but_media_of_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "sample-1").mkdir()
    for name in ("lecture.json", "sample-1/lecture.json", "sample-1/.m3u8"):
        (tmp_path / name).write_text("secret")
    origin, sent = Origin(Gate([KEY]), FolderShelf(tmp_path)), []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    # Past the client, which would tidy the path.
    scope = {"type": "http", "method": "GET", "path": link(file), "headers": [], "asgi": {"spec_version": "2.4"}}
    await origin(scope, None, send)  # type: ignore[arg-type]

    assert sent[0]["status"] == 404
    assert b"secret" not in b"".join(message.get("body", b"") for message in sent)  # type: ignore[misc]


async def test_a_link_of_one_folder_does_not_climb_into_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MASTER).write_text(name)
    (tmp_path / "one" / "up").symlink_to(tmp_path)
    origin = httpx.ASGITransport(Origin(Gate([KEY]), FolderShelf(tmp_path)))
    async with httpx.AsyncClient(transport=origin, base_url="http://media.test") as http:
        assert (await http.get(link(MASTER, "one"))).text == "one"
        assert (await http.get(link("../two/" + MASTER, "one"))).status_code == 403
        assert (await http.get(link("%2e%2e/two/" + MASTER, "one"))).status_code in (403, 404)


async def test_a_method_that_is_none_of_files_is_told_so_to_who_has_a_link(http: httpx.AsyncClient) -> None:
    assert (await http.post(link(MASTER))).status_code == 405


async def test_the_origin_serves_over_its_socket_says_when_it_leaves_and_stops(tmp_path: Path) -> None:
    socket, stop = tmp_path / "media.sock", asyncio.Event()
    server = OriginServer(Origin(Gate([KEY]), FolderShelf(SAMPLE)), f"unix:{socket}", leave_seconds=1.5, drain_seconds=2)
    running = asyncio.create_task(server.run(stop))
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://media") as http:
        async with asyncio.timeout(30):
            while not socket.exists():
                await asyncio.sleep(0.01)
        assert (await http.get("/health")).status_code == 200
        assert (await http.get(link("360p/1.m4s"))).content == SEGMENT

        stop.set()
        async with asyncio.timeout(30):
            while (await http.get("/health")).status_code == 200:
                await asyncio.sleep(0.01)
    await running


# A bucket


@pytest.fixture
async def stored(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an origin whose files lie in a bucket; it follows redirects to there."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", counterpart.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", counterpart.SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", counterpart.REGION)
    files = {str(file.relative_to(SAMPLE)): file.read_bytes() for file in SAMPLE.rglob("*.*")}
    async with counterpart.serving(files, "media") as endpoint:
        origin = httpx.ASGITransport(Origin(Gate([KEY]), BucketShelf(Bucket("media", endpoint))))
        mounts = {"all://media.test": origin}
        async with httpx.AsyncClient(mounts=mounts, base_url="http://media.test", trust_env=False) as http:
            yield http


async def test_a_playlist_of_a_bucket_is_answered_as_it_is(stored: httpx.AsyncClient) -> None:
    reply = await stored.get(link(MASTER))

    assert (reply.status_code, reply.content) == (200, (SAMPLE / "sample-1" / MASTER).read_bytes())
    assert reply.headers["content-type"] == "application/vnd.apple.mpegurl"


async def test_a_segment_of_a_bucket_is_a_redirect_that_the_bucket_itself_checks(stored: httpx.AsyncClient) -> None:
    reply = await stored.get(link("360p/1.m4s"))
    age = re.findall(r"private, max-age=(\d+)", reply.headers["cache-control"])
    there = httpx.URL(reply.headers["location"])

    assert (reply.status_code, reply.content) == (307, b"")
    assert (await stored.get(there)).content == SEGMENT
    assert (await stored.get(str(there).replace("/1.m4s", "/2.m4s"))).status_code == 403
    assert int(there.params["X-Amz-Expires"]) > int(age[0])


async def test_a_redirect_ends_with_its_link(stored: httpx.AsyncClient) -> None:
    reply = await stored.get(link("360p/1.m4s", seconds=20))

    assert int(httpx.URL(reply.headers["location"]).params["X-Amz-Expires"]) <= 20


async def test_a_bucket_has_what_it_has(stored: httpx.AsyncClient) -> None:
    assert (await stored.get(link("none.m3u8"))).status_code == 404
    assert (await stored.post(link(MASTER))).status_code == 405
    assert (await stored.get(link(MASTER, seconds=-1))).status_code == 403


async def test_a_bucket_that_is_away_is_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", counterpart.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", counterpart.SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", counterpart.REGION)
    origin = httpx.ASGITransport(Origin(Gate([KEY]), BucketShelf(Bucket("media", "http://127.0.0.1:1"))))
    async with httpx.AsyncClient(transport=origin, base_url="http://media.test") as http:
        reply = await http.get(link(MASTER))

    assert (reply.status_code, reply.content) == (503, b"")
