"""The panels of the page: jobs, usage and models, as people see and use them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from pipelines.plan import ModelPlan
from server.errors import ModelUnavailable
from server.worker.status import ModelState
from tests.browser.page import REFUSED, Page
from tests.browser.panels import JOB, JOBS, MODEL, MODELS, Keyed, open_as, open_panel
from tests.paper import Paper, PaperServers
from tests.running import eventually


def test_a_running_job_is_seen_and_cancelled(page: Page, own_server: Paper) -> None:
    own_server.worker.gate.clear()
    page.open(own_server.url)
    page.ask("a long one")
    eventually(lambda: len(own_server.worker.drawings) == 1)
    open_panel(page)
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
    open_panel(page)
    page.until(f"{JOB}.startsWith('Drawing')")
    page.run("window.held = document.querySelector('#panel-jobs .rows .actions .button:not([hidden])'); held.focus()")
    before = page.text("#panels .facts")
    page.until("return document.querySelector('#panels .facts').textContent !== arguments[0]", before)
    assert page.run("return held.isConnected && document.activeElement === held")


def test_an_admin_sees_all_keys_jobs_and_cancels_its_own(page: Page, keyed: Keyed) -> None:
    assert keyed.draw(keyed.bob) == keyed.draw(keyed.ada) == 200
    open_as(page, keyed.paper, keyed.ada)
    open_panel(page)
    page.until(f"{JOBS} >= 2")
    facts = [row.text for row in page.all("#panels .facts")]
    assert any(text.startswith("key bob · ") for text in facts)
    assert any(text.startswith("key ada · ") for text in facts)
    page.one("#panels .toggle label").click()
    page.until("return ![...document.querySelectorAll('#panels .facts')].some((row) => /key/.test(row.textContent))")
    assert page.run(JOBS) < len(facts)

    open_as(page, keyed.paper, keyed.bob)
    open_panel(page)
    page.until(f"{JOBS} >= 1")
    assert not page.one("#panels .toggle").is_displayed()
    assert "key" not in page.text("#panel-jobs .rows")


def test_nobody_cancels_the_job_of_another_key(page: Page, keyed: Keyed) -> None:
    keyed.paper.worker.gate.clear()
    open_as(page, keyed.paper, keyed.bob)
    page.ask("bob's")
    eventually(lambda: len(keyed.paper.worker.drawings) == 1)
    page.chrome.switch_to.new_window("tab")
    try:
        page.chrome.get(f"{keyed.paper.url}/page/docs/favicon.svg")
        page.run("localStorage.setItem('darkroom.key', arguments[0])", keyed.ada)
        page.chrome.get(f"{keyed.paper.url}/")
        page.ready()
        open_panel(page)
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
    open_panel(page)
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
    open_as(page, keyed.paper, keyed.bob)
    open_panel(page, "usage")
    left = page.text("#panels .quota strong")
    assert left.endswith(" of 50 left")
    count = int(left.split()[0])
    page.run("document.getElementById('panels').close()")
    page.ask("a picture that counts")
    page.pictures()
    open_panel(page, "usage")
    page.until(
        "return document.querySelector('#panels .quota strong').textContent === arguments[0]", f"{count - 1} of 50 left"
    )
    assert int(page.one("#panels .meter").get_attribute("aria-valuenow") or 0) == 50 - count + 1
    assert page.all("#panels .quota")[1].text.endswith("No limit")
    today = datetime.now(UTC).date().isoformat()
    row = page.run(
        """
        const rows = [...document.querySelectorAll("#panels tbody tr")];
        const row = rows.find((row) => row.querySelector("time").dateTime === arguments[0]);
        return [...row.cells].map((cell) => cell.textContent);
        """,
        today,
    )
    assert row[1:3] == ["dall-e-2", str(50 - count + 1)]
    assert float(row[3]) > 0
    assert page.text("#panels tfoot th") == "Total"

    keyed.draw(keyed.ada)
    open_as(page, keyed.paper, keyed.ada)
    open_panel(page, "usage")
    page.until("return document.querySelectorAll('#panels tbody tr').length === 2")
    assert {cell.text for cell in page.all("#panels td.model .muted")} == {"ada", "bob"}
    page.one("#panels .toggle label").click()
    page.until("return document.querySelectorAll('#panels tbody tr').length === 1")


def _where(paper: Paper) -> str:
    return str(paper.worker.models["darkroom-mini"].state)


def test_the_owner_unloads_and_loads_a_model(page: Page, own_server: Paper) -> None:
    page.open(own_server.url)
    open_panel(page, "models")
    page.until(f"{MODELS} === 1")  # six names, one set of weights
    assert page.text("#panel-models .rows strong") == "darkroom-mini"
    assert "dall-e-3" in page.text("#panel-models .rows p.muted")
    assert page.run(MODEL) == "loaded"
    unload = page.one("#panels .places .button:not([hidden])")
    assert unload.get_attribute("aria-label") == "Unload darkroom-mini from paper"
    unload.click()
    page.until(f"{MODEL} === 'not loaded'")
    page.until("return document.querySelector('#panels > [role=status]').textContent === 'darkroom-mini is unloaded.'")
    assert _where(own_server) == "unloaded"
    assert not page.one("#panel-models > .muted").is_displayed()  # "only an admin key may"
    page.one("#panels .places .button:not([hidden])").click()
    page.until(f"{MODEL} === 'loaded'")
    assert page.run("return document.activeElement.textContent") == "Unload"
    assert _where(own_server) == "ready"


def test_a_load_that_fails_is_told_in_the_servers_words(
    page: Page, own_server: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.expects = (REFUSED,)

    async def load(plan: ModelPlan, model: str) -> None:
        raise ModelUnavailable("unet/model.safetensors is cut off: fetch it again.", param="model")

    monkeypatch.setattr(own_server.worker, "load", load)
    page.open(own_server.url)
    open_panel(page, "models")
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
    open_as(page, keyed.paper, keyed.bob)
    open_panel(page, "models")
    page.until(f"{MODELS} === 1")
    assert not page.all("#panels .places .button:not([hidden])")
    assert page.one("#panel-models > .muted").text == "Only an admin key may load and unload models."

    open_as(page, keyed.paper, keyed.ada)
    open_panel(page, "models")
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
    open_panel(page, "models")
    page.until("return document.querySelectorAll('#panels .places li').length === 2")
    page.all("#panels .places li")[1].find_element("css selector", ".button:not([hidden])").click()
    page.until("return document.querySelectorAll('#panels .places .state')[1].textContent === 'not loaded'")
    assert [member.models["darkroom-mini"].state for member in (first, second)] == [
        ModelState.READY,
        ModelState.UNLOADED,
    ]


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
    open_panel(page)
    page.run("document.getElementById('panels').close()")
    page.choose("language", "zh-Hans")
    page.until("return document.documentElement.lang === 'zh-Hans'")
    for tab, words in (("jobs", "任务"), ("usage", "用量"), ("models", "模型")):
        open_panel(page, tab)
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
    open_as(page, keyed.paper, keyed.ada)
    page.chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    page.until("return innerWidth === 390")
    for tab in ("jobs", "usage", "models"):
        open_panel(page, tab)
        wide = page.run(
            """
            const parts = document.querySelectorAll("#panels, #panels .body, #panels .wide-table");
            const wide = [document.documentElement, ...parts].filter((box) => box.scrollWidth > box.clientWidth + 1);
            return wide.map((box) => box.className || box.tagName);
            """
        )
        assert wide == [], tab
        small = page.run(
            """
            const controls = document.querySelectorAll("#panels button, #panels select, #panels .toggle label");
            return [...controls].filter((control) => {
              const { width, height } = control.getBoundingClientRect();
              return control.checkVisibility() && Math.min(width, height) < 43.5;
            }).map((control) => control.outerHTML.slice(0, 90));
            """
        )
        assert small == [], tab
        page.run("document.getElementById('panels').close()")
