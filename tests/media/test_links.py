"""A link opens what it was made for, until it expires, and nothing else: every signer keeps that."""

import asyncio
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.links import Gate, MediaKey, PathSigner, Signer, good_until, read_keys
from servers.media.bucket import Bucket, Presigner
from servers.media.origin import FolderShelf, Origin
from tests.media import bucket as counterpart
from tests.media import versity

KEY, OLD = MediaKey("m2", b"n" * 32), MediaKey("m1", b"o" * 32)
FILES = {"algebra-1/master.m3u8": b"#EXTM3U", "algebra-1/a/0.m4s": b"segment", "algebra-2/master.m3u8": b"#EXTM3U"}
NOW = 1_800_000_000

SIGNED = r"(?<=\.)\d{10}(?=\.)|(?<=\.)[\w-]{43}(?=/)|(?<=Expires=)\d+|(?<=Signature=)\w+"
"""A link's time and signature."""

Get = Callable[[str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Way:
    """A signer, and how its links are followed: to HTTP's status."""

    signer: Signer
    get: Get


@pytest.fixture(params=["path", "presigned", "presigned for a real bucket"])
async def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Way]:
    async with AsyncExitStack() as opened:
        if request.param == "path":
            for name, content in FILES.items():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(content)
            origin = httpx.ASGITransport(Origin(Gate([KEY]), FolderShelf(tmp_path)))
            http = await opened.enter_async_context(httpx.AsyncClient(transport=origin, base_url="http://media.test"))
            signer: Signer = PathSigner("http://media.test/media", KEY)
        else:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", counterpart.KEY_ID)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", counterpart.SECRET)
            monkeypatch.setenv("AWS_DEFAULT_REGION", counterpart.REGION)
            if request.param == "presigned":
                endpoint = await opened.enter_async_context(counterpart.serving(FILES, "media"))
            else:
                endpoint = await opened.enter_async_context(versity.serving(FILES, "media", tmp_path))
            http = await opened.enter_async_context(httpx.AsyncClient(trust_env=False))
            signer = Presigner(Bucket("media", endpoint))

        async def get(url: str) -> int:
            return (await http.get(url)).status_code

        yield Way(signer, get)


# Every signer


async def test_a_link_opens_its_file(way: Way) -> None:
    for name in FILES:
        folder, _, file = name.partition("/")
        assert await way.get(way.signer.link(folder, file, int(time()) + 60)) == 200


async def test_a_link_opens_nothing_of_another_folder(way: Way) -> None:
    link = way.signer.link("algebra-1", "master.m3u8", int(time()) + 60)

    assert await way.get(link.replace("algebra-1", "algebra-2")) == 403


