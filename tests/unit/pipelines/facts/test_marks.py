"""What stands beside weights and changes what they mean: heeded, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.errors import LoadRefused
from pipelines.facts import headers, marks
from pipelines.facts.folder import inspect, parts
from pipelines.models.scales import multiplied

FLOAT8 = torch.zeros(4, 2).to(torch.float8_e4m3fn)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in ("unet", "scheduler"):
        (folder / name).mkdir(parents=True)
    index = {"_class_name": "X", "unet": ["diffusers", "U"], "scheduler": ["diffusers", "S"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "config.json").write_text("{}")
    set_scheduler(folder)
    write(folder)
    return folder


def write(folder: Path, **more: torch.Tensor) -> None:
    tensors = {"conv.weight": torch.zeros(2), **{name.replace("__", "."): value for name, value in more.items()}}
    save_file(tensors, folder / "unet" / "diffusion_pytorch_model.safetensors")


def set_scheduler(folder: Path, **config: Any) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


def test_a_header_tells_names_dtypes_shapes_and_bytes(model: Path) -> None:
    write(model, a__weight=FLOAT8)
    (part, _) = parts(model)
    header = headers.read(part.weights[0])
    assert header.tensors["a.weight"] == headers.Stored("F8_E4M3", (4, 2), 8)
    assert header.tensors["a.weight"].is_float8
    assert not header.tensors["conv.weight"].is_float8


@pytest.mark.parametrize("shape", [[5], [2**63], [2**40, 2**40], [0], [-4], ["4"], [True], "4"])
def test_a_tensor_that_is_not_as_large_as_its_shape_says(model: Path, shape: Any) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 16]}}).encode()
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(LoadRefused, match=r"unet/diffusion_pytorch_model\.safetensors has a damaged header"):
        inspect(model)


@pytest.mark.parametrize("mark", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (4, 1)])
def test_scales_of_fp8_are_found(model: Path, mark: str, shape: tuple[int, ...]) -> None:
    idle = {"scaled_fp8": FLOAT8.clone(), "a__scale_input": torch.ones(1)}
    write(model, a__weight=FLOAT8, **{f"a__{mark}": torch.ones(shape)}, **idle)
    assert inspect(model) > 0
    (scale,) = parts(model)[0].scales()
    assert (scale.weight, scale.scale) == ("a.weight", f"a.{mark}")


@pytest.mark.parametrize(
    "more",
    [
        {"a__scale_weight": torch.ones(1)},
        {"a__weight": torch.zeros(4, 2), "a__scale_weight": torch.ones(1)},
        {"a__weight": torch.zeros(4, 2, dtype=torch.int8), "a__scale_weight": torch.ones(1)},
        {"a__weight": FLOAT8, "a__weight_scale": torch.ones(2, 2)},  # by blocks
        {"a__weight": FLOAT8, "a__weight_scale": torch.ones(1).to(torch.float8_e5m2)},
    ],
)
def test_a_scale_that_cannot_be_undone_is_refused_by_name(model: Path, more: dict[str, torch.Tensor]) -> None:
    write(model, **more)
    with pytest.raises(LoadRefused, match=r"unet/ has a\.(scale_weight|weight_scale)"):
        inspect(model)


@pytest.mark.parametrize(
    ("scale", "weight", "lengths"),
    [
        ((24, 24), (3072, 3072), (128, 128)),
        ((48, 192), (3072, 12288), (64, 64)),
        ((2, 3), (200, 300), (128, 128)),  # the last of each is shorter
        ((1, 2), (100, 256), (100, 128)),
        ((3072, 24), (3072, 3072), (1, 128)),
        ((3072, 24, 1), (3072, 3072), (1, 128)),
        ((3072,), (3072, 64), (1, 64)),
        ((), (4, 2), (4, 2)),
        ((1, 1), (4, 2), (4, 2)),
        ((3, 3), (200, 300), None),
        ((3072, 3072), (3072, 3072), None),
        ((24, 3072), (3072, 3072), None),
        ((0, 2), (0, 2), None),
        ((9, 9), (4, 4), None),
        ((2, 2), (64, 64, 3, 3), None),
        ((2, 2, 2), (64, 64), None),
    ],
)
def test_the_blocks_of_a_scale(
    scale: tuple[int, ...], weight: tuple[int, ...], lengths: tuple[int, ...] | None
) -> None:
    assert marks.blocks(scale, weight) == lengths


@pytest.mark.parametrize(
    ("scale", "weight"), [((2, 3), (200, 300)), ((8, 2), (8, 64)), ((4, 4), (32, 64)), ((), (3, 5))]
)
def test_each_block_is_multiplied_by_its_own(scale: tuple[int, ...], weight: tuple[int, ...]) -> None:
    lengths = marks.blocks(scale, weight)
    assert lengths is not None
    factors, numbers = torch.rand(scale) + 0.5, torch.randn(weight).to(torch.float8_e4m3fn)
    found = multiplied(numbers, factors)
    for row in range(weight[0]):
        for column in range(weight[1]):
            place = (row // lengths[0], column // lengths[1]) if scale else ()
            assert found[row, column] == numbers[row, column].float() * factors[place]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"a__weight": FLOAT8, "a__weight_scale": torch.ones(4, 1, dtype=torch.uint8)}, "a.weight is in MXFP8, which"),
        (
            {
                "a__weight": torch.zeros(4, 2, dtype=torch.uint8),
                "a__weight_scale": FLOAT8.clone(),
                "a__weight_scale_2": torch.ones(1),
            },
            "has a.weight in NVFP4",
        ),
    ],
)
def test_formats_of_blocks_that_are_not_served_are_named(model: Path, more: dict[str, torch.Tensor], says: str) -> None:
    write(model, **more)
    with pytest.raises(LoadRefused, match=says.replace(".", r"\.")):
        inspect(model)


def test_the_third_spelling_of_a_scale(model: Path) -> None:
    """Blocks are from 128 numbers on with most: refused, whatever their form, until they were descaled."""
    weight = torch.zeros(200, 300).to(torch.float8_e4m3fn)
    write(model, a__weight=weight, a__weight_scale_inv=torch.ones(2, 3))
    assert inspect(model) > 0
    (scale,) = parts(model)[0].scales()
    assert scale.scale == "a.weight_scale_inv"


def test_weights_in_integers_are_refused_unless_a_library_has_quantised_them(model: Path) -> None:
    """diffusers takes int8 for what it is stored as: the numbers without their scale."""
    write(model, a__weight=torch.zeros(4, 2, dtype=torch.int8))
    with pytest.raises(LoadRefused, match=r"unet/ has a\.weight in I8, and no quantization_config"):
        inspect(model)
    quantised = {"quantization_config": {"quant_method": "torchao"}}
    (model / "unet" / "config.json").write_text(json.dumps(quantised))
    assert parts(model)[0].scales() == ()


@pytest.mark.parametrize(
    ("mark", "config", "key"),
    [
        ("v_pred", {}, "prediction_type"),
        ("v_pred", {"prediction_type": "epsilon"}, "prediction_type"),
        ("ztsnr", {"prediction_type": "v_prediction"}, "rescale_betas_zero_snr"),
    ],
)
def test_marks_of_v_prediction_that_the_scheduler_does_not_heed(
    model: Path, mark: str, config: dict[str, Any], key: str
) -> None:
    """diffusers dropped them without a word, and drew wrong pictures."""
    set_scheduler(model, **config)
    write(model, **{mark: torch.zeros(1)})
    with pytest.raises(LoadRefused, match=f"unet/ has the mark {mark}.* set its {key} to"):
        inspect(model)
    set_scheduler(model, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert inspect(model) > 0


def test_a_tensor_of_two_shards_is_refused(model: Path) -> None:
    """One of the two was stale, and which was loaded was chance."""
    unet = model / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    for number in (1, 2):
        save_file({"w": torch.zeros(2), f"w{number}": torch.zeros(2)}, unet / f"shard-{number}.safetensors")
    index = {"weight_map": {"w": "shard-1.safetensors", "w1": "shard-1.safetensors", "w2": "shard-2.safetensors"}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LoadRefused, match=r"w is in shard-1\.safetensors and in shard-2\.safetensors"):
        inspect(model)


def test_stale_shards_and_what_systems_leave_are_never_read(model: Path) -> None:
    unet = model / "unet"
    size = inspect(model)
    for name in ("diffusion_pytorch_model-00001-of-00002.safetensors", "._diffusion_pytorch_model.safetensors"):
        (unet / name).write_bytes(b"no weights")
    assert inspect(model) == size
    assert [path.name for path in parts(model)[0].weights] == ["diffusion_pytorch_model.safetensors"]
