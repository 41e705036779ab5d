"""The form between requests: what it marks, where the focus is, keys, and what it says of each model."""

from __future__ import annotations

import time

import pytest
from selenium.webdriver.common.keys import Keys

from server.errors import BadImage, GenerationFailed
from server.worker.status import ModelState
from tests.browser.page import REFUSED, Page
from tests.paper import Paper, PaperServers
from tests.running import eventually

FOCUS = "return document.activeElement.id"
MARKED = "return [...document.querySelectorAll('[aria-invalid]')].map(({ id }) => id)"
CANNOT_BE_SENT = "ｋｅｙ“”"  # typed with a Chinese input method


def _states(paper: Paper, state: ModelState) -> None:
    for status in paper.worker.models.values():
        status.state = state


def test_a_refused_picture_is_marked_no_longer_than_it_is_there(page: Page, own_server: Paper) -> None:
    """Buttons have no input event: the mark on "Add a picture" stayed for ever."""
    page.expects = (REFUSED,)
    page.open(own_server.url)
    page.paste("red")
    page.until("return document.querySelector('#sources .source')")
    own_server.worker.failure = BadImage("This picture has no pixels.", param="image")
    page.ask("something")
    page.until("return document.querySelector('.run.failed')")
    assert page.run(MARKED) == ["add"]
    page.one("#sources .tool").click()
    assert page.run(MARKED) == []

    page.paste("blue")
    page.until("return document.querySelector('#sources .source')")
    page.ask("something")
    page.until(f"{MARKED}.length === 1")
    own_server.worker.failure = None
    page.ask("something else")
    page.pictures()
    assert page.run(MARKED) == []


def test_a_late_failure_leaves_the_focus_where_somebody_writes(page: Page, own_server: Paper) -> None:
    """It went into the list of models, and the rest of the prompt chose one there."""
    page.expects = (REFUSED,)
    own_server.worker.gate.clear()
    own_server.worker.failure = GenerationFailed("No.", param="model")
    page.open(own_server.url)
    page.ask("the first")
    eventually(lambda: len(own_server.worker.drawings) == 1)
    page.one("#prompt").send_keys(" and more")
    own_server.worker.gate.set()
    page.until("return document.querySelector('.run.failed')")
    assert page.run(MARKED) == ["model"]
    assert page.run(FOCUS) == "prompt"


def test_a_key_that_no_header_can_carry_is_refused_in_its_dialog(page: Page, module_servers: PaperServers) -> None:
    """The browser threw at every request, and the page said that the server could not be reached."""
    page.expects = (REFUSED,)
    paper = module_servers.open(keys=True)
    page.open(paper.url, wait=False)
    page.until("return document.getElementById('key').open")
    page.one("#key-input").send_keys(f"{CANNOT_BE_SENT}\n")
    time.sleep(0.2)
    assert page.run("return document.getElementById('key').open")
    assert page.text("#key-note").startswith("The server does not know this key.")
    page.one("#key-input").clear()
    page.one("#key-input").send_keys(f"{paper.key}\n")
    page.until("return document.getElementById('model').options.length > 0")


def test_a_kept_key_that_no_header_can_carry_is_forgotten(page: Page, module_servers: PaperServers) -> None:
    page.expects = (REFUSED,)
    paper = module_servers.open(keys=True)
    page.open(paper.url, storage={"darkroom.key": CANNOT_BE_SENT}, wait=False)
    page.until("return document.getElementById('key').open")
    assert page.text("#key-note").startswith("This server asks for a key.")


def test_a_key_entered_for_a_request_fills_the_lists(page: Page, module_servers: PaperServers) -> None:
    page.expects = (REFUSED,)
    paper = module_servers.open(keys=True)
    page.open(paper.url, wait=False)
    page.until("return document.getElementById('key').open")
    page.one("#key [data-close]").click()
    page.until("return document.getElementById('banner').textContent.startsWith('The server wants a key.')")
    page.ask("a key, then")
    page.until("return document.getElementById('key').open")
    page.one("#key-input").send_keys(f"{paper.key}\n")
    page.pictures()
    page.until("return document.getElementById('model').options.length > 0")
    assert page.text("#banner") == ""


