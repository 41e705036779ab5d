"""Older majors of the openai package, and LiteLLM, make pictures and an edit, which are decoded and compared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pictures import pixels, png, scene
from tests.running import ROOT, Running, start

pytestmark = pytest.mark.timeout(200)

PROGRAMS = {"openai-0.28": "openai_majors.py", "openai-1": "openai_majors.py", "litellm": "litellm_client.py"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if not any(python(name).exists() for name in PROGRAMS):
        pytest.skip("needs programs that speak OpenAI's API: make programs")
    with start(tmp_path_factory.mktemp("data"), keys=True) as running:
        yield running


def python(name: str) -> Path:
    return ROOT / ".programs" / name / "bin" / "python"


@pytest.fixture(scope="module", params=PROGRAMS)
def found(request: pytest.FixtureRequest, server: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one of them printed, and whether it gave a mask."""
    if not python(request.param).exists():
        pytest.skip(f"needs {request.param}: make programs")
    folder = tmp_path_factory.mktemp("out")
    (folder / "source.png").write_bytes(png(scene(256, 256)))
    mask = Image.new("RGBA", (256, 256), "black")  # what is transparent is drawn anew
    mask.paste((0, 0, 0, 0), (128, 0, 256, 256))
    (folder / "mask.png").write_bytes(png(mask))
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [str(python(request.param)), "-I", str(Path(__file__).with_name(PROGRAMS[request.param]))],
        env={
            **clean,
            "HOME": str(folder),
            "URL": server.url,
            "KEY": str(server.key),
            "OUT": str(folder),
            "SOURCE": str(folder / "source.png"),
            "MASK": str(folder / "mask.png"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it comes with one, and fetches another
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()[-1]  # LiteLLM prints of its own
    return {**json.loads(printed), "source": str(folder / "source.png"), "masked": request.param != "litellm"}


def test_pictures_arrive_whole(found: dict[str, Any]) -> None:
    first, second = (pixels(Path(file).read_bytes()) for file in found["made"])
    assert first.shape == second.shape
    assert first.shape[:2] in ((256, 256), (512, 512))
    assert first.std() > 5
    assert (first != second).any()


def test_an_edit_keeps_what_a_mask_keeps(found: dict[str, Any]) -> None:
    source = pixels(Path(found["source"]).read_bytes())
    (edited,) = (pixels(Path(file).read_bytes()) for file in found["edited"])
    if not found["masked"]:
        assert edited.std() > 5
        return
    difference = np.abs(edited[..., :3].astype(int) - source[..., :3].astype(int)).mean(axis=2)
    assert difference[:, :112].max() <= 2
    assert difference[:, 144:].mean() > 10


def test_a_wrong_model_is_told(found: dict[str, Any]) -> None:
    assert "No such model. This server has: dall-e-2" in found["error"]
