"""What the browser keeps, and what it gives up when it cannot: pictures, and the bytes of those to edit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.page import Page
from tests.paper import Paper
from tests.running import eventually

PICTURE_BYTES = 400_000


def _draw(page: Page, prompt: str) -> None:
    page.ask(prompt)
    page.until("return document.querySelector('#latest .run')?.dataset.over === 'done'")
    page.pictures()


def _prompts(page: Page) -> list[str]:
    return [row["fields"]["prompt"] for row in page.kept()]


@pytest.fixture
def full_page(page: Page, own_server: Paper) -> Iterator[Page]:
    """A browser that was opened again, with four large pictures and room for hardly more."""
    own_server.worker.ballast = PICTURE_BYTES
    page.open(own_server.url)
    quota = {"origin": own_server.url, "quotaSize": 4 * PICTURE_BYTES + 200_000}
    page.chrome.execute_cdp_cmd("Storage.overrideQuotaForOrigin", quota)
    for number in range(4):
        _draw(page, f"older {number}")
    eventually(lambda: len(page.kept()) == 4)
    page.reload()
    page.until("return document.querySelectorAll('#grid .tile').length === 4")
    page.chrome.execute_cdp_cmd("HeapProfiler.collectGarbage", {})  # as it comes by itself, sooner or later
    yield page
    page.chrome.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": own_server.url})


def test_a_picture_that_comes_out_of_sight_is_kept(page: Page, own_server: Paper) -> None:
    """It waited to be decoded, which a lazy image far from the window is not, and was lost with the tab."""
    own_server.worker.gate.clear()
    page.open(own_server.url)
    page.ask("seen by nobody")
    eventually(lambda: len(own_server.worker.drawings) == 1)
    page.run("document.getElementById('latest').style.marginTop = '30000px'; scrollTo(0, 0)")
    own_server.worker.gate.set()
    page.until("return document.querySelector('#latest .run')?.dataset.over === 'done'")
    (kept,) = eventually(page.kept, within_s=5)
    assert (kept["width"], kept["height"]) == (2, 2)


def test_a_browser_that_fails_to_keep_one_loses_no_other(page: Page, own_server: Paper) -> None:
    """Every failure was taken for a full browser, and half of the pictures went for nothing."""
    page.open(own_server.url)
    for number in range(3):
        _draw(page, f"older {number}")
    eventually(lambda: len(page.kept()) == 3)
    page.run(
        """
        const { put } = IDBObjectStore.prototype;
        IDBObjectStore.prototype.put = function (value) {
          const asked = put.call(this, value);
          asked.onsuccess = () => this.transaction.abort();
          return asked;
        };
        window.mend = () => { IDBObjectStore.prototype.put = put; };
        """
    )
    _draw(page, "not kept")
    page.until("return document.getElementById('banner').textContent.startsWith('The browser does not keep pictures')")
    assert _prompts(page) == ["older 2", "older 1", "older 0"]
    page.run("mend()")
    _draw(page, "kept again")
    eventually(lambda: len(page.kept()) == 4)


def test_a_full_browser_lets_the_oldest_go_until_the_new_one_fits(full_page: Page) -> None:
    _draw(full_page, "newest")
    eventually(lambda: "newest" in _prompts(full_page))
    assert _prompts(full_page) == ["newest", "older 3", "older 2", "older 1"]
    assert full_page.text("#banner") == ""


def test_a_picture_that_will_never_fit_costs_few_others(page: Page, own_server: Paper) -> None:
    """Room is made for one picture; where that does not help, the rest stays."""
    page.open(own_server.url)
    for number in range(5):
        _draw(page, f"older {number}")
    eventually(lambda: len(page.kept()) == 5)
    full = "() => { throw new DOMException('', 'QuotaExceededError'); }"
    page.run(f"IDBObjectStore.prototype.put = {full}")
    _draw(page, "too much")
    page.until("return document.getElementById('banner').textContent.startsWith('The browser does not keep pictures')")
    assert _prompts(page) == ["older 4", "older 3", "older 2"]


def test_a_source_outlives_its_file(page: Page, own_server: Paper, tmp_path: Path) -> None:
    """The file itself was sent and kept: once it had moved, the edit failed, and so did the browser's keeping."""
    file = tmp_path / "source.png"
    Image.new("RGB", (200, 100), "red").save(file)
    page.open(own_server.url)
    page.one("#file").send_keys(str(file))
    page.until("return document.querySelectorAll('#sources .source').length === 1")
    file.unlink()
    _draw(page, "a blue one")
    (kept,) = eventually(page.kept, within_s=5)
    assert kept["sources"] == 1


def test_pictures_are_taken_in_their_order(page: Page, own_server: Paper) -> None:
    """They came in the order in which the browser had decoded them."""
    page.open(own_server.url)
    page.run(
        """
        const { createImageBitmap } = window;
        let slow = true;
        window.createImageBitmap = async (...of) => {
          const wait = slow ? 400 : 0;
          slow = false;
          await new Promise((resolve) => setTimeout(resolve, wait));
          window.read = (window.read ?? 0) + 1;
          return createImageBitmap(...of);
        };
        """
    )
    page.paste("red", "blue")
    page.until("return window.read === 2 && document.querySelectorAll('#sources .source').length === 1")
    page.until("return document.querySelector('#sources img').decode().then(() => true)")
    assert page.image("#sources img").getpixel((50, 50)) == (0, 0, 255)


def test_a_browser_that_keeps_nothing_is_named_from_the_start(page: Page, own_server: Paper) -> None:
    """The list of models, once it was there, took the words away."""
    nowhere = {"source": "IDBFactory.prototype.open = () => { throw new DOMException('', 'SecurityError'); };"}
    script = page.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", nowhere)
    try:
        page.open(own_server.url)
        assert page.one("#banner").is_displayed()
        assert page.text("#banner").startswith("The browser does not keep pictures now")
    finally:
        page.chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
