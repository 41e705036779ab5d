"""Fields that have no effect on a request: they are told, or, where a picture would be lost, read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.spec import Task
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, right_half, scene, text
from tests.running import ROOT


def test_what_only_edits_read_is_told_without_a_picture(paper: Paper) -> None:
    """It was dropped without a word: a client whose picture did not arrive saw only that the answer was another."""
    sent = {"prompt": "x", "denoise": 0.5, "input_fidelity": "high"}
    assert paper.post(sent).headers["x-ignored-fields"] == "denoise, input_fidelity"
    edit = {**sent, "image": text(png(scene(40, 40))), "size": "256x256"}
    answer = paper.post(edit, "/v1/images/edits")
    assert answer.headers["x-ignored-fields"] == "input_fidelity"  # which gives way to a strength
    del edit["denoise"]
    assert "x-ignored-fields" not in paper.post(edit, "/v1/images/edits").headers
    assert paper.worker.drawings[-1].spec.strength == 0.5


@pytest.mark.parametrize(
    ("family", "guidance", "ignored"),
    [("flux", 3.5, True), ("flux2", 4, True), ("lcm", 8.5, True), ("stable-diffusion", 7.5, False),
     ("stable-diffusion", 1, True), ("z-image", 0, True), ("z-image", 1, False), ("qwen-image", 4, False)],
)  # fmt: skip
def test_a_negative_prompt_that_has_no_effect_is_told(
    paper_servers: PaperServers, tmp_path: Path, family: str, guidance: float, ignored: bool
) -> None:
    """Pipelines that guide without one, or not at all, took it and drew as ever."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: own\nmodels:\n  own: {{ path: {weights}, family: {family} }}\n")
    paper = paper_servers.open(models=file)
    body = {"prompt": "x", "negativePrompt": "blur", "guidance_scale": guidance}
    if family == "lcm":
        body["steps"] = 4
    answer = paper.post(body)
    assert answer.status_code == 200, answer.text
    assert answer.headers.get("x-ignored-fields") == ("negativePrompt" if ignored else None)


