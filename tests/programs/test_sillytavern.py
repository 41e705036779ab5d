"""SillyTavern draws through its own server: menus, a picture, a larger one, a wrong key, and a user who goes away."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.pictures import opened
from tests.programs.sillytavern import SillyTavern, require, sillytavern
from tests.running import Running, eventually, start

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tavern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SillyTavern]:
    """With a key of the server's as its password."""
    require()
    with (
        start(tmp_path_factory.mktemp("data"), keys=True) as server,
        sillytavern(tmp_path_factory.mktemp("tavern"), server.url, f"anyone:{server.key}") as tavern,
    ):
        tavern.server = server
        yield tavern


@pytest.fixture
def server(tavern: SillyTavern) -> Running:
    assert tavern.server is not None
    return tavern.server


def test_its_menus_are_filled(tavern: SillyTavern) -> None:
    assert tavern.ask("ping").text == "OK"
    assert [model["value"] for model in tavern.ask("models").json()] == ["darkroom-mini"]
    assert {"Euler a", "DDIM", "DPM++ 2M"} <= set(tavern.ask("samplers").json())
    assert "automatic" in tavern.ask("schedulers").json()
    assert tavern.ask("upscalers").json() == ["None", "Lanczos", "Nearest"]
    assert tavern.ask("vaes").json() == []
    assert tavern.ask("get-model").text == "darkroom-mini"
    assert tavern.ask("set-model", model="darkroom-mini").status_code == 200


def test_it_draws_what_our_own_api_draws(tavern: SillyTavern, server: Running) -> None:
    answer = tavern.draw("a red apple", seed=7).json()
    (picture,) = answer["images"]
    image = opened(base64.b64decode(picture))
    ours = server.draw(
        model="darkroom-mini",
        prompt="a red apple",
        seed=7,
        size="512x512",
        num_inference_steps=20,
        guidance_scale=7,
        scheduler="ddim",
        response_format="b64_json",
    ).json()
    assert image.tobytes() == opened(base64.b64decode(ours["data"][0]["b64_json"])).tobytes()
    assert json.loads(answer["info"])["seed"] == 7


def test_a_second_pass_makes_it_larger(tavern: SillyTavern) -> None:
    answer = tavern.draw("a red apple", seed=7, width=256, height=256, enable_hr=True).json()
    assert opened(base64.b64decode(answer["images"][0])).size == (512, 512)


def test_whoever_goes_away_ends_the_drawing(tavern: SillyTavern, server: Running) -> None:
    with pytest.raises(httpx.ReadTimeout):
        tavern.draw("a castle", timeout=1.5, steps=150, width=1024, height=1024)
    eventually(lambda: any('"outcome": "cancelled"' in line for line in server.log.splitlines()), within_s=20)


def test_a_wrong_key_draws_nothing(tmp_path: Path, server: Running) -> None:
    with sillytavern(tmp_path, server.url, "anyone:dk_nobody") as stranger:
        assert stranger.ask("ping").status_code == 500
        assert stranger.draw("a red apple").status_code == 500
