"""``background``: an object without its ground where a model can, a 400 that says what helps where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import files, opened, png, right_half, scene, text
from tests.running import ROOT, Running


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_an_object_comes_without_its_ground(server: Running, format_: str) -> None:
    asked = {"model": "gpt-image-1", "prompt": "a red apple", "size": "256x256", "seed": 3, "background": "transparent"}
    answer = server.draw(**asked, output_format=format_)
    picture = opened(files(answer)[0])
    assert answer.json()["background"] == "transparent"
    assert (picture.mode, picture.size) == ("RGBA", (256, 256))
    alpha = np.asarray(picture)[..., 3]
    assert alpha[120:136, 120:136].min() == 255  # the apple
    assert np.median(np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])) == 0
    assert 0.15 < (alpha > 127).mean() < 0.9
    assert ((alpha > 20) & (alpha < 235)).sum() > 200  # soft edges


@pytest.mark.parametrize("background", ["auto", "opaque", None])
def test_otherwise_a_picture_is_opaque(server: Running, background: str | None) -> None:
    answer = server.draw(model="gpt-image-1", size="256x256", num_inference_steps=1, background=background)
    assert opened(files(answer)[0]).mode == "RGB"
    assert answer.json()["background"] == "opaque"


def test_a_masked_edit_without_ground_keeps_the_rest(server: Running) -> None:
    source = scene(128, 128)
    masked = {"image": text(png(source)), "mask": text(png(right_half(128, 128))), "size": "auto"}
    answer = server.draw(model="gpt-image-1", num_inference_steps=3, seed=1, background="transparent", **masked)
    picture = np.asarray(opened(files(answer)[0]))
    assert picture.shape == (128, 128, 4)
    assert np.array_equal(picture[:, :64, :3], np.asarray(source)[:, :64])
    assert (picture[:, :64, 3] == 255).all()


def test_an_answer_says_what_came_out(server: Running) -> None:
    """Where no ground can be cut, the picture is opaque; where the source had holes beside the mask, it has them."""
    whole = text(png(Image.new("L", (64, 64), 0)))
    fields = {"model": "gpt-image-1", "num_inference_steps": 1, "size": "auto", "mask": whole}
    opaque = server.draw(**fields, image=text(png(scene(64, 64))), background="transparent")
    assert opened(files(opaque)[0]).convert("RGBA").getchannel("A").getextrema() == (255, 255)
    assert opaque.json()["background"] == "opaque"
    holed = scene(64, 64).convert("RGBA")
    holed.putalpha(right_half(64, 64))
    kept = server.draw(**fields, image=text(png(holed)))
    assert kept.json()["background"] == "transparent"


def test_jpeg_has_no_transparency(paper: Paper) -> None:
    answer = paper.post({"prompt": "x", "model": "gpt-image-1", "background": "transparent", "output_format": "jpeg"})
    error = assert_api_error(answer, 400, "invalid_value")
    assert error["param"] == "background"
    assert "png" in error["message"]


def test_a_model_without_matting_says_what_helps(paper_servers: PaperServers, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: plain\nmodels:\n  plain: {{ path: {weights} }}\n"
                    f"  cut: {{ like: plain, matting: flat-ground }}\n")  # fmt: skip
    paper = paper_servers.open(models=file)
    error = assert_api_error(paper.post({"prompt": "x", "background": "transparent"}), 400, "invalid_value")
    assert error["param"] == "background"
    assert "matting" in error["message"]
    assert not paper.worker.drawings
    assert paper.post({"prompt": "x", "background": "opaque"}).status_code == 200
    assert paper.post({"prompt": "x", "background": "transparent", "model": "cut"}).status_code == 200
    with paper.client() as client:
        rows = {row["id"]: row["backgrounds"] for row in client.get("/v1/models").json()["data"]}
    assert rows == {"plain": ["auto", "opaque"], "cut": ["auto", "opaque", "transparent"]}


def test_a_ground_is_asked_for_unless_the_client_speaks_of_one(paper: Paper) -> None:
    fields = {"model": "gpt-image-1", "background": "transparent"}
    for prompt, drawn in (
        ("a cat", "a cat on a gray background"),
        ("a cat, pink Background", "a cat, pink Background"),
    ):
        assert paper.post({"prompt": prompt, **fields}).status_code == 200
        assert paper.worker.drawings[-1].spec.prompt == drawn
    paper.post({"prompt": "a cat", "model": "gpt-image-1"})
    assert (paper.worker.drawings[-1].spec.prompt, paper.worker.drawings[-1].spec.matting) == ("a cat", None)
