"""Pages of other origins in a real browser: one that is listed draws and reads, one that is not gets nothing."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.browser.page import REFUSED
from tests.paper import Paper, PaperServers

BLOCKED = "blocked by CORS policy"
# Draws with a key, then reads the picture behind its URL; tells what it could read of both, or what it was told.
DRAW = """
    const [server, key, body, done] = arguments;
    const headers = {"content-type": "application/json", ...(key ? {authorization: `Bearer ${key}`} : {})};
    try {
        const answer = await fetch(`${server}/v1/images/generations`, {method: "POST", headers, body});
        const shown = {
            status: answer.status,
            job: answer.headers.get("x-job-id"),
            ignored: answer.headers.get("x-ignored-fields"),
            retry: answer.headers.get("x-should-retry"),
            ...await answer.json(),
        };
        if (shown.data) {
            const picture = await fetch(shown.data[0].url);
            const start = new Uint8Array(await picture.arrayBuffer()).slice(1, 4);
            Object.assign(shown, {start: String.fromCharCode(...start), etag: picture.headers.get("etag")});
        }
        done(shown);
    } catch (error) {
        done({error: String(error)});
    }
"""
BODY = '{"prompt": "a red apple", "size": "512x512", "wobble": 1}'


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@contextlib.contextmanager
def _site(folder: Path) -> Iterator[str]:
    """A site of its own on another port, which is another origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=str(folder))) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_address[1]}"
        finally:
            site.shutdown()
            thread.join(30)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two sites: one to list, and a stranger."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><link rel=icon href=data:,><title>a program</title>")
    with _site(folder) as listed, _site(folder) as stranger:
        yield listed, stranger


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Chrome]:
    yield chrome
    chrome.get("about:blank")
    chrome.get_log("browser")  # type: ignore[no-untyped-call]


def _draws(browser: Chrome, site: str, server: Paper, key: str | None) -> tuple[dict[str, Any], str]:
    """What a page of ``site`` could read, and what the browser's console says."""
    browser.get(f"{site}/index.html")
    shown: dict[str, Any] = browser.execute_async_script(DRAW, server.url, key, BODY)
    log: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return shown, " ".join(entry["message"] for entry in log)


def test_with_a_key_a_listed_page_draws_and_another_is_refused(
    browser: Chrome, sites: tuple[str, str], module_servers: PaperServers
) -> None:
    listed, stranger = sites
    server = module_servers.open(keys=True, cors_origins=f"https://app.example.com,{listed}")
    shown, log = _draws(browser, listed, server, server.key)
    assert (shown["status"], shown["start"], shown["ignored"]) == (200, "PNG", "wobble")
    assert shown["job"]
    assert shown["etag"]
    assert BLOCKED not in log

    drawn = len(server.worker.drawings)
    shown, log = _draws(browser, stranger, server, server.key)
    assert "Failed to fetch" in shown["error"]
    assert BLOCKED in log
    assert len(server.worker.drawings) == drawn == 1

    shown, log = _draws(browser, listed, server, None)  # the refusal itself can be read
    assert (shown["status"], shown["error"]["code"], shown["retry"]) == (401, "invalid_api_key", "false")
    assert REFUSED in log
    assert BLOCKED not in log


def test_without_keys_a_listed_page_draws_and_another_draws_nothing(
    browser: Chrome, sites: tuple[str, str], module_servers: PaperServers
) -> None:
    listed, stranger = sites
    server = module_servers.open(cors_origins=listed)
    shown, _ = _draws(browser, listed, server, None)
    assert (shown["status"], shown["start"]) == (200, "PNG")
    shown, log = _draws(browser, stranger, server, None)
    assert "Failed to fetch" in shown["error"]
    assert BLOCKED in log

    browser.get(f"{stranger}/index.html")  # a plain form's POST needs no preflight, and its answer cannot be read
    shown = browser.execute_async_script(
        """const [server, body, done] = arguments;
           fetch(`${server}/v1/images/generations`, {method: "POST", mode: "no-cors", body})
               .then(answer => done({type: answer.type}), error => done({error: String(error)}));""",
        server.url,
        BODY,
    )
    assert shown == {"type": "opaque"}
    assert len(server.worker.drawings) == 1