async def test_a_link_that_was_touched_opens_nothing(way: Way) -> None:
    link = way.signer.link("algebra-1", "master.m3u8", int(time()) + 60)
    signed = [found.span() for found in re.finditer(SIGNED, link)]

    assert len(signed) == 2
    for first, last in signed:
        for at in (first, (first + last) // 2, last - 1):
            touched = f"{link[:at]}{'1' if link[at] != '1' else '2'}{link[at + 1 :]}"
            assert await way.get(touched) == 403, touched


async def test_a_link_is_over_when_its_time_is(way: Way) -> None:
    over = int(time()) + 5  # long enough for the first request on a busy machine
    link = way.signer.link("algebra-1", "master.m3u8", over)
    assert await way.get(link) == 200

    await asyncio.sleep(over + 1.1 - time())

    assert await way.get(link) == 403


# Ours


def token_of(link: str) -> str:
    return link.split("/")[2]


def test_a_link_says_key_time_and_signature_before_the_folder_so_that_relative_addresses_keep_them() -> None:
    link = PathSigner("/media", KEY).link("algebra-1", "a/master.m3u8", NOW)

    assert re.fullmatch(rf"/media/m2\.{NOW}\.[A-Za-z0-9_-]{{43}}/algebra-1/a/master\.m3u8", link)


def test_the_signature_is_what_the_guide_tells_a_cdn_to_compute() -> None:
    guide = (Path(__file__).parents[2] / "docs/lectures.md").read_text()
    example = re.search(r"`(/media/m1\.\d[^`]+)`", guide)
    secret = re.search(r"the secret `([^`]+)`", guide)
    assert example
    assert secret

    key, expires, _ = token_of(example[1]).split(".")
    assert PathSigner("/media", MediaKey(key, secret[1].encode())).link("sample-1", "master.m3u8", int(expires)) == example[1]


def test_a_link_is_good_to_its_last_second_and_no_longer() -> None:
    token = token_of(PathSigner("/media", KEY).link("algebra-1", "x.m3u8", NOW))

    assert Gate([KEY]).opens(token, "algebra-1", NOW) == NOW
    assert Gate([KEY]).opens(token, "algebra-1", NOW + 0.001) is None


def test_an_older_key_is_taken_as_long_as_it_is_listed() -> None:
    token = token_of(PathSigner("/media", OLD).link("algebra-1", "x.m3u8", NOW))

    assert Gate([KEY, OLD]).opens(token, "algebra-1", NOW) == NOW
    assert Gate([KEY]).opens(token, "algebra-1", NOW) is None


def test_a_key_does_not_pass_for_another() -> None:
    token = token_of(PathSigner("/media", MediaKey("m2", OLD.secret)).link("algebra-1", "x.m3u8", NOW))

    assert Gate([KEY, OLD]).opens(token, "algebra-1", NOW) is None


TOKEN = token_of(PathSigner("/media", KEY).link("algebra-1", "x.m3u8", NOW))


@given(at=st.integers(0, len(TOKEN) - 1), letter=st.characters(codec="ascii"))
def test_no_letter_of_a_token_can_be_another(at: int, letter: str) -> None:
    touched = TOKEN[:at] + letter + TOKEN[at + 1 :]

    assert (Gate([KEY]).opens(touched, "algebra-1", NOW) is not None) == (touched == TOKEN)


@given(token=st.text(max_size=80), folder=st.text(max_size=80))
def test_nothing_that_was_made_up_opens_anything_or_fails(token: str, folder: str) -> None:
    assert Gate([KEY]).opens(token, folder, NOW) is None
    assert Gate([KEY]).opens(TOKEN, folder, NOW) is None or folder == "algebra-1"


@given(now=st.floats(1.7e9, 2.5e9), seconds=st.integers(2, 90_000))
def test_a_link_is_good_for_at_least_as_long_as_was_promised_and_at_most_half_as_long_again(now: float, seconds: int) -> None:
    assert seconds - 1 <= good_until(now, seconds) - now <= 1.5 * seconds + 1


def test_who_asks_within_the_same_moments_gets_the_same_link() -> None:
    assert len({good_until(NOW + later, 1800) for later in range(900)}) <= 2


def secrets(*keys: tuple[str, bytes]) -> str:
    return json.dumps({"keys": [{"kty": "oct", "kid": kid, "k": urlsafe_b64encode(secret).decode()} for kid, secret in keys]})


def test_keys_are_read_in_their_order_and_never_shown() -> None:
    keys = read_keys(secrets(("m2", KEY.secret), ("m1", OLD.secret)))

    assert keys == [KEY, OLD]
    assert "nnn" not in repr(keys)


@pytest.mark.parametrize(
    "text",
    [secrets(), secrets(("m1", b"short")), secrets(("M.1", b"n" * 32)), secrets(("m1", b"n" * 32), ("m1", b"o" * 32))],
    ids=["none", "a short secret", "a name that no link can hold", "two of one name"],
)
def test_keys_that_cannot_be_used_are_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="media key"):
        read_keys(text)


# The counterpart


def test_the_counterpart_agrees_with_the_example_that_aws_publishes() -> None:
    signature = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    url = (
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        f"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
    )
    headers, secret, at = (
        {"host": "examplebucket.s3.amazonaws.com"},
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        datetime(2013, 5, 24, tzinfo=UTC),
    )

    assert counterpart.refusal("GET", url, headers, at, secret) == ""
    assert counterpart.refusal("GET", url, headers, at + timedelta(days=2), secret) == "expired"
    assert counterpart.refusal("GET", url.replace("test.txt", "tesu.txt"), headers, at, secret) == "SignatureDoesNotMatch"
