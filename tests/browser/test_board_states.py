"""What the live page shows of each thing a stream can say: a real browser and a real gateway, in front of what a test writes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from grpc import StatusCode
from playwright.async_api import Page, expect

from tests.gateway.harness import Edge, Services


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def board(*entries: tuple[int, str, int], **more: Any) -> bytes:
    """A `board` of these ranks, aliases and scores."""
    shown = [{"rank": rank, "score": score, "alias": alias, "me": False} for rank, alias, score in entries]
    frame = {"entries": shown, "total": len(shown), "asOf": "2026-01-02T03:04:05Z", "rebuilding": False, "frozen": False}
    return event("board", **frame | more)


def me(rank: int, alias: str, score: int, **more: Any) -> bytes:
    return event("me", place={"rank": rank, "score": score, "alias": alias, "me": True}, **more)


class Stream:
    """The board's stream: what a test says comes out of it, to whoever watches."""

    def __init__(self) -> None:
        self.watchers: list[asyncio.Queue[bytes | None]] = []
        self.came: list[float] = []
        self.first: list[bytes] = []

    async def reply(self, request: Message, context: Any) -> None:
        said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.watchers.append(said)
        self.came.append(time.monotonic())
        for chunk in self.first:
            said.put_nowait(chunk)
        while (chunk := await said.get()) is not None:
            await context.write(HttpBody(content_type="text/event-stream", data=chunk))

    def say(self, *chunks: bytes | None) -> None:
        """Say it to the last who came; None ends their stream."""
        for chunk in chunks:
            self.watchers[-1].put_nowait(chunk)


@pytest.fixture
def stream(services: Services) -> Stream:
    stream = Stream()
    stream.first = [b"retry: 100\n\n", board((1, "Ada", 9), (2, "Bo", 7))]
    services.replies["StreamLeaderboard"] = stream.reply
    return stream


@pytest.fixture
async def opened(edge: Edge, stream: Stream, page: Page) -> AsyncIterator[Page]:
    """The page of a board with two students."""
    await page.goto(f"http://{edge.address}/board/e1")
    await expect(page.locator("#rows tr")).to_have_count(2)
    yield page
    await page.close()


async def state(page: Page, name: str) -> None:
    await expect(page.locator("html")).to_have_attribute("data-state", name)


async def texts(page: Page) -> list[str]:
    """The rows, top to bottom, each as `rank alias score`."""
    return await page.locator("#rows tr").evaluate_all("rows => rows.map(row => [...row.cells].map(c => c.textContent).join(' '))")


