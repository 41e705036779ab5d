"""ControlNets beside a model: whole, safe and of its kind, told without loading them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.errors import LoadRefused
from pipelines.facts import controls, model_files, seal, sealed
from pipelines.facts.checkpoint import ARCHITECTURES
from pipelines.models.records import Records
from pipelines.plan import ControlFile, ModelPlan
from tests.running import ROOT
from tests.unit.catalog.control_folders import WEIGHTS, write_control
from tests.unit.pipelines.facts.test_folder import weights

MINI = ROOT / "weights" / "darkroom-mini"


def plan_of(folder: Path, base: Path = MINI) -> ModelPlan:
    return ModelPlan("mini", str(base), "stable-diffusion", controls=(ControlFile("canny", str(folder)),))


def test_a_whole_one_passes_and_its_weights_are_counted_apart(tmp_path: Path) -> None:
    plan = plan_of(write_control(tmp_path / "canny"))
    assert model_files.problem(plan) is None
    assert controls.inspect(plan) == len(weights())
    assert model_files.inspect(plan) == model_files.inspect(msgspec.structs.replace(plan, controls=()))
    assert sorted(controls.names(tmp_path / "canny")) == ["config.json", WEIGHTS]


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def _code(folder: Path) -> None:
    (folder / "diffusers.py").write_text("")


def _outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / WEIGHTS).symlink_to(folder.parent / WEIGHTS)


def _truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(weights()[:-4])


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _gone(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def _file(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.write_bytes(weights())


def _union(folder: Path) -> None:
    write_control(folder, _class_name="ControlNetUnionModel")


def _runs_code(folder: Path) -> None:
    write_control(folder, auto_map={"AutoModel": "x.X"})


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_pickle, r"controlnets\.canny/ has no \.safetensors weights"),
        (_code, "would be taken for code"),
        (_outside, "points outside"),
        (_truncated, WEIGHTS),
        (_no_config, r"controlnets\.canny/config\.json is missing"),
        (_not_json, "is not valid JSON"),
        (_gone, r"controlnets\.canny: the folder canny does not exist"),
        (_file, r"controlnets\.canny: canny is a file; a ControlNet is a folder in diffusers' layout"),
        (_union, "is of a ControlNetUnionModel; controlnets takes ControlNetModel only"),
        (_runs_code, "would run code"),
    ],
)
def test_one_that_is_broken_or_unsafe_is_refused_by_name(
    tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    folder = write_control(tmp_path / "canny")
    harm(folder)
    plan = plan_of(folder)
    with pytest.raises(LoadRefused, match=says):
        model_files.inspect(plan)
    assert model_files.problem(plan) is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"cross_attention_dim": 768},
            r"another model, Stable Diffusion 1\.x: its cross_attention_dim is 768, and.* 192",
        ),
        ({"cross_attention_dim": 2048}, "another model, Stable Diffusion XL: its"),
        ({"cross_attention_dim": None}, "its cross_attention_dim is 1280"),
        ({"addition_embed_type": "text_time"}, "its addition_embed_type is text_time, and that of this UNet is text"),
        ({"block_out_channels": [64, 128]}, "its block_out_channels is"),
        ({"layers_per_block": 2}, "its layers_per_block is 2"),
        ({"in_channels": 9}, "its in_channels is 9"),
        (
            {"conditioning_embedding_out_channels": [8, 8]},
            "one latent from 2 pixels a side, and the VAE.* makes one of 4",
        ),
        ({"conditioning_channels": 1}, "reads 1 channels"),
    ],
)
def test_one_of_another_model_is_told_from_the_two_configurations(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    plan = plan_of(write_control(tmp_path / "canny", **changes))
    with pytest.raises(LoadRefused, match=rf"controlnets\.canny: it .*{says}"):
        controls.inspect(plan)


@pytest.mark.parametrize(
    ("base", "fits"),
    [
        ("sd15", {"cross_attention_dim": 768}),
        ("sd21", {"cross_attention_dim": 1024}),
        (
            "sdxl",
            {
                "cross_attention_dim": 2048,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
                "block_out_channels": [320, 640, 1280],
            },
        ),
    ],
)
def test_published_shapes_fit_their_bases_and_no_other(tmp_path: Path, base: str, fits: dict[str, Any]) -> None:
    """The figures of lllyasviel's and diffusers' ControlNets, which leave out what is their class's default."""
    bare = dict.fromkeys(
        ("addition_embed_type", "block_out_channels", "layers_per_block", "conditioning_embedding_out_channels")
    )
    folder = write_control(tmp_path / "canny", **{**bare, **fits})
    for other in ("sd15", "sd21", "sdxl"):
        plan = plan_of(folder, ARCHITECTURES / other)
        assert (controls.misfit(plan, plan.controls[0]) is None) == (other == base)


def test_what_cannot_be_read_is_no_misfit(tmp_path: Path) -> None:
    """It is a problem of its own, which leaves the other models serving."""
    plan = plan_of(tmp_path / "canny")
    assert controls.misfit(plan, plan.controls[0]) is None
    write_control(tmp_path / "canny", cross_attention_dim=768)
    assert controls.misfit(plan_of(tmp_path / "canny", tmp_path / "no-model"), plan.controls[0]) is None


def test_a_folder_of_a_hub_s_cache_is_taken(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--control"
    folder = write_control(repository / "snapshots" / "abc")
    (repository / "blobs").mkdir()
    for number, name in enumerate(("config.json", WEIGHTS)):
        (folder / name).rename(repository / "blobs" / str(number))
        (folder / name).symlink_to(repository / "blobs" / str(number))
    assert model_files.problem(plan_of(folder)) is None


def test_the_variant_is_found(tmp_path: Path) -> None:
    folder = write_control(tmp_path / "canny")
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    plan = plan_of(folder)
    assert model_files.problem(plan) is None
    assert controls.part(plan.controls[0]).files.variant == "fp16"


def test_its_seal_is_its_own_and_is_heeded(tmp_path: Path) -> None:
    folder = write_control(tmp_path / "canny")
    plan = plan_of(folder)
    (mine,) = (each for each in sealed.of(plan) if each.key == "controlnets")
    assert mine.is_spare
    mine.manifest.write_bytes(seal.make(mine.folder, mine.names_to_seal(), lambda read: None))
    mine.compare()
    assert model_files.problem(plan) is None
    write_control(folder, act_fn="gelu")
    said = model_files.problem(plan)
    assert said is not None
    assert said.startswith("controlnets.canny: config.json has")
    with pytest.raises(LoadRefused):
        model_files.inspect(plan)
    model_files.inspect(plan, with_seal=False)


def test_another_controlnet_in_its_place_is_another_model_to_the_records(tmp_path: Path) -> None:
    folder = write_control(tmp_path / "canny")
    records = Records(tmp_path / "records", darkroom="1", device="cpu")
    records.of(plan_of(folder)).keep("x", 1)
    assert records.of(plan_of(folder)).get("x", int) == 1
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), "act_fn": "x"}))
    assert records.of(plan_of(folder)).get("x", int) is None
