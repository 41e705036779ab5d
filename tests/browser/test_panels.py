"""The panels of the page: jobs, usage and models; asked for while they are looked at, and only then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.plan import ModelPlan
from server.edge.keys import Keyring
from server.errors import ModelUnavailable
from server.jobs.limits import Limits
from server.worker.status import ModelState
from tests.browser.page import REFUSED, Page
from tests.paper import Paper, PaperServers
from tests.running import eventually
from tests.unit.edge.live import Live

JOBS = "return document.querySelectorAll('#panel-jobs .rows > li').length"
JOB = "return document.querySelector('#panel-jobs .rows .state').textContent"  # of the first
MODELS = "return document.querySelectorAll('#panel-models .rows > li').length"
MODEL = "return document.querySelector('#panel-models .places .state').textContent"
PANELS = "/page/app/panels/"


@dataclass
class Keyed:
    """A server with keys: ada's, who is its admin, and bob's, who may have few pictures."""

    paper: Paper
    ring: Keyring
    ada: str
    bob: str

    def draw(self, key: str, **fields: Any) -> int:
        with _as(self.paper.live, key) as client:
            return client.post("/v1/images/generations", json={"prompt": "an apple", **fields}).status_code


def _as(live: Live, key: str) -> Any:
    return live.client(headers={"authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture(scope="module")
def _keyed(module_servers: PaperServers) -> Keyed:
    paper = module_servers.open(keys=True)
    ring = Keyring(paper.app.state.services.settings.data_dir / "keys.json")
    ada = ring.create("ada", admin=True)
    bob = ring.create("bob", but=lambda entry: replace(entry, limits=Limits(pictures_per_day=50)))
    keyed = Keyed(paper, ring, ada, bob)
    eventually(lambda: all(_knows(paper, key) for key in (ada, bob)))
    return keyed


def _knows(paper: Paper, key: str) -> bool:
    with _as(paper.live, key) as client:
        return bool(client.get("/v1/models").status_code == 200)


@pytest.fixture
def keyed(_keyed: Keyed) -> Iterator[Keyed]:
    _keyed.paper.worker.forget()
    yield _keyed
    _keyed.paper.worker.gate.set()


def _open(page: Page, tab: str = "jobs") -> None:
    page.one("#server").click()
    page.until("return document.getElementById('panels')?.open")
    page.one(f"#tab-{tab}").click()
    page.until("return !document.querySelector(arguments[0]).hidden", f"#panel-{tab}")


def _as_key(page: Page, paper: Paper, key: str) -> None:
    page.open(paper.url, storage={"darkroom.key": key})


def test_a_running_job_is_seen_and_cancelled(page: Page, own_server: Paper) -> None:
    own_server.worker.gate.clear()
    page.open(own_server.url)
    page.ask("a long one")
    eventually(lambda: len(own_server.worker.drawings) == 1)
    _open(page)
    page.until(f"{JOB}.startsWith('Drawing · step 1 of 2')")
    assert page.one("#panels progress").get_attribute("value") == "0.5"
    assert not page.one("#panels .toggle").is_displayed()  # whose jobs? a server without keys has nobody else
    assert "key local" not in page.text("#panels .facts")
    page.one("#panel-jobs .rows .actions .button:not([hidden])").click()
    page.until(f"{JOB} === 'Cancelled'")
    assert len(own_server.worker.cancelled) == 1
    assert page.text("#panels > [role=status]") == "The job was cancelled."
    assert not page.run("return document.querySelector('#panel-jobs .rows .button').checkVisibility()")
    assert page.run("return document.activeElement.closest('#panels') !== null"), "whoever pressed it keeps their place"
    assert page.text(".run.failed strong") == "The request was cancelled."


def test_a_button_stays_where_it_is_while_the_job_goes_on(page: Page, own_server: Paper) -> None:
    """Rows that are made anew at every look take a button away between press and release."""
    own_server.worker.gate.clear()
    page.open(own_server.url)
    page.ask("a long one")
    _open(page)
    page.until(f"{JOB}.startsWith('Drawing')")
    page.run("window.held = document.querySelector('#panel-jobs .rows .actions .button:not([hidden])'); held.focus()")
    before = page.text("#panels .facts")
    page.until("return document.querySelector('#panels .facts').textContent !== arguments[0]", before)
    assert page.run("return held.isConnected && document.activeElement === held")


def test_an_admin_sees_all_keys_jobs_and_cancels_its_own(page: Page, keyed: Keyed) -> None:
    assert keyed.draw(keyed.bob) == keyed.draw(keyed.ada) == 200
    _as_key(page, keyed.paper, keyed.ada)
    _open(page)
    page.until(f"{JOBS} >= 2")
    facts = [row.text for row in page.all("#panels .facts")]
    assert any(text.startswith("key bob · ") for text in facts)
    assert any(text.startswith("key ada · ") for text in facts)
    page.one("#panels .toggle label").click()
    page.until("return ![...document.querySelectorAll('#panels .facts')].some((row) => /key/.test(row.textContent))")
    assert page.run(JOBS) < len(facts)

    _as_key(page, keyed.paper, keyed.bob)
    _open(page)
    page.until(f"{JOBS} >= 1")
    assert not page.one("#panels .toggle").is_displayed()
    assert "key" not in page.text("#panel-jobs .rows")


def test_nobody_cancels_the_job_of_another_key(page: Page, keyed: Keyed) -> None:
    keyed.paper.worker.gate.clear()
    _as_key(page, keyed.paper, keyed.bob)
    page.ask("bob's")
    eventually(lambda: len(keyed.paper.worker.drawings) == 1)
    page.chrome.switch_to.new_window("tab")
    try:
        page.chrome.get(f"{keyed.paper.url}/page/docs/favicon.svg")
        page.run("localStorage.setItem('darkroom.key', arguments[0])", keyed.ada)
        page.chrome.get(f"{keyed.paper.url}/")
        page.ready()
        _open(page)
        page.until(f"{JOB}.startsWith('Drawing')")
        assert page.text("#panels .facts").startswith("key bob · ")
        assert not page.run("return document.querySelector('#panel-jobs .rows .button').checkVisibility()")
    finally:
        page.chrome.close()
        page.chrome.switch_to.window(page.chrome.window_handles[0])
    keyed.paper.worker.gate.set()
    page.pictures()


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_the_pictures_of_a_job_that_nobody_waited_for_are_linked(page: Page, own_server: Paper, form: str) -> None:
    own_server.worker.gate.clear()
    asked = {"prompt": "later", "n": 2, "response_format": form}
    with own_server.client(headers={"prefer": "respond-async"}) as client:
        assert client.post("/v1/images/generations", json=asked).status_code == 202
    page.open(own_server.url)
    _open(page)
    page.until(f"{JOB}.startsWith('Drawing')")
    assert page.text("#panel-jobs .facts").startswith("2 pictures · ")
    assert page.text("#panel-jobs .facts").endswith(" · kept until fetched")
    own_server.worker.gate.set()
    page.until(f"{JOB} === 'Done'")
    assert " · pictures are kept until " in page.text("#panel-jobs .facts")
    page.one("#panel-jobs .rows .button:not([hidden])").click()
    page.until("return document.querySelectorAll('#panel-jobs .pictures a').length === 2")
    first = page.one("#panel-jobs .pictures a")
    assert first.text == "Picture 1"
    assert page.run("return document.activeElement.textContent") == "Picture 1"
    address = first.get_attribute("href") or ""
    assert address.startswith(f"{own_server.url}/files/" if form == "url" else "blob:")
    decoded = page.chrome.execute_async_script(
        """
        const image = new Image();
        image.src = arguments[0];
        image.decode().then(() => arguments[1]([image.naturalWidth, image.naturalHeight]));
        """,
        address,
    )
    assert decoded == [2, 2]


def test_usage_counts_a_picture_and_tells_what_is_left(page: Page, keyed: Keyed) -> None:
    _as_key(page, keyed.paper, keyed.bob)
    _open(page, "usage")
    left = page.text("#panels .quota strong")
    assert left.endswith(" of 50 left")
    count = int(left.split()[0])
    page.run("document.getElementById('panels').close()")
    page.ask("a picture that counts")
    page.pictures()
    _open(page, "usage")
    page.until(
        "return document.querySelector('#panels .quota strong').textContent === arguments[0]", f"{count - 1} of 50 left"
    )
    assert int(page.one("#panels .meter").get_attribute("aria-valuenow") or 0) == 50 - count + 1
    assert page.all("#panels .quota")[1].text.endswith("No limit")
    today = datetime.now(UTC).date().isoformat()
    row = page.run(
        """
        const row = [...document.querySelectorAll("#panels tbody tr")].find((row) => row.querySelector("time").dateTime === arguments[0]);
        return [...row.cells].map((cell) => cell.textContent);
        """,
        today,
    )
    assert row[1:3] == ["dall-e-2", str(50 - count + 1)]
    assert float(row[3]) > 0
    assert page.text("#panels tfoot th") == "Total"

    keyed.draw(keyed.ada)
    _as_key(page, keyed.paper, keyed.ada)
    _open(page, "usage")
    page.until("return document.querySelectorAll('#panels tbody tr').length === 2")
    assert {cell.text for cell in page.all("#panels td.model .muted")} == {"ada", "bob"}
    page.one("#panels .toggle label").click()
    page.until("return document.querySelectorAll('#panels tbody tr').length === 1")


def test_the_owner_unloads_and_loads_a_model(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    _open(page, "models")
    page.until(f"{MODELS} === 1")  # six names, one set of weights
    assert page.text("#panel-models .rows strong") == "darkroom-mini"
    assert "dall-e-3" in page.text("#panel-models .rows p.muted")
    assert page.run(MODEL) == "loaded"
    unload = page.one("#panels .places .button:not([hidden])")
    assert unload.get_attribute("aria-label") == "Unload darkroom-mini from paper"
    unload.click()
    page.until(f"{MODEL} === 'not loaded'")
    page.until("return document.querySelector('#panels > [role=status]').textContent === 'darkroom-mini is unloaded.'")
    assert own_server.worker.models["darkroom-mini"].state is ModelState.UNLOADED
    assert not page.one("#panel-models > .muted").is_displayed()  # "only an admin key may"
    page.one("#panels .places .button:not([hidden])").click()
    page.until(f"{MODEL} === 'loaded'")
    assert own_server.worker.models["darkroom-mini"].state is ModelState.READY


def test_a_load_that_fails_is_told_in_the_servers_words(
    page: Page, own_server: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.expects = (REFUSED,)

    async def load(plan: ModelPlan, model: str) -> None:
        raise ModelUnavailable("unet/model.safetensors is cut off: fetch it again.", param="model")

    monkeypatch.setattr(own_server.worker, "load", load)
    page.open(own_server.url)
    _open(page, "models")
    page.one("#panels .places .button:not([hidden])").click()
    page.until(f"{MODEL} === 'not loaded'")
    page.one("#panels .places .button:not([hidden])").click()
    page.until("return document.querySelector('#panels .model .run-error:not([hidden])')")
    assert page.text("#panels .model .run-error strong").startswith("This model cannot be used now")
    assert page.text("#panels .model .run-error p").startswith("unet/model.safetensors is cut off: fetch it again.")
    time.sleep(2)  # the next look leaves it
    assert page.one("#panels .model .run-error").is_displayed()
    own_server.worker.models["darkroom-mini"].state = ModelState.READY


def test_others_are_shown_the_models_and_refused(page: Page, keyed: Keyed) -> None:
    page.expects = (REFUSED,)
    _as_key(page, keyed.paper, keyed.bob)
    _open(page, "models")
    page.until(f"{MODELS} === 1")
    assert not page.all("#panels .places .button:not([hidden])")
    assert page.one("#panel-models > .muted").text == "Only an admin key may load and unload models."

    _as_key(page, keyed.paper, keyed.ada)
    _open(page, "models")
    page.until("return document.querySelector('#panels .places .button:not([hidden])')")
    page.run("return import('/page/app/api.js').then((api) => api.setKey(arguments[0]))", keyed.bob)
    page.one("#panels .places .button:not([hidden])").click()
    page.until("return document.querySelector('#panels .model .run-error:not([hidden])')")
    assert page.text("#panels .model .run-error strong") == "Only an admin key may do this."
    assert "darkroom keys create NAME --admin" in page.text("#panels .model .run-error p[lang=en]")
    assert keyed.paper.worker.models["darkroom-mini"].state is ModelState.READY


def test_each_device_of_several_has_its_own_buttons(page: Page, module_servers: PaperServers) -> None:
    paper = module_servers.open(devices="cpu,cpu")
    first, second = paper.app.state.services.worker.members
    page.open(paper.url)
    _open(page, "models")
    page.until("return document.querySelectorAll('#panels .places li').length === 2")
    page.all("#panels .places li")[1].find_element("css selector", ".button:not([hidden])").click()
    page.until("return document.querySelectorAll('#panels .places .state')[1].textContent === 'not loaded'")
    assert [member.models["darkroom-mini"].state for member in (first, second)] == [
        ModelState.READY,
        ModelState.UNLOADED,
    ]


def test_an_expired_key_is_named_and_another_one_goes_on(page: Page, keyed: Keyed) -> None:
    page.expects = (REFUSED,)
    short = keyed.ring.create("short")
    eventually(lambda: _knows(keyed.paper, short))
    _as_key(page, keyed.paper, short)
    past = (datetime.now(UTC) - timedelta(seconds=2)).isoformat(timespec="seconds")
    keyed.ring.change("short", lambda entry: replace(entry, expires=past))
    eventually(lambda: not _knows(keyed.paper, short))
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
        _open(page)
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
    _open(page)
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
      return Promise.resolve(new Response(JSON.stringify({ error }), { status: 429, headers: { "retry-after": "30" } }));
    };
"""