async def test_the_page_comes_from_the_gateway_without_a_token_and_lets_nothing_else_in(edge: Edge) -> None:
    reply = await edge.anonymous.get("/board/e1?top=5")

    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert {policy[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert policy["connect-src"] == "'self'"
    assert all(policy[name].startswith("'sha256-") and " " not in policy[name] for name in ("script-src", "style-src"))
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "public, max-age=300"
    assert (await edge.anonymous.head("/board/e1")).status_code == 200


@pytest.mark.parametrize("path", ["/board", "/board/", "/board/E1", "/board/e1/x", "/board/-", "/board/" + "e" * 64, "/boards/e1"])
async def test_no_other_path_is_a_page(edge: Edge, path: str) -> None:
    assert (await edge.anonymous.get(path)).status_code == 401


async def test_the_page_outlives_every_service(lonely_edge: Edge) -> None:
    assert (await lonely_edge.anonymous.get("/board/e1")).status_code == 200


async def test_the_board_is_a_table_with_a_caption_and_headers(opened: Page) -> None:
    await expect(opened).to_have_title("Board of e1")
    await expect(opened.get_by_role("table")).to_have_accessible_name("Top 2 of 2, as of 03:04:05")
    await expect(opened.get_by_role("columnheader")).to_have_text(["Rank", "Name", "Score"])
    await expect(opened.get_by_role("rowheader")).to_have_text(["Ada", "Bo"])
    await expect(opened.locator("#state")).to_have_text("Live")
    assert await texts(opened) == ["1 Ada 9", "2 Bo 7"]


async def test_a_stream_means_the_same_however_it_is_cut(opened: Page, stream: Stream) -> None:
    entries = 'data: {"entries": [{"rank": 1, "score": 3, "alias": "Zoë 🦊"}],'
    rest = 'data:"total": 1, "asOf": "2026-01-02T03:04:05Z"}'
    whole = f": hello\r\nid: 7\r\nevent: board\r\nunknown: x\r\n{entries}\r{rest}\n\n".encode()
    for byte in whole:
        stream.say(bytes([byte]))
        await asyncio.sleep(0.01)  # so that each travels alone

    await expect(opened.locator("#rows tr")).to_have_count(1)

    assert await texts(opened) == ["1 Zoë 🦊 3"]


async def test_a_frozen_board_says_since_when(opened: Page, stream: Stream) -> None:
    stream.say(board((1, "Ada", 9), frozen=True))

    await state(opened, "frozen")

    await expect(opened.locator("#state")).to_have_text("Frozen: this is how it stood at 03:04:05")
    assert await texts(opened) == ["1 Ada 9"]


async def test_a_board_that_is_rebuilt_shows_no_rank(opened: Page, stream: Stream) -> None:
    stream.say(board(rebuilding=True))

    await state(opened, "rebuilding")

    await expect(opened.locator("#table")).to_be_hidden()
    await expect(opened.locator("#notice")).to_contain_text("put together again")


async def test_an_empty_board_says_so(opened: Page, stream: Stream) -> None:
    stream.say(board())

    await state(opened, "empty")

    await expect(opened.locator("#notice")).to_have_text("Nobody is on the board yet.")


async def test_the_page_comes_back_when_the_service_says_so(opened: Page, stream: Stream) -> None:
    stream.first = [board((1, "Cy", 11))]
    said = time.monotonic()
    stream.say(event("reconnect", afterMs=2500), None)

    await state(opened, "reconnecting")
    assert await texts(opened) == ["1 Ada 9", "2 Bo 7"]
    await state(opened, "live")

    assert await texts(opened) == ["1 Cy 11"]
    assert len(stream.came) == 2
    assert stream.came[-1] - said > 2.4  # never sooner: it may well be later on a busy machine


async def test_the_page_comes_back_after_any_other_end(opened: Page, stream: Stream) -> None:
    stream.first = [board((1, "Cy", 11))]
    stream.say(None)

    await expect(opened.get_by_role("rowheader")).to_have_text(["Cy"])

    assert len(stream.watchers) == 2


async def test_ones_own_row_is_marked_even_among_namesakes(opened: Page, stream: Stream) -> None:
    stream.say(board((1, "Ada", 9), (2, "Bo", 7), (3, "Bo", 5)), me(3, "Bo", 5, row=2, percentile=25.96))

    mine = opened.locator("tr.mine")
    await expect(mine).to_have_count(1)

    assert await mine.evaluate("row => row.rowIndex") == 3
    await expect(mine).to_have_attribute("aria-current", "true")
    await expect(opened.locator("#own")).to_have_text("Your place: 3, as Bo with 5 points. Percentile 25.9.")


async def test_a_mark_never_stays_on_a_row_that_has_become_somebody_elses(opened: Page, stream: Stream) -> None:
    stream.say(me(2, "Bo", 7, row=1))
    await expect(opened.locator("tr.mine")).to_have_count(1)

    stream.say(board((1, "Ada", 9), (2, "Cy", 8), (3, "Bo", 7)))

    await expect(opened.locator("tr.mine")).to_have_count(0)


async def test_a_place_below_the_top_is_shown_below_it(opened: Page, stream: Stream) -> None:
    stream.say(event("me", place={"rank": 4321, "rankError": 20, "score": 1, "alias": "Di", "me": True}))

    await expect(opened.locator("#own")).to_have_text("Your place: 4,321 (give or take 20), as Di with 1 point.")
    await expect(opened.locator("tr.mine")).to_have_count(0)


async def test_a_board_that_needs_a_token_takes_it_typed(edge: Edge, services: Services, stream: Stream, page: Page) -> None:
    async def closed(request: Message, context: Any) -> None:
        if "authorization" in dict(context.invocation_metadata()):
            await stream.reply(request, context)
        else:
            await context.abort(StatusCode.UNAUTHENTICATED, "A valid bearer token is required.")

    services.replies["StreamLeaderboard"] = closed
    await page.goto(f"http://{edge.address}/board/e1?top=7&cohort=c1&series=s1")
    await state(page, "token")
    await expect(page.locator("#notice")).to_have_text("This board is not public.")

    await page.get_by_label("Your token").fill("garbage")
    await page.keyboard.press("Enter")
    await expect(page.locator("#notice")).to_have_text("That token is not valid.")
    await page.get_by_label("Your token").fill(edge.tokens.sign())
    await page.keyboard.press("Enter")

    await state(page, "live")
    await expect(page.locator("#ask")).to_be_hidden()
    asked = services.seen[-1].request
    assert (asked.exam_id, asked.top, asked.cohort, asked.series) == ("e1", 7, "c1", "s1")
    await page.get_by_role("button", name="Forget my token").click()
    await state(page, "token")
    await page.close()


async def test_a_token_in_the_address_is_used_and_gone_at_once(edge: Edge, services: Services, stream: Stream, page: Page) -> None:
    token = edge.tokens.sign()
    await page.goto(f"http://{edge.address}/board/e1?top=3#token={token}")
    await state(page, "live")

    assert page.url == f"http://{edge.address}/board/e1?top=3"
    assert services.seen[-1].metadata["authorization"] == f"Bearer {token}"
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    await page.reload()
    await state(page, "live")
    assert services.seen[-1].metadata["authorization"] == f"Bearer {token}"
    await page.close()


async def test_a_board_that_is_not_there_says_so(edge: Edge, services: Services, page: Page) -> None:
    async def absent(request: Message, context: Any) -> None:
        await context.abort(StatusCode.NOT_FOUND, "There is no such exam.")

    services.replies["StreamLeaderboard"] = absent
    await page.goto(f"http://{edge.address}/board/e1")

    await state(page, "absent")

    await expect(page.locator("#notice")).to_have_text("There is no such board.")


COUNT_GLIDES = """
() => {
  const animate = Element.prototype.animate;
  window.glides = 0;
  Element.prototype.animate = function (...how) {
    window.glides += Number(this.matches("#rows tr:first-child"));
    return animate.apply(this, how);
  };
}
"""
"""Counts how often the first row is moved: a busy machine may look at a page only when a glide is over."""


async def test_a_row_glides_to_its_new_place_unless_motion_is_unwanted(opened: Page, stream: Stream) -> None:
    swapped = [board((1, "Bo", 11), (2, "Ada", 9)), board((1, "Ada", 12), (2, "Bo", 11))]

    await opened.evaluate(COUNT_GLIDES)
    stream.say(swapped[0])
    await expect(opened.get_by_role("rowheader")).to_have_text(["Bo", "Ada"])
    glides = await opened.evaluate("glides")
    await opened.emulate_media(reduced_motion="reduce")
    stream.say(swapped[1])
    await expect(opened.get_by_role("rowheader")).to_have_text(["Ada", "Bo"])

    assert (glides, await opened.evaluate("glides")) == (1, 1)


async def test_a_screen_reader_hears_of_a_new_leader_and_not_of_every_frame(opened: Page, stream: Stream) -> None:
    news = opened.locator("#news")
    await expect(news).to_contain_text("Ada")
    await expect(news).to_have_attribute("aria-live", "polite")

    for score in range(10, 15):
        stream.say(board((1, "Cy", score), (2, "Ada", 9)))
    await expect(opened.get_by_role("rowheader")).to_have_text(["Cy", "Ada"])

    await expect(news).to_contain_text("leads with 9")


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("query", ["", "?projector=1"])
async def test_the_page_never_scrolls_sideways(edge: Edge, stream: Stream, page: Page, width: int, query: str) -> None:
    stream.first = [
        board((1_000_000, "W" * 200, 9_007_199), (1_000_000, "\u202eevil\u202c", -9_007_199)),
        me(1_000_000, "W" * 200, 9),
    ]
    await page.set_viewport_size({"width": width, "height": 700})
    await page.goto(f"http://{edge.address}/board/{'e' * 63}{query}")
    await expect(page.locator("#rows tr")).to_have_count(2)

    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await page.close()


async def test_everything_is_reached_by_keyboard_and_shows_it(opened: Page) -> None:
    await opened.keyboard.press("Tab")
    await expect(opened.get_by_role("button", name="Large type")).to_be_focused()
    outline = await opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    await opened.keyboard.press("Enter")

    assert outline == "solid"
    await expect(opened.get_by_role("button", name="Large type")).to_have_attribute("aria-pressed", "true")
