"""The page in front of a worker made of paper: cancelling, errors, a busy server, keys, languages, access."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from server.errors import GenerationFailed
from server.jobs.limits import Limits
from tests.browser.page import REFUSED, Page
from tests.browser.panels import Keyed, knows, open_as
from tests.paper import Paper, PaperServers
from tests.running import eventually


def test_escape_cancels_on_the_server_too(page: Page, own_server: Paper) -> None:
    own_server.worker.gate.clear()
    page.open(own_server.url)
    page.ask("a long one")
    page.until("return document.querySelector('.run.active')")
    eventually(lambda: len(own_server.worker.drawings) == 1)
    escape = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true, %s }))"
    page.run(escape % "isComposing: true")  # somebody writes Chinese, and takes a syllable back
    assert page.all(".run.active")
    page.run(escape % "")
    eventually(lambda: len(own_server.worker.cancelled) == 1)
    assert page.text(".run-status") == "Cancelled."
    assert page.text("#status") == "Cancelled."
    assert not page.all(".tile")

    own_server.worker.gate.set()
    page.one(".run .button").click()  # try again
    page.pictures()


def test_a_failure_is_said_plainly_and_in_the_readers_language(page: Page, own_server: Paper) -> None:
    page.expects = (REFUSED,)
    own_server.worker.failure = GenerationFailed("The picture came out black, which would happen again.")
    page.open(own_server.url)
    page.ask("something")
    page.until("return document.querySelector('.run.failed')")
    said = page.text("[role=alert] strong")
    assert said.startswith("No picture came of this request. Change the prompt")
    assert "came out black" in page.text("[role=alert] p[lang=en]")
    page.choose("language", "zh-Hans")
    page.until("return document.querySelector('.run.failed strong').textContent.startsWith('这个请求没有画出图片')")


def test_a_refused_setting_is_shown_where_it_is(page: Page, own_server: Paper) -> None:
    page.expects = (REFUSED,)
    page.open(own_server.url, storage={"darkroom.last.model": "darkroom-mini"})
    page.choose("size", "custom")
    page.one("#width").clear()
    page.one("#width").send_keys("9000")
    page.ask("too wide")
    page.until("return document.querySelector('.run.failed')")
    assert "sides from 16 to 2048" in page.text("[role=alert] p")
    assert page.one("#size").get_attribute("aria-invalid") == "true"
    assert page.run("return document.activeElement.id") == "size"


def test_an_empty_prompt_is_asked_for_and_nothing_is_sent(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.one("#generate").click()
    assert page.text("#banner") == "Write first what the picture should show."
    assert page.run("return document.activeElement.id") == "prompt"
    assert not own_server.worker.drawings


def test_a_server_that_goes_away_is_named_as_the_reason(page: Page, tmp_path: Path) -> None:
    page.expects = (REFUSED, "net::ERR")
    with PaperServers(tmp_path) as paper_servers:
        paper = paper_servers.open()
        page.open(paper.url)
    page.ask("too late")
    page.until("return document.querySelector('.run.failed')")
    assert page.text("[role=alert] strong").startswith("The server cannot be reached.")


def test_a_full_server_is_waited_for_with_a_countdown(page: Page, module_servers: PaperServers) -> None:
    page.expects = (REFUSED,)
    paper = module_servers.open(queue_size=1)
    paper.worker.gate.clear()
    page.open(paper.url)
    page.ask("the first")
    eventually(lambda: len(paper.worker.drawings) == 1)
    page.ask("the second")
    page.until(
        "return document.querySelector('.run-status').textContent.startsWith('The server is busy. Trying again in ')"
    )
    paper.worker.gate.set()
    page.until("return document.querySelectorAll('#latest .tile img').length === 2")
    assert [row["fields"]["prompt"] for row in page.kept()] == ["the second", "the first"]


def test_a_countdown_that_is_cancelled_ends_as_cancelled(page: Page, module_servers: PaperServers) -> None:
    """Cancelling woke the countdown, which then said that the server was full and stayed so."""
    page.expects = (REFUSED,)
    paper = module_servers.open(queue_size=1)
    paper.worker.gate.clear()
    page.open(paper.url)
    page.ask("the first")
    eventually(lambda: len(paper.worker.drawings) == 1)
    page.ask("the second")
    page.until("return document.querySelector('.run-status').textContent.startsWith('The server is busy.')")
    page.one(".run .button").click()
    time.sleep(0.2)
    assert page.text(".run .run-text") == "Cancelled."
    assert not page.all(".run.failed, [role=alert]:not(#banner)")
    paper.worker.gate.set()
    page.until("return document.querySelectorAll('#latest .tile img').length === 1")


def test_a_quota_that_is_used_up_is_told_and_not_waited_for(page: Page, keyed: Keyed) -> None:
    """The page said that the server was busy, and tried again when the day had ended."""
    page.expects = (REFUSED,)
    only = keyed.ring.create("eve", but=lambda entry: replace(entry, limits=Limits(pictures_per_day=1)))
    eventually(lambda: knows(keyed.paper, only))
    open_as(page, keyed.paper, only)
    page.ask("the first")
    page.pictures()
    page.ask("one more")
    page.until("return document.querySelector('.run.failed')")
    assert page.text("[role=alert]:not(#banner) strong").startswith("Your key has used up its quota for today.")
    assert "1 pictures a day" in page.text("[role=alert]:not(#banner) p")
    assert len(keyed.paper.worker.drawings) == 1


def test_the_place_in_the_queue_is_shown(page: Page, module_servers: PaperServers) -> None:
    paper = module_servers.open(running_jobs=1)
    paper.worker.gate.clear()
    page.open(paper.url)
    for prompt in ("the first", "the second", "the third"):
        page.ask(prompt)
    page.until("return document.querySelector('.run-status').textContent.startsWith('Place 2 in the queue')")
    paper.worker.gate.set()
    page.until("return document.querySelectorAll('#latest .tile img').length === 3")


def test_a_key_is_asked_for_kept_and_sent(page: Page, module_servers: PaperServers) -> None:
    page.expects = (REFUSED,)
    paper = module_servers.open(keys=True)
    page.open(paper.url, wait=False)
    page.until("return document.getElementById('key').open")
    assert page.text("#key-note").startswith("This server asks for a key.")
    page.one("#key-input").send_keys("wrong\n")
    page.until(
        "return document.getElementById('key-note').textContent.startsWith('The server does not know this key.')"
    )
    page.one("#key-input").send_keys(f"{paper.key}\n")
    page.until("return document.getElementById('model').options.length > 0")
    page.ask("a key opens this")
    page.pictures()
    page.reload()
    assert paper.key is not None
    assert not page.run("return document.getElementById('key').open")
    page.one("#code").click()
    assert "$DARKROOM_API_KEY" in page.text("#code-dialog pre")
    assert paper.key not in page.run("return document.documentElement.outerHTML")


def test_the_page_speaks_chinese_and_remembers_it(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    assert page.run("return document.documentElement.lang") == "en"
    page.choose("language", "zh-Hans")
    page.until("return document.documentElement.lang === 'zh-Hans'")
    assert page.text("#generate span") == "生成"
    page.reload()
    assert page.run("return document.documentElement.lang") == "zh-Hans"
    page.one("#prompt").send_keys("一只熊猫")
    page.one("#generate").click()
    page.pictures()
    assert page.text(".run-status").startswith("完成，共 1 张")
    page.one("#latest button.tile").click()
    page.until("return document.getElementById('detail').open")
    left = page.run(
        r"""
        const own = new Set(["API", "curl", "Python", "PNG", "KB", "Ctrl", "Darkroom"]);
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const found = [];
        while (walk.nextNode()) {
          const { parentElement: at, textContent: text } = walk.currentNode;
          if (!at.closest("script, noscript, select, pre, [lang=en], kbd, dd") && /[A-Za-z]{3}/.test(text)) {
            if (!text.match(/[A-Za-z]{3,}/g).every((word) => own.has(word))) found.push(text);
          }
        }
        return found;
        """
    )
    assert left == []


def test_a_browser_set_to_chinese_is_answered_in_chinese(page: Page, own_server: Paper) -> None:
    page.chrome.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": "test", "acceptLanguage": "zh-TW,en"})
    try:
        page.open(own_server.url)
        assert page.run("return document.documentElement.lang") == "zh-Hant"
    finally:
        page.chrome.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": "test", "acceptLanguage": "en-GB"})


def test_words_that_are_refused_leave_the_page_as_it_speaks(page: Page, own_server: Paper) -> None:
    """The refusal was JSON, and taken for words: every text of the page became the name of its key."""
    page.open(own_server.url)
    page.run(
        """
        const ask = fetch;
        window.fetch = (address, ...rest) => String(address).includes("/lang/zh")
          ? Promise.resolve(new Response('{"error": {"code": "queue_full"}}', { status: 503 }))
          : ask(address, ...rest);
        """
    )
    page.choose("language", "zh-Hans")
    page.until("return !document.getElementById('banner').hidden", within_s=5)
    assert page.text("#banner").startswith("The server cannot be reached")
    assert page.text("#generate span") == "Generate"
    assert page.run("return document.getElementById('language').value") == "en"


def test_every_control_has_a_name_in_every_dialog(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.one("#more summary").click()
    page.ask("a picture")
    page.pictures()
    assert page.nameless() == []
    for opened in ("detail", "mask", "key", "code-dialog"):
        if opened == "detail":
            page.one("#latest button.tile").click()
        elif opened == "mask":
            page.one("#edit").click()
            page.until("return document.querySelector('#sources .source .button')").click()
        elif opened == "key":
            page.one("#key-button").click()
        else:
            page.one("#code").click()
        page.until("return document.getElementById(arguments[0]).open", opened)
        assert page.nameless() == [], opened
        if opened != "detail":
            page.run("document.getElementById(arguments[0]).close()", opened)


def test_a_mask_can_be_painted_by_keyboard(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.paste("black")
    page.until("return document.querySelector('#sources .source .button')").click()
    page.until("return document.activeElement.id === 'mask-canvas'")
    page.one("#mask-canvas").send_keys("\ue012\ue012 ")  # left, left, space
    page.one("#mask-done").click()
    page.until("return document.querySelector('#sources .veil')")
    page.ask("light")
    page.pictures()
    (drawing,) = own_server.worker.drawings
    assert drawing.spec.mask is not None
    painted = sum(1 for value in drawing.spec.mask.data if value > 127) / len(drawing.spec.mask.data)
    assert 0.01 < painted < 0.2


def test_pictures_are_deleted_one_by_one_and_all(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.choose("n", "3")
    page.ask("three")
    page.pictures(3)
    page.one("#latest button.tile").click()
    page.one("#delete").click()
    page.one("#confirm-yes").click()
    page.until("return document.querySelectorAll('.tile').length === 2")
    page.run("document.getElementById('detail').close()")
    assert len(page.kept()) == 2
    page.reload()
    page.one("#clear").click()
    page.one("#confirm-yes").click()
    page.until("return document.querySelectorAll('.tile').length === 0")
    assert page.kept() == []
    assert page.one("#welcome").is_displayed()


def test_a_phone_shows_everything_without_scrolling_sideways(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.ask("a picture for a small screen")
    page.pictures()
    page.chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    page.until("return innerWidth === 390")
    page.run("document.getElementById('more').open = true")
    time.sleep(0.2)
    assert page.run("return document.documentElement.scrollWidth") == 390
    small = page.run(
        """
        return [...document.querySelectorAll("button, select, input, a")].filter((control) => {
          const { width, height } = control.getBoundingClientRect();
          return control.checkVisibility() && !control.closest(".hidden, .skip, dialog") && control.type !== "file"
            && width > 0 && Math.min(width, height) < 43.5;
        }).map((control) => control.outerHTML.slice(0, 90));
        """
    )
    assert small == []


def test_several_devices_are_shown_plainly_and_a_single_one_is_not(
    page: Page, own_server: Paper, module_servers: PaperServers
) -> None:
    """They stood in a tooltip, which a phone never shows and a keyboard does not reach."""
    page.open(own_server.url)
    assert not page.one("#devices").is_displayed()
    paper = module_servers.open(devices="cpu,cpu", running_jobs=1)
    first, second = paper.app.state.services.worker.members
    second.device_problem = "The driver is too old."
    first.gate.clear()
    page.open(paper.url)
    page.until("return !document.getElementById('devices').hidden")
    page.ask("a panda")
    page.until("return document.querySelector('#device-list .draws')")
    drawing, idle = (item.text.split("\n") for item in page.all("#device-list li"))
    assert drawing == ["cpu:0", "up", "darkroom-mini", "draws 1 request"]
    assert idle == ["cpu:1", "up", "darkroom-mini", "loaded", "The driver is too old."]
    page.choose("language", "zh-Hans")
    page.until("return document.querySelector('#device-list .draws').textContent === '正在绘制 1 个请求'")
    assert page.text("#devices-title") == "设备"
    page.chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    page.until("return innerWidth === 390")
    assert page.run("return document.documentElement.scrollWidth") == 390
    first.gate.set()
    page.until("return !document.querySelector('#device-list .draws')")


def test_the_theme_follows_the_system_until_one_is_chosen(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    ground = "return getComputedStyle(document.body).backgroundColor"
    try:
        page.chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        dark = page.run(ground)
        page.one("#theme").click()  # light
        light = page.run(ground)
        assert dark != light
        page.reload()
        assert page.run(ground) == light
    finally:
        page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_events_are_read_however_the_network_cuts_them(page: Page, own_server: Paper, size: int) -> None:
    page.open(own_server.url)
    text = ': keep-alive\n\nevent: first\ndata: {"text": "熊猫"}\r\n\r\ndata:a\ndata: b\n\nevent: cut\ndata: off'
    read = page.chrome.execute_async_script(
        """
        const [text, size, done] = arguments;
        const bytes = new TextEncoder().encode(text);
        const body = new ReadableStream({
          start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            controller.close();
          },
        });
        import("/page/app/sse.js").then(async ({ readEvents }) => {
          const read = [];
          for await (const { type, data } of readEvents(body)) read.push([type, data]);
          done(read);
        });
        """,
        text,
        size,
    )
    assert read == [["first", '{"text": "熊猫"}'], ["message", "a\nb"]]