def test_the_server_is_asked_while_somebody_looks_and_only_then(page: Page, own_server: Paper) -> None:
    page.log("performance")
    page.open(own_server.url)
    assert not [path for path in _paths(page) if PANELS in path], "they come with the page"
    page.run(COUNTED)
    own_server.worker.gate.clear()
    page.ask("a long one")
    _open(page)
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
    return [path for path in page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")]


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.run(COUNTED)
    _open(page, "models")
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


def test_the_panels_are_used_by_keyboard_and_every_control_has_a_name(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.ask("a picture")
    page.pictures()
    page.run("document.getElementById('server').focus()")
    page.one("#server").send_keys("\ue007")
    page.until("return document.getElementById('panels')?.open")
    assert page.run("return document.activeElement.id") == "tab-jobs"
    for key, tab in (("\ue014", "usage"), ("\ue014", "models"), ("\ue014", "jobs"), ("\ue012", "models")):
        page.chrome.switch_to.active_element.send_keys(key)
        page.until("return !document.getElementById(arguments[0]).hidden", f"panel-{tab}")
        assert page.run("return document.activeElement.id") == f"tab-{tab}"
        assert page.nameless() == []
    page.chrome.switch_to.active_element.send_keys("\ue00c")
    page.until("return !document.getElementById('panels').open")
    assert page.run("return document.activeElement.id") == "server"


def test_the_panels_speak_chinese(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    page.ask("a picture")
    page.pictures()
    _open(page)
    page.run("document.getElementById('panels').close()")
    page.choose("language", "zh-Hans")
    page.until("return document.documentElement.lang === 'zh-Hans'")
    for tab, words in (("jobs", "任务"), ("usage", "用量"), ("models", "模型")):
        _open(page, tab)
        assert page.text(f"#tab-{tab}") == words
        text = page.run(
            """
            const walk = document.createTreeWalker(document.getElementById("panels"), NodeFilter.SHOW_TEXT);
            const found = [];
            while (walk.nextNode()) {
              const { parentElement: at, textContent: text } = walk.currentNode;
              if (!at.closest("[lang=en]") && at.checkVisibility() && /[A-Za-z]{3}/.test(text)) found.push(text);
            }
            return found;
            """
        )
        assert [part for part in text if not part.startswith("也用于")] == []
        page.run("document.getElementById('panels').close()")
    page.choose("language", "zh-Hant")
    page.until("return document.getElementById('tab-jobs').textContent === '任務'")


def test_a_phone_shows_the_panels_without_scrolling_sideways(page: Page, keyed: Keyed) -> None:
    keyed.draw(keyed.bob)
    _as_key(page, keyed.paper, keyed.ada)
    page.chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    page.until("return innerWidth === 390")
    for tab in ("jobs", "usage", "models"):
        _open(page, tab)
        wide = page.run(
            """
            const boxes = [document.documentElement, ...document.querySelectorAll("#panels, #panels .body, #panels .wide-table")];
            return boxes.filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.className || box.tagName);
            """
        )
        assert wide == [], tab
        small = page.run(
            """
            return [...document.querySelectorAll("#panels button, #panels select, #panels .toggle label")].filter((control) => {
              const { width, height } = control.getBoundingClientRect();
              return control.checkVisibility() && Math.min(width, height) < 43.5;
            }).map((control) => control.outerHTML.slice(0, 90));
            """
        )
        assert small == [], tab
        page.run("document.getElementById('panels').close()")
