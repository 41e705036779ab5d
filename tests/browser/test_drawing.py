"""The page on the real server: pictures are drawn, edited under a mask, kept, and drawn again from the copied code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageChops
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.running import Running

LATEST = "#latest .tile img"


def _apart(one: Image.Image, other: Image.Image) -> npt.NDArray[np.uint8]:
    """How far two pictures are apart, per pixel, 0 to 255."""
    apart: npt.NDArray[np.uint8] = np.asarray(ImageChops.difference(one, other)).max(axis=2)
    return apart


def _draw(page: Page, server: Running, prompt: str = "a panda on a yellow background") -> None:
    page.open(server.url)
    page.choose("size", "512x512")
    page.ask(prompt)
    page.pictures()


def test_a_picture_is_drawn_by_keyboard_alone_and_kept(page: Page, server: Running) -> None:
    page.open(server.url)
    page.run("document.body.focus()")
    keys = ActionChains(page.chrome).send_keys(Keys.TAB, Keys.ENTER)  # "skip to the prompt" comes first
    keys.send_keys("a red apple on a blue background").key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL)
    keys.perform()
    page.pictures()
    assert page.image(LATEST).size == (1024, 1024)
    assert page.text("#status").startswith("Done in")
    (kept,) = page.kept()
    assert kept["fields"]["prompt"] == "a red apple on a blue background"
    assert kept["seed"] == kept["fields"]["seed"]
    assert (kept["width"], kept["height"]) == (1024, 1024)

    page.reload()
    page.until("return document.querySelectorAll('#grid .tile').length === 1")
    assert page.kept() == [kept]


def test_fields_that_the_server_ignored_are_named(page: Page, server: Running) -> None:
    """A setting that the server does not know was dropped, and the picture shown as if it had been heeded."""
    page.open(server.url)
    page.choose("size", "512x512")
    page.run("""
        const send = window.fetch;
        window.fetch = (url, options) => send(url, typeof options?.body !== "string" ? options
            : { ...options, body: JSON.stringify({ ...JSON.parse(options.body), clip_skip: 2 }) });
    """)
    page.ask("a red apple")
    page.pictures()
    assert page.text(".run-note") == "The server ignored: clip_skip"
    ids = page.run("return [...document.getElementById('model').options].map((option) => option.value)")
    assert "gpt-image-1" in ids
    assert "gpt-image-2" not in ids  # an alias


def test_several_pictures_come_with_progress_and_previews(page: Page, server: Running) -> None:
    page.open(server.url)
    page.choose("size", "256x256")
    page.choose("quality", "hd")
    page.choose("n", "3")
    page.run(
        """
        window.seen = { texts: new Set(), previews: 0, bar: 0 };
        new MutationObserver(() => {
          seen.texts.add(document.querySelector(".run-status")?.textContent);
          seen.previews = Math.max(seen.previews, document.querySelectorAll(".tile.waiting img").length);
          seen.bar = Math.max(seen.bar, document.querySelector(".run progress")?.value ?? 0);
        }).observe(document.getElementById("latest"), { subtree: true, childList: true, attributes: true });
        """
    )
    page.ask("a rocket on a purple background")
    page.pictures(3)
    assert any("Drawing · step" in text for text in page.run("return [...seen.texts].filter(Boolean)"))
    assert page.run("return seen.bar") > 0.3
    assert page.run("return seen.previews") == 3
    seeds = [row["seed"] for row in page.kept()]
    assert sorted(seeds) == list(range(min(seeds), min(seeds) + 3))


@pytest.mark.parametrize(("side", "count"), [(64, 1), (64, 2), (64, 3), (64, 4), (128, 1)])
def test_a_small_picture_is_shown_at_most_twice_as_large(page: Page, server: Running, side: int, count: int) -> None:
    """64 pixels filled the window, and were a blur."""
    page.open(server.url, storage={"darkroom.last.model": "darkroom-mini"})
    page.choose("size", "custom")
    for name in ("width", "height"):
        page.one(f"#{name}").clear()
        page.one(f"#{name}").send_keys(str(side))
    page.choose("n", str(count))
    page.ask("a red apple")
    page.pictures(count)
    shown = "return [...document.querySelectorAll('%s')].map((image) => Math.round(image.getBoundingClientRect().%s))"
    assert page.run(shown % (LATEST, "width")) == page.run(shown % (LATEST, "height")) == [2 * side] * count
    page.one("#latest button.tile").click()
    assert page.run(shown % ("#detail-image", "width")) == [2 * side]
    page.reload()
    page.until("return document.querySelectorAll('#grid .tile').length === arguments[0]", count)
    assert max(page.run(shown % ("#grid .tile img", "width"))) <= 2 * side


def test_the_code_draws_the_shown_picture_again(page: Page, server: Running, tmp_path: Path) -> None:
    page.open(server.url)
    page.choose("size", "256x256")
    page.choose("n", "2")
    prompt = 'a cat, it\'s "grey" & <b>small</b> \\ $HOME'
    page.ask(prompt)
    page.pictures(2)
    page.all("#latest button.tile")[1].click()
    assert page.text("#detail-prompt") == prompt  # as text: no markup came of it
    shown = page.image("#detail-image")
    environment = {
        **os.environ,
        "DARKROOM_API_KEY": "none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for tab, command in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        next(button for button in page.all("#detail [role=tab]") if button.text == tab).click()
        done = subprocess.run(
            [*command, page.text("#detail pre")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        (written,) = tmp_path.glob("*.png")
        assert _apart(Image.open(written).convert("RGB"), shown).max() <= 2, tab
        written.unlink()


def test_the_forms_code_for_several_pictures_writes_the_first(page: Page, server: Running, tmp_path: Path) -> None:
    """With curl it was the last."""
    page.open(server.url)
    page.choose("size", "256x256")
    page.choose("n", "3")
    page.one("#seed").send_keys("40")
    page.ask("a red apple")
    page.pictures(3)
    page.one("#code").click()
    done = subprocess.run(
        ["bash", "-c", page.text("#composer-code pre")], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("*.png")
    assert _apart(Image.open(written).convert("RGB"), page.image(LATEST)).max() <= 2


def test_a_picture_is_made_twice_as_large(page: Page, server: Running) -> None:
    _draw(page, server)
    before = page.image(LATEST)
    page.one("#latest button.tile").click()
    page.one("#enlarge").click()
    page.until(
        "const shown = document.getElementById('detail-image');"
        f"return shown.complete && shown.naturalWidth === {2 * before.width}"
    )
    assert not page.one("#enlarge").get_attribute("disabled")
    kept = page.kept()
    assert len(kept) == 2
    assert {(each["width"], each["height"]) for each in kept} >= {(2 * before.width, 2 * before.height)}


def test_only_the_painted_part_of_a_picture_is_drawn_anew(page: Page, server: Running) -> None:
    _draw(page, server)
    before = page.image(LATEST)
    page.one("#latest button.tile").click()
    page.one("#edit").click()
    page.until("return document.querySelectorAll('#sources .thumb img').length === 1")
    page.one("#sources .source .button").click()
    page.until("return document.getElementById('mask').open")
    canvas = page.one("#mask-canvas")
    half, quarter = canvas.size["width"] // 2, canvas.size["width"] // 4
    page.run("document.getElementById('mask-brush').value = 25")
    stroke = ActionChains(page.chrome).move_to_element_with_offset(canvas, -quarter, -quarter).click_and_hold()
    stroke.move_by_offset(half, 0).release().perform()  # a band in the upper half
    page.one("#mask-done").click()
    page.until("return document.querySelectorAll('#sources .veil').length === 1")
    page.ask("a blue sky")
    page.until("return document.querySelectorAll('#latest .run').length === 1")
    page.pictures()
    newest = page.kept()[0]
    assert newest["mask"]
    assert newest["sources"] == 1
    changed = _apart(before, page.image(LATEST))
    assert changed.shape == (512, 512)
    # The brush is an eighth of the side in radius, its band around a quarter of the height.
    assert changed[96:160, 160:352].mean() > 30
    assert changed[288:].max() == 0


def test_again_with_this_seed_brings_everything_back(page: Page, server: Running) -> None:
    page.open(server.url)
    page.choose("size", "256x256")
    page.one("#more summary").click()
    page.one("#num_inference_steps").send_keys("5")
    page.one("#negative_prompt").send_keys("hats")
    page.ask("a green frog")
    page.pictures()
    first = page.kept()[0]
    shown = page.image(LATEST)
    page.reload()
    page.until("return document.querySelector('#grid .tile')").click()
    page.one("#again").click()
    assert page.one("#seed").get_property("value") == str(first["seed"])
    assert page.one("#negative_prompt").get_property("value") == "hats"
    assert page.run("return document.activeElement.id") == "prompt"
    page.one("#generate").click()
    page.pictures()
    assert page.kept()[0]["fields"] == first["fields"]
    assert _apart(page.image(LATEST), shown).max() <= 2


def test_nothing_was_ever_asked_of_another_origin(chrome: Chrome, page: Page, server: Running) -> None:
    page.requested()
    _draw(page, server)
    page.one("#latest button.tile").click()
    assert page.requested() == {server.url}