def test_a_style_of_a_model_without_styles_is_told(paper_servers: PaperServers, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    styles = "style: { natural: { guidance: 2 } }"
    models = f"  own: {{ path: {weights} }}\n  styled: {{ path: {weights}, {styles} }}\n"
    file.write_text(f"default: own\nmodels:\n{models}")
    paper = paper_servers.open(models=file)
    assert paper.post({"prompt": "x", "style": "natural"}).headers["x-ignored-fields"] == "style"
    for sent in ({"style": "natural", "model": "styled"}, {"style": "vivid"}, {"style": ""}):
        assert "x-ignored-fields" not in paper.post({"prompt": "x", **sent}).headers


def test_masks_in_a_list_are_a_mask_where_there_is_one(paper: Paper) -> None:
    """They were told as ignored, and the whole picture was drawn anew."""
    source, mask = (text(png(make(50, 50))) for make in (scene, right_half))
    edit = {"prompt": "x", "size": "256x256", "image": source}
    assert paper.post({**edit, "masks": [mask, ""]}, "/v1/images/edits").status_code == 200
    assert paper.worker.drawings[0].spec.task is Task.INPAINTING
    several = paper.post({**edit, "masks": [mask, mask]}, "/v1/images/edits")
    assert assert_api_error(several, 400, "invalid_value")["param"] == "masks"
    inside = paper.post({"prompt": "x", "images": [{"image_url": source, "mask": mask}]}, "/v1/images/edits")
    assert "mask" in assert_api_error(inside, 400, "invalid_value")["message"]
    assert len(paper.worker.drawings) == 1


def test_a_dense_start_that_has_no_effect_is_told(paper_servers: PaperServers, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    dense = "quality: { standard: { steps: 20 }, hd: { steps: 20, spacing: dense_start } }"
    file.write_text(
        f"default: own\nmodels:\n  own: {{ path: {weights}, {dense} }}\n"
        f"  lcm: {{ path: {weights}, family: lcm }}\n  flux: {{ path: {weights}, family: flux }}\n"
    )
    paper = paper_servers.open(models=file)
    edit = {"image": text(png(scene(40, 40))), "size": "256x256", "steps": 12}
    for sent, spacing, told in (
        ({}, "dense_start", False),
        ({"scheduler": "dpmpp_2m"}, "dense_start", False),
        ({"scheduler": "flow_unipc", "model": "flux"}, "dense_start", False),
        ({"scheduler": "euler_a"}, "default", True),
        ({"scheduler": "lcm"}, "default", True),
        ({"model": "lcm"}, "default", True),
        ({"steps": 7}, "default", True),
        ({"steps": 8}, "dense_start", False),
        ({**edit, "strength": 0.5}, "default", True),  # six steps
        ({**edit, "strength": 0.7}, "dense_start", False),
    ):
        path = "/v1/images/edits" if "image" in sent else "/v1/images/generations"
        answer = paper.post({"prompt": "x", "steps": 20, "spacing": "dense_start", **sent}, path)
        assert answer.status_code == 200, answer.text
        assert answer.headers.get("x-ignored-fields") == ("spacing" if told else None), sent
        assert paper.worker.drawings[-1].spec.spacing == spacing, sent


def test_a_requests_spacing_wins_over_its_presets(paper_servers: PaperServers, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    dense = "quality: { hd: { steps: 20, spacing: dense_start } }"
    file.write_text(f"default: own\nmodels:\n  own: {{ path: {weights}, {dense} }}\n")
    paper = paper_servers.open(models=file)
    for sent, spacing in (
        ({"quality": "hd"}, "dense_start"),
        ({"quality": "hd", "spacing": "default"}, "default"),
        ({"quality": "hd", "steps": 4}, "default"),  # too few, though nobody asked: nothing to tell
        ({}, "default"),
    ):
        answer = paper.post({"prompt": "x", **sent})
        assert "x-ignored-fields" not in answer.headers
        assert paper.worker.drawings[-1].spec.spacing == spacing, sent


def test_a_step_cache_that_leaves_out_nothing_is_told(paper_servers: PaperServers, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    presets = "quality: { standard: { steps: 20 }, hd: { steps: 20, step_cache: true }, high: { step_cache: 0.2 } }"
    file.write_text(
        f"default: own\nmodels:\n  own: {{ path: {weights}, {presets} }}\n"
        f"  lcm: {{ path: {weights}, family: lcm, {presets} }}\n"
    )
    paper = paper_servers.open(models=file)
    edit = {"image": text(png(scene(40, 40))), "size": "256x256"}
    for sent, strength, told in (
        ({"step_cache": True}, 0.5, False),
        ({"step_cache": 0.3, "steps": 12}, 0.3, False),
        ({"step_cache": True, "steps": 11}, 0.0, True),
        ({"step_cache": True, "scheduler": "euler_a"}, 0.0, True),
        ({"step_cache": False}, 0.0, False),
        ({"quality": "hd"}, 0.5, False),
        ({"quality": "hd", "step_cache": 1}, 1.0, False),
        ({"quality": "hd", "step_cache": False}, 0.0, False),
        ({"quality": "hd", "steps": 4}, 0.0, False),  # nobody asked: nothing to tell
        ({"quality": "hd", "model": "lcm"}, 0.0, False),
        ({**edit, "step_cache": True, "strength": 0.5}, 0.0, True),
        ({**edit, "step_cache": True, "strength": 0.6}, 0.5, False),
    ):
        path = "/v1/images/edits" if "image" in sent else "/v1/images/generations"
        answer = paper.post({"prompt": "x", **sent}, path)
        assert answer.status_code == 200, answer.text
        assert answer.headers.get("x-ignored-fields") == ("step_cache" if told else None), sent
        assert paper.worker.drawings[-1].spec.step_cache == strength, sent
