"""Where the focus is, and what is read out, for whoever uses the page by keyboard or by ear."""

from __future__ import annotations

from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.paper import Paper
from tests.running import eventually

FOCUS = "return document.activeElement.id"
SHOWN = "return document.getElementById('detail-image').src"


def _two(page: Page, own_server: Paper) -> None:
    """Two pictures, and the first of them opened."""
    page.open(own_server.url)
    page.choose("n", "2")
    page.ask("two")
    page.pictures(2)
    eventually(lambda: len(page.kept()) == 2)
    page.one("#latest button.tile").click()


def _press(page: Page, key: str) -> None:
    """Where the focus is, or nowhere."""
    ActionChains(page.chrome).send_keys(key).perform()


def test_a_picture_that_comes_leaves_the_focus_in_the_gallery(page: Page, own_server: Paper) -> None:
    """Every tile was taken out and put back whenever a run began, had a picture, or ended."""
    page.open(own_server.url)
    page.ask("one")
    page.pictures()
    eventually(lambda: len(page.kept()) == 1)
    page.reload()
    page.until("return document.querySelector('#grid .tile')")
    page.run(
        """
        document.getElementById("prompt").value = "another";
        document.querySelector("#grid .tile").focus();
        document.getElementById("composer").requestSubmit();
        """
    )
    page.pictures()
    eventually(lambda: len(page.kept()) == 2)
    assert page.run("return document.activeElement === document.querySelector('#grid .tile')")


def test_whoever_cancels_by_keyboard_keeps_their_place(page: Page, own_server: Paper) -> None:
    """Every button of a run goes with what it does, and the next press of a key went nowhere."""
    in_card = "return document.querySelector('#latest .run').contains(document.activeElement)"
    own_server.worker.gate.clear()
    page.open(own_server.url)
    page.ask("a long one")
    eventually(lambda: len(own_server.worker.drawings) == 1)
    page.run("document.querySelector('#latest .run .actions button').focus()")
    _press(page, Keys.ENTER)  # Cancel
    page.until("return document.activeElement.textContent === 'Try again'", within_s=5)
    _press(page, Keys.ENTER)
    page.until("return document.querySelector('#latest .run.active')")
    assert page.run(in_card)
    assert page.run("return document.activeElement.textContent") == "Cancel"
    own_server.worker.gate.set()
    page.pictures()
    assert page.run("return document.activeElement === document.querySelector('#latest button.tile')")

    own_server.worker.gate.clear()
    page.ask("another")
    page.until("return document.querySelector('#latest .run.active')")
    _press(page, Keys.ESCAPE)
    page.until("return document.querySelectorAll('#latest .run .actions button').length === 2")
    page.run("document.querySelector('#latest .run .actions button:last-child').focus()")
    _press(page, Keys.ENTER)  # Dismiss
    page.until("return !document.querySelector('#latest .run')")
    assert page.run(FOCUS) == "prompt"


def test_the_arrow_keys_go_on_from_the_last_picture(page: Page, own_server: Paper) -> None:
    """The button that had led there was gone, the focus with it, and no key reached the dialog."""
    _two(page, own_server)
    first = page.run(SHOWN)
    page.one("#next").click()
    assert page.run(SHOWN) != first
    assert page.run(FOCUS) == "previous"
    _press(page, Keys.ARROW_LEFT)
    page.until(f"{SHOWN} === arguments[0]", first)
    assert page.run(FOCUS) == "next"


def test_whoever_has_a_picture_enlarged_is_told_and_stays_where_they_are(page: Page, own_server: Paper) -> None:
    """The focus went with the press, nothing was said, and the larger one came over whatever was looked at by then."""
    _two(page, own_server)
    own_server.worker.gate.clear()
    page.one("#enlarge").click()
    eventually(lambda: len(own_server.worker.drawings) == 2)
    assert page.run(FOCUS) == "enlarge"
    assert page.text("#detail .said") == "The picture is being made larger."
    _press(page, Keys.ARROW_RIGHT)
    second = page.run(SHOWN)
    own_server.worker.gate.set()
    eventually(lambda: len(page.kept()) == 3)
    page.until("return document.getElementById('enlarge').getAttribute('aria-disabled') === 'false'")
    assert page.run(SHOWN) == second

    page.one("#enlarge").click()
    page.until("return document.querySelector('#detail .said').textContent.startsWith('Made larger: ')")
    assert page.run(SHOWN) != second


def test_what_is_copied_in_a_dialog_is_read_out_there(page: Page, own_server: Paper) -> None:
    """It was written beside the dialog, where everything is silent as long as that is open."""
    page.open(own_server.url)
    page.one("#code").click()
    page.one("#code-dialog .code-bar > button").click()
    page.until("return document.querySelector('#code-dialog .said').textContent !== ''")
    assert page.text("#status") == ""