def test_what_the_form_says_of_a_model_follows_the_server(page: Page, own_server: Paper) -> None:
    """The list was read once: a model stayed "not loaded yet" after it had drawn."""
    _states(own_server, ModelState.UNLOADED)
    page.open(own_server.url)
    page.choose("model", "darkroom-mini")
    page.choose("size", "512x512")
    page.one("#more summary").click()
    scheduler = page.run("return document.getElementById('scheduler').options[1].value")
    page.choose("scheduler", scheduler)
    assert page.text("#hint") == "darkroom-mini is not loaded yet: its first picture takes longer."
    _states(own_server, ModelState.READY)
    page.ask("loads it")
    page.pictures()
    page.until("return document.getElementById('hint').hidden")
    assert page.text("#hint") == "", "still the form's description for those who cannot see that it is hidden"
    chosen = page.run("return ['model', 'size', 'scheduler'].map((id) => document.getElementById(id).value)")
    assert chosen == ["darkroom-mini", "512x512", scheduler]


def test_a_broken_model_can_be_tried_again(page: Page, own_server: Paper) -> None:
    """The server tries again when it is asked; the page, once it had seen "broken", never asked."""
    _states(own_server, ModelState.BROKEN)
    page.open(own_server.url)
    assert page.text("#hint").startswith("The files of dall-e-2 are missing or broken")
    _states(own_server, ModelState.READY)  # somebody mended it
    page.ask("try it")
    page.pictures()
    page.until("return document.getElementById('hint').hidden")


@pytest.mark.parametrize(("style", "guidance"), [("vivid", "1.2"), ("natural", "1")])
def test_what_is_shown_in_grey_is_what_will_be_used(page: Page, own_server: Paper, style: str, guidance: str) -> None:
    page.open(own_server.url)
    page.choose("style", style)
    shown = "return ['num_inference_steps', 'guidance_scale'].map((id) => document.getElementById(id).placeholder)"
    assert page.run(shown) == ["8", guidance]
    page.ask("as it says")
    page.pictures()
    (drawing,) = own_server.worker.drawings
    assert (drawing.spec.steps, drawing.spec.guidance) == (8, float(guidance))


def test_text_that_is_pasted_with_a_picture_of_it_stays_text(page: Page, own_server: Paper) -> None:
    """Word and Excel put both on the clipboard: the text went, and its picture came to be edited."""
    page.open(own_server.url)
    taken = page.run(
        """
        const paste = (field, ...texts) => {
          const data = new DataTransfer();
          data.items.add(new File(["x"], "image.png", { type: "image/png" }));
          for (const type of texts) data.items.add("a red apple", type);
          const event = new Event("paste", { bubbles: true, cancelable: true });
          field.dispatchEvent(Object.assign(event, { clipboardData: data }));
          return event.defaultPrevented;
        };
        const prompt = document.getElementById("prompt");
        return [
          paste(prompt, "text/plain", "text/html"),
          paste(prompt, "text/html"), // a picture that was copied from a page
          paste(prompt, "text/plain"), // a file, with its name
          paste(document.body, "text/plain", "text/html"),
        ];
        """
    )
    assert taken == [False, True, True, True]


def test_a_picture_too_large_for_a_canvas_leaves_the_form_as_it_was(page: Page, own_server: Paper) -> None:
    """Nothing was taken for a picture, and the form took none any more until it was loaded anew."""
    page.open(own_server.url)
    page.run(
        """
        HTMLCanvasElement.prototype.toBlob = (done) => done(null);
        const text = atob("R0lGODlhAQABAIAAAAAAAP///yH5BAAAAAAALAAAAAABAAEAAAIBRAA7");
        const gif = Uint8Array.from(text, (character) => character.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([gif], "a.gif", { type: "image/gif" }));
        dispatchEvent(Object.assign(new Event("paste", { cancelable: true }), { clipboardData: data }));
        """
    )
    page.until("return !document.getElementById('banner').hidden", within_s=5)
    assert page.text("#banner").startswith("This file is no picture")
    page.paste("red")
    page.until("return document.querySelectorAll('#sources .source').length === 1")


def test_a_stroke_that_is_undone_on_a_transparent_picture_is_gone(page: Page, own_server: Paper) -> None:
    """The picture was drawn over what was there before: where it is transparent, that showed through."""
    page.open(own_server.url)
    page.paste("transparent")
    page.until("return document.querySelector('#sources .source .button')").click()
    page.until("return document.activeElement.id === 'mask-canvas'")
    middle = """
        const canvas = document.getElementById("mask-canvas");
        return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3];
    """
    page.one("#mask-canvas").send_keys(" ")
    painted = page.run(middle)
    assert painted > 100
    page.one("#mask-canvas").send_keys(" ")
    assert page.run(middle) == painted
    page.one("#mask-canvas").send_keys(Keys.CONTROL, "z")
    page.one("#mask-canvas").send_keys(Keys.CONTROL, "z")
    assert page.run(middle) == 0
