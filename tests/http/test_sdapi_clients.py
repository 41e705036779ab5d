"""Programs made for AUTOMATIC1111, as they are published, against a running server with a key: every list, pictures,
edits, progress, interrupt, and the reasons of failures."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import python_clients
from tests.pictures import opened, pixels, png, right_half, scene
from tests.running import Running, start

pytestmark = pytest.mark.timeout(400)

TASKS = {
    "webui": ["lists", "model", "draw", "edit", "mask", "upscale", "interrupt", "unknown_model"],
    "backend": ["lists", "draw", "edit", "inpaint", "only_masked", "upscale", "cancel"],
}
CASES: dict[str, dict[str, Any]] = {
    "edit": {"strength": 0.3},
    "mask": {"task": "edit", "mask": True},
    "only_masked": {"task": "inpaint", "only_masked": True},
}

Reports = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server that draws, with a key."""
    python_clients.python()
    with start(tmp_path_factory.mktemp("data"), keys=True) as running:
        yield running


@pytest.fixture(scope="module")
def reports(keyed: Running, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What each client reported of each task, and of a wrong key."""
    found = {}
    for client, tasks in TASKS.items():
        folder = tmp_path_factory.mktemp(client)
        sources = {"SOURCE": folder / "source.png", "MASK": folder / "mask.png"}
        sources["SOURCE"].write_bytes(png(scene(96, 96)))
        sources["MASK"].write_bytes(png(right_half(96, 96)))
        usual = {"url": keyed.url, "key": keyed.key, "model": "darkroom-mini"}
        cases = [{**usual, "name": name, "task": name, **CASES.get(name, {})} for name in tasks]
        cases.append({**usual, "name": "wrong key", "task": "draw", "key": "dk_nobody"})
        environment = {name: str(path) for name, path in sources.items()}
        found[client] = python_clients.report(f"{client}.py", cases, folder, **environment)
    return found


def drawn(line: dict[str, Any]) -> list[Image.Image]:
    assert "error" not in line, line
    return [opened(Path(file).read_bytes()) for file in line["pictures"]]


@pytest.mark.parametrize("client", TASKS)
def test_pictures_arrive_whole(reports: Reports, client: str) -> None:
    line = reports[client]["draw"]
    images = drawn(line)
    assert [image.size for image in images] == [(64, 64)] * 2
    for file in line["pictures"]:
        assert pixels(Path(file).read_bytes()).std() > 5  # not one flat colour
    assert (np.asarray(images[0]) != np.asarray(images[1])).any()
    assert (line["info"]["all_seeds"] if client == "webui" else line["seeds"]) == [7, 8]


def test_both_clients_get_the_picture_that_our_own_api_draws(reports: Reports, keyed: Running) -> None:
    """The same fields make the same picture, whoever sends them."""
    answer = keyed.draw(
        model="darkroom-mini",
        seed=7,
        size="64x64",
        num_inference_steps=4,
        guidance_scale=2.5,
        scheduler="euler_a",
        response_format="b64_json",
        style="natural",
    ).raise_for_status()
    ours = pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    for client in TASKS:
        theirs = pixels(Path(reports[client]["draw"]["pictures"][0]).read_bytes())
        assert np.abs(theirs - ours).max() <= 2, client  # batches of other sizes round otherwise


@pytest.mark.parametrize("client", TASKS)
def test_an_edit_keeps_something_of_its_source(reports: Reports, client: str) -> None:
    (image,) = drawn(reports[client]["edit"])
    assert image.size == (96, 96)
    made, source = np.asarray(image.convert("RGB")).astype(int), np.asarray(scene(96, 96)).astype(int)
    assert np.abs(made - source).mean() > 1
    assert np.corrcoef(made.ravel(), source.ravel())[0, 1] > 0.3


def test_both_clients_get_the_same_edit(reports: Reports) -> None:
    one, other = (np.asarray(drawn(reports[client]["edit"])[0].convert("RGB")).astype(int) for client in TASKS)
    assert np.abs(one - other).max() <= 2


@pytest.mark.parametrize(("client", "task"), [("webui", "mask"), ("backend", "inpaint"), ("backend", "only_masked")])
def test_a_mask_leaves_what_is_black(reports: Reports, client: str, task: str) -> None:
    (image,) = drawn(reports[client][task])
    assert image.size == (96, 96)
    difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - np.asarray(scene(96, 96)).astype(int))
    assert difference[:, :40].max() <= 1
    assert difference[:, 56:].mean() > 2


def test_pictures_are_made_larger(reports: Reports) -> None:
    assert [image.size for image in drawn(reports["webui"]["upscale"])] == [(192, 192), (288, 288), (288, 288)]
    assert [image.size for image in drawn(reports["backend"]["upscale"])] == [(192, 192)]


def test_a_picture_tells_how_it_was_made(reports: Reports) -> None:
    line = reports["webui"]["draw"]
    assert line["png_info"].startswith("a red apple\n")
    assert "Seed: 7," in line["png_info"]
    assert line["info"]["sd_model_name"] == "darkroom-mini"


def test_lists_and_capabilities(reports: Reports) -> None:
    found = reports["webui"]["lists"]["result"]
    assert found["options"]["sd_model_checkpoint"] == found["sd_models"][0]["title"]
    assert (found["refresh"], found["interrupt"], found["skip"]) == (None, {}, None)
    assert found["progress"]["state"]["job_count"] == 0
    assert reports["webui"]["model"]["result"] == ["darkroom-mini", "darkroom-mini"]
    strict = reports["backend"]["lists"]["result"]
    assert strict["checkpoints"] == ["darkroom-mini"]
    assert {"euler", "euler_ancestral", "dpmpp_2m"} <= set(strict["samplers"])
    assert strict["upscalers"] == ["Lanczos", "Nearest"]
    assert strict["controlnet"] == []
    assert strict["capabilities"]["scheduler"] is True
    assert strict["capabilities"]["interrogate"] is False


def test_progress_and_interrupt(reports: Reports) -> None:
    """The waiting call is answered with the picture as far as it came, as AUTOMATIC1111 does."""
    images = drawn(reports["webui"]["interrupt"])
    assert {image.size for image in images} == {(512, 512)}
    said, progress = reports["webui"]["interrupt"]["result"]
    assert said == {}
    assert 0 < progress["progress"] < 1
    assert 0 < progress["state"]["sampling_step"] < 150
    stopped, last, error = reports["backend"]["cancel"]["result"]
    assert stopped == [True]
    assert (last, error) == ("cancelled", "GenerationError")


def test_the_reason_of_a_failure_reaches_the_user(reports: Reports) -> None:
    assert "This server has: dall-e-2" in reports["webui"]["unknown_model"]["error"]["message"]
    assert "This API key is not known here." in reports["webui"]["wrong key"]["error"]["message"]
    assert reports["backend"]["wrong key"]["error"]["name"] == "AuthError"


def test_no_key_is_in_the_log(reports: Reports, keyed: Running) -> None:
    assert reports
    assert keyed.key is not None
    assert keyed.key not in keyed.log
    assert "dk_nobody" not in keyed.log
