"""The lecture page in a real browser, over a whole stack: it plays, shows captions, renews its link, and locks."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.test_board_states import state
from tests.flows.lecturing import add_lecture, own
from tests.stack import Stack, eventually, fresh, running

READY_MS = 15_000
FIRST_FRAME = "document.documentElement.dataset.firstFrameMs"
NO_MEDIA_SOURCE = "for (const name of ['MediaSource', 'ManagedMediaSource', 'WebKitMediaSource']) delete globalThis[name];"
CUE = """() => [...document.querySelectorAll('track')]
  .flatMap(({ track }) => track.mode === 'showing' ? [...track.activeCues ?? []].map(({ text }) => text) : [])[0]"""
ENGLISH, UZBEK = "One: a single square.", "Bir: bitta katak."
"""What is said at the third second."""


@pytest.fixture
async def lecture(stack: Stack) -> str:
    """A free lecture."""
    name = fresh("t")
    await add_lecture(stack, name, title="The sum of odd numbers", description="Look at the shape that they make.")
    return name


async def so(page: Page, expression: str, seconds: float = 20.0) -> Any:
    """Wait until it is so in the page, and return it. (Playwright's own way would need `unsafe-eval` in the page's policy.)"""
    return await eventually(lambda: page.evaluate(expression), seconds)


async def opened(stack: Stack, page: Page, lecture: str, token: str) -> int:
    """Open the page, wait until the first picture is there, and return after how many ms that was."""
    await page.goto(f"{stack.gateway}/lecture/{lecture}#token={token}")
    await state(page, "ready")
    return int(await so(page, FIRST_FRAME))


async def known(stack: Stack, student: str, lecture: str, *, playable: bool) -> None:
    """Wait until the service of lectures has heard what a student owns: it is told at once, and a page may be faster."""
    async with stack.rest(stack.token(student)) as http:

        async def heard() -> bool:
            return (await http.get(f"/api/v1/lectures/{lecture}")).json().get("playable") is playable

        await eventually(heard, 40)


async def play(page: Page) -> None:
    """Play by keyboard: a browser lets no page do so by itself."""
    await page.locator("video").focus()
    await page.keyboard.press("Space")


async def played(page: Page, seconds: float) -> None:
    """Wait until it has come so far."""
    await so(page, f"document.querySelector('video').currentTime >= {seconds}")


@pytest.mark.parametrize("player", ["hls.js", "native"])
async def test_a_lecture_plays_with_picture_and_sound(stack: Stack, lecture: str, page: Page, player: str) -> None:
    if player == "native":
        await page.add_init_script(NO_MEDIA_SOURCE)

    first_frame_ms = await opened(stack, page, lecture, stack.token())
    print(f"{player}: first frame {first_frame_ms} ms after the address was opened")  # noqa: T201
    await play(page)
    await played(page, 1.5)

    assert await page.locator("html").get_attribute("data-player") == player
    assert await page.title() == "The sum of odd numbers"
    await expect(page.get_by_role("heading")).to_have_text("The sum of odd numbers")
    await expect(page.locator("#about")).to_have_text("Look at the shape that they make.")
    found = await page.locator("video").evaluate(
        "video => [video.videoWidth > 0, video.webkitAudioDecodedByteCount > 0, Math.round(video.duration), video.error]"
    )
    assert found == [True, True, 16, None]
    await page.close()


@pytest.mark.parametrize("player", ["hls.js", "native"])
async def test_captions_are_chosen_by_keyboard_and_shown(stack: Stack, lecture: str, page: Page, player: str) -> None:
    if player == "native":
        await page.add_init_script(NO_MEDIA_SOURCE)
    await opened(stack, page, lecture, stack.token())
    captions = page.get_by_label("Captions")
    assert await captions.locator("option").all_text_contents() == ["Off", "English", "O‘zbekcha"]
    await page.locator("video").evaluate("video => { video.currentTime = 3; }")

    seen = []
    await captions.focus()
    for text in (ENGLISH, UZBEK):
        await page.keyboard.press("ArrowDown")
        await so(page, f"({CUE})() === {text!r}")
        seen.append(await captions.input_value())
    await captions.select_option("")
    await so(page, f"({CUE})() === undefined")

    assert seen == ["en", "uz"]
    await page.close()


async def test_what_the_browsers_own_menu_chooses_is_what_the_list_says(stack: Stack, lecture: str, page: Page) -> None:
    await opened(stack, page, lecture, stack.token())

    await page.evaluate("document.querySelector('track[srclang=uz]').track.mode = 'showing'")

    await expect(page.get_by_label("Captions")).to_have_value("uz")
    await page.close()


async def test_all_of_it_is_reached_by_the_tab_key_and_has_a_name(stack: Stack, lecture: str, page: Page) -> None:
    await opened(stack, page, lecture, stack.token())

    reached = []
    for _ in range(30):
        await page.keyboard.press("Tab")
        at = await page.evaluate("document.activeElement.id")
        if at and at not in reached:
            reached.append(at)

    assert reached == ["video", "captions", "speed", "forget"]
    assert await page.locator("video").get_attribute("aria-labelledby") == "title"
    await page.get_by_label("Speed").select_option("1.5")
    assert await page.locator("video").evaluate("video => video.playbackRate") == 1.5
    await page.set_viewport_size({"width": 320, "height": 600})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    await page.close()


async def test_a_lecture_that_is_not_owned_shows_what_opens_it_and_plays_once_it_is(stack: Stack, page: Page) -> None:
    lecture, product, student = fresh("t"), fresh("p"), fresh("s")
    await add_lecture(stack, lecture, product)
    await page.goto(f"{stack.gateway}/lecture/{lecture}#token={stack.token(student)}")
    await state(page, "locked")
    await expect(page.locator("#notice")).to_have_text("You can watch this lecture when you own the product “A product”.")
    await expect(page.locator("video")).to_be_hidden()

    await own(stack, student, product)
    await known(stack, student, lecture, playable=True)
    await page.reload()

    await state(page, "ready")
    await so(page, FIRST_FRAME)

    await own(stack, student, product, revoked="0 seconds")
    await known(stack, student, lecture, playable=False)
    await page.reload()

    await state(page, "locked")
    await page.close()


async def test_without_a_token_it_is_asked_for_and_with_a_wrong_one_again(stack: Stack, lecture: str, page: Page) -> None:
    await page.goto(f"{stack.gateway}/lecture/{lecture}")
    await state(page, "token")
    for given, notice in (("no.token.atall", "That token is not valid."), (stack.token(), "")):
        await page.get_by_label("Your token").fill(given)
        await page.keyboard.press("Enter")
        await expect(page.locator("#notice")).to_have_text(notice)

    await state(page, "ready")
    await page.get_by_role("button", name="Forget my token").click()
    await state(page, "token")
    await page.close()


async def test_a_lecture_of_no_such_id_says_so(stack: Stack, page: Page) -> None:
    await page.goto(f"{stack.gateway}/lecture/no-such-lecture#token={stack.token()}")

    await state(page, "absent")

    await expect(page.locator("#notice")).to_have_text("There is no lecture at this address.")
    await page.close()


async def test_a_title_is_text_whatever_it_is(stack: Stack, page: Page) -> None:
    lecture, title = fresh("t"), "<img src=x onerror=alert(1)>"
    await add_lecture(stack, lecture, title=title, description=f"{title}\n{title}", captions=[])

    await opened(stack, page, lecture, stack.token())

    assert await page.locator("h1").text_content() == title
    assert await page.locator("h1 *, #about *").count() == 0
    await expect(page.get_by_label("Captions")).to_be_disabled()
    await page.close()


async def test_the_page_lets_nothing_in_but_its_own_script_and_hls(stack: Stack, lecture: str, page: Page) -> None:
    async with stack.rest() as http:
        reply = await http.get(f"/lecture/{lecture}")
        script = await http.get("/lecture/hls-1.7.4.light.min.js")
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))

    assert policy["default-src"] == "'none'"
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert len(policy["script-src"].split()) == 2
    assert policy["require-trusted-types-for"] == "'script'"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"


# Links that are good for seconds


@pytest.fixture(scope="module")
def hasty() -> Iterator[Stack]:
    """A stack whose links are good for four to six seconds."""
    with running(FINALBELL_MEDIA_SECONDS="4") as stack:
        yield stack


async def expired(stack: Stack, url: str) -> None:
    """Wait until a link is good no more."""
    async with stack.rest() as http:

        async def refused() -> bool:
            return (await http.get(url)).status_code == 403

        await eventually(refused)


@pytest.mark.parametrize("player", ["hls.js", "native"])
async def test_a_segment_that_is_wanted_after_the_link_has_expired_comes_by_the_next_one(
    hasty: Stack, page: Page, player: str
) -> None:
    if player == "native":
        await page.add_init_script(NO_MEDIA_SOURCE)
    lecture, refused, tokens = fresh("t"), [], set[str]()
    await add_lecture(hasty, lecture)

    async def late(route: Route) -> None:
        if not refused:
            await expired(hasty, route.request.url)
        await route.continue_()

    await page.route("**/3.m4s", late)
    page.on("response", lambda reply: refused.append(reply.url) if reply.status == 403 else None)
    page.on(
        "request", lambda request: tokens.add(request.url.split("/media/")[-1].split("/")[0]) if "/media/" in request.url else None
    )
    await opened(hasty, page, lecture, hasty.token())
    await play(page)
    await page.locator("video").evaluate("video => { video.playbackRate = 4; }")

    await so(page, "document.querySelector('video').ended", 60)

    assert [url for url in refused if "3.m4s" in url]
    assert len(tokens) > 1
    await state(page, "ready")
    await page.close()


async def test_captions_that_are_first_chosen_after_the_link_has_expired_are_shown(hasty: Stack, page: Page) -> None:
    lecture = fresh("t")
    await add_lecture(hasty, lecture)
    await opened(hasty, page, lecture, hasty.token())
    await page.locator("video").evaluate("video => { video.currentTime = 3; }")
    first = await page.evaluate("document.querySelector('track').src")
    await expired(hasty, first)

    await page.get_by_label("Captions").select_option("uz")

    await so(page, f"({CUE})() === {UZBEK!r}")
    await page.close()


async def test_a_lock_names_the_product_by_its_id_while_the_shop_is_away(stack: Stack, page: Page) -> None:
    lecture, product = fresh("t"), fresh("p")
    await add_lecture(stack, lecture, product)
    await page.route("**/api/v1/products", lambda route: route.abort())

    await page.goto(f"{stack.gateway}/lecture/{lecture}#token={stack.token(fresh('s'))}")

    await state(page, "locked")
    await expect(page.locator("#notice")).to_have_text(f"You can watch this lecture when you own the product “{product}”.")


async def test_a_lecture_that_is_taken_back_locks_while_it_plays(hasty: Stack, page: Page) -> None:
    lecture, product, student = fresh("t"), fresh("p"), fresh("s")
    await add_lecture(hasty, lecture, product)
    await own(hasty, student, product)
    await opened(hasty, page, lecture, hasty.token(student))
    await play(page)
    await played(page, 0.5)

    await own(hasty, student, product, revoked="0 seconds")

    await expect(page.locator("html")).to_have_attribute("data-state", "locked", timeout=READY_MS)
    await expect(page.locator("#notice")).to_contain_text("“A product”")
    await expect(page.locator("video")).to_be_hidden()
    assert await page.locator("video").evaluate("video => [video.paused, video.readyState]") == [True, 0]
    await page.close()
