"""What the panels of the page say when the server refuses or is away; when they ask it, and when not."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.browser.page import REFUSED, Page
from tests.browser.panels import JOB, Keyed, knows, open_as, open_panel
from tests.paper import Paper, PaperServers
from tests.running import eventually

PANELS = "/page/app/panels/"


def test_an_expired_key_is_named_and_another_one_goes_on(page: Page, keyed: Keyed) -> None:
    page.expects = (REFUSED,)
    short = keyed.ring.create("short")
    eventually(lambda: knows(keyed.paper, short))
    open_as(page, keyed.paper, short)
    past = (datetime.now(UTC) - timedelta(seconds=2)).isoformat(timespec="seconds")
    keyed.ring.change("short", lambda entry: replace(entry, expires=past))
    eventually(lambda: not knows(keyed.paper, short))
    _open_refused(page, "Your key has expired.")
    page.one("#panels .body > .run-error .button").click()
    page.until("return document.getElementById('key').open")
    assert page.text("#key-note") == "This key has expired. Enter another."
    page.one("#key-input").send_keys(f"{keyed.bob}\n")
    page.until("return document.querySelector('#panels .body > .run-error').hidden")
    page.until("return !document.getElementById('panel-jobs').hidden")


def _open_refused(page: Page, start: str) -> None:
    page.one("#server").click()
    page.until("return document.querySelector('#panels .body > .run-error:not([hidden])')")
    assert page.text("#panels .body > .run-error strong").startswith(start)


def test_a_server_that_goes_away_is_named_as_the_reason(page: Page, tmp_path: Path) -> None:
    page.expects = (REFUSED, "net::ERR")
    with PaperServers(tmp_path) as paper_servers:
        page.open(paper_servers.open().url)
        open_panel(page)
    page.one("#tab-usage").click()
    page.until("return document.querySelector('#panels .body > .run-error:not([hidden])')")
    assert page.text("#panels .body > .run-error strong").startswith("The server cannot be reached.")
    page.run("document.getElementById('panels').close()")


@pytest.mark.parametrize("file", ["panels.js", "panels.css", "en.json"])
def test_panels_that_cannot_be_fetched_are_said_so_and_come_later(page: Page, own_server: Paper, file: str) -> None:
    page.expects = (REFUSED,)
    page.open(own_server.url)
    page.chrome.execute_cdp_cmd("Network.enable", {})
    try:
        page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [f"*{PANELS}*{file}"]})
        page.one("#server").click()
        page.until("return !document.getElementById('banner').hidden")
        assert page.text("#banner").startswith("The server cannot be reached.")
    finally:
        page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    open_panel(page)
    assert page.one("#panel-jobs").is_displayed()
    assert not page.one("#banner").is_displayed()


def test_a_part_that_the_browser_holds_for_lost_asks_for_a_reload(page: Page, own_server: Paper) -> None:
    page.expects = (REFUSED,)
    page.open(own_server.url)
    page.chrome.execute_cdp_cmd("Network.enable", {})
    try:
        page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": [f"*{PANELS}jobs.js"]})
        page.one("#server").click()
        page.until("return !document.getElementById('banner').hidden")
        assert page.text("#banner") == "Something went wrong in this page. Reload it and try again."
    finally:
        page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


COUNTED = """
    window.asked = 0;
    const send = window.fetch;
    window.fetch = (url, options) => {
      window.asked += 1;
      if (!window.refuse) return send(url, options);
      const error = { message: "Too many requests here.", code: "rate_limited" };
      const headers = { "retry-after": "30" };
      return Promise.resolve(new Response(JSON.stringify({ error }), { status: 429, headers }));
    };
"""


@pytest.mark.long
def test_the_server_is_asked_while_somebody_looks_and_only_then(page: Page, own_server: Paper) -> None:
    page.log("performance")
    page.open(own_server.url)
    assert not [path for path in _paths(page) if PANELS in path], "they come with the page"
    page.run(COUNTED)
    own_server.worker.gate.clear()
    page.ask("a long one")
    open_panel(page)
    page.until(f"{JOB}.startsWith('Drawing')")
    page.run("window.asked = 0")
    page.until("return window.asked >= 2")

    page.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.run("document.dispatchEvent(new Event('visibilitychange')); window.asked = 0")
    time.sleep(2.5)
    assert page.run("return window.asked") == 0
    page.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.until("return window.asked >= 1")

    page.run("document.getElementById('panels').close(); window.asked = 0")
    time.sleep(2.5)
    assert page.run("return window.asked") == 0


def _paths(page: Page) -> list[str]:
    return list(page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)"))


@pytest.mark.long
def test_a_busy_server_is_left_alone_for_as_long_as_it_says(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.run(COUNTED)
    open_panel(page, "models")
    page.run("window.refuse = true")
    page.until("return document.querySelector('#panels .body > .run-error:not([hidden])')")
    assert page.text("#panels .body > .run-error strong").startswith("The server is busy.")
    assert page.text("#panels .body > .run-error p") == "Too many requests here."
    page.run("window.asked = 0")
    time.sleep(5)  # models are looked at every four seconds
    assert page.run("return window.asked") == 0
    page.run("window.refuse = false")
    page.one("#tab-jobs").click()
    page.until("return document.querySelector('#panels .body > .run-error').hidden")
