"""What a single file is, told from its header: each kind by its name, and headers that lie."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, headers, model_files
from pipelines.facts.checkpoint import ARCHITECTURES, Kind
from pipelines.plan import ModelPlan

Shapes = dict[str, tuple[int, ...]]
UNET = "model.diffusion_model."
XL_TEXT = "conditioner.embedders."


def write(path: Path, shapes: Shapes, *, dtype: str = "F16", metadata: dict[str, str] | None = None) -> Path:
    """A file with such a header and a hole in the place of its data."""
    end = 0
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return write_header(path, header, end)


def write_header(path: Path, header: Any, end: int) -> Path:
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def sd(width: int = 768, channels: int = 4) -> Shapes:
    """A few names of a checkpoint, enough to tell what it is."""
    return {
        f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, width),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.safetensors"


@pytest.mark.parametrize(
    ("width", "channels", "base"),
    [
        (768, 4, "sd15"),
        (768, 9, "sd15-inpaint"),
        (1024, 4, "sd21"),
        (1024, 9, "sd21-inpaint"),
        (2048, 4, "sdxl"),
        (2048, 9, "sdxl-inpaint"),
        (1280, 4, "sdxl-refiner"),
        (1280, 9, None),
        (999, 4, None),
    ],
)
def test_the_base_of_a_checkpoint(width: int, channels: int, base: str | None, file: Path) -> None:
    told = checkpoint.tell(write(file, sd(width, channels)))
    assert (told.kind, told.base, told.problem) == (Kind.CHECKPOINT, base, None)
    assert base is None or (ARCHITECTURES / base / "model_index.json").is_file()


def test_the_parts_of_a_checkpoint_are_told_by_the_beginnings_of_their_names(file: Path) -> None:
    """EMA weights and what trainers leave beside them belong to no part."""
    more = {"model_ema.input_blocks00weight": (1,), "alphas_cumprod": (1000,), "cond_stage_model.logit_scale": (1,)}
    told = checkpoint.tell(write(file, sd() | more))
    assert set(told.parts) == {"unet", "vae", "text_encoder"}
    assert len(told.parts["unet"].names) == 2
    assert told.dtypes["vae"] == ("F16",)


def test_the_two_text_encoders_of_sdxl_and_the_one_of_its_refiner(file: Path) -> None:
    xl = {f"{XL_TEXT}0.transformer.text_model.x": (1,), f"{XL_TEXT}1.model.ln_final.weight": (1,)}
    base = {name: shape for name, shape in sd(2048).items() if not name.startswith("cond")}
    told = checkpoint.tell(write(file, base | xl))
    assert {"text_encoder", "text_encoder_2"} <= set(told.parts)
    told = checkpoint.tell(write(file, base | {f"{XL_TEXT}0.model.ln_final.weight": (1,)}))
    assert "text_encoder" not in told.parts
    assert list(told.parts["text_encoder_2"].names) == [f"{XL_TEXT}0.model.ln_final.weight"]


def test_names_of_old_programs_are_read_as_those_of_today(file: Path) -> None:
    name = "cond_stage_model.transformer.encoder.layers.0.mlp.fc1.weight"
    told = checkpoint.tell(write(file, sd() | {name: (4, 4)}))
    assert told.parts["text_encoder"].names[name] == name.replace("transformer.", "transformer.text_model.")


@pytest.mark.parametrize(
    ("names", "kind", "says"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.alpha"], Kind.LORA, "under loras"),
        (["unet.down_blocks.0.attn.to_k.lora_A.weight"], Kind.LORA, "under loras"),
        (["lora_unet_x.hada_w1_a"], Kind.LORA, "under loras"),
        (["unet.down_blocks.0.attn1.processor.to_q_lora.down.weight"], Kind.LORA, "under loras"),
        (["unet.down_blocks.0.attn1.to_q.lora.up.weight"], Kind.LORA, "under loras"),
        (["text_encoder.text_model.encoder.layers.0.q_proj.lora_linear_layer.up.weight"], Kind.LORA, "under loras"),
        (["emb_params"], Kind.EMBEDDING, "list it under embeddings"),
        (["clip_l", "clip_g"], Kind.EMBEDDING, "list it under embeddings"),
        (
            ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.x"],
            Kind.CONTROLNET,
            "under controlnets",
        ),
        (
            ["control_model.input_blocks.0.0.weight", f"{UNET}input_blocks.0.0.weight"],
            Kind.CONTROLNET,
            "under controlnets",
        ),
        ([f"{UNET}input_blocks.0.0.weight"], Kind.UNET, "take a complete checkpoint"),
        (["input_blocks.0.0.weight"], Kind.UNET, "take a complete checkpoint"),
        (["down_blocks.0.resnets.0.norm1.weight"], Kind.UNET, "take a complete checkpoint"),
        (["double_blocks.0.img_attn.qkv.weight"], Kind.TRANSFORMER, "name it under transformer"),
        ([f"{UNET}double_blocks.0.img_attn.qkv.weight"], Kind.TRANSFORMER, "name it under transformer"),
        (["transformer_blocks.0.attn.to_q.weight"], Kind.TRANSFORMER, "name it under transformer"),
        ([f"{UNET}joint_blocks.0.x", "first_stage_model.x"], Kind.ALL_IN_ONE, "that is taken from it"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], Kind.VAE, "name it under vae"),
        (["first_stage_model.decoder.conv_in.weight"], Kind.VAE, "name it under vae"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], Kind.TEXT_ENCODER, "name it under text_encoders"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight"], Kind.TEXT_ENCODER, "name it under text_encoders"),
        (["conv_first.weight", "body.0.rdb1.conv1.weight"], Kind.UPSCALER, "name it under upscalers"),
        (["something"], Kind.UNKNOWN, "original layout"),
        ([], Kind.UNKNOWN, "original layout"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_name(names: list[str], kind: Kind, says: str, file: Path) -> None:
    told = checkpoint.tell(write(file, dict.fromkeys(names, (2, 2))))
    assert told.kind is kind
    with pytest.raises(LoadRefused, match=rf"^some\.safetensors is {re.escape(kind)}: .*{says}"):
        checkpoint.checkpoint(file)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (sd(channels=5), "is a checkpoint for depth, which is not served"),
        (sd(channels=8), "is a checkpoint for instructions"),
        (sd() | {"edm_mean": (4,)}, "has the mark edm_mean"),
    ],
)
def test_checkpoints_that_no_pipeline_here_draws_with(shapes: Shapes, says: str, file: Path) -> None:
    with pytest.raises(LoadRefused, match=says):
        checkpoint.checkpoint(write(file, shapes))


@pytest.mark.parametrize("name", ["old.ckpt", "old.pt", "old.bin", "old"])
def test_files_of_other_kinds_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02}")
    with pytest.raises(LoadRefused, match=rf"{name} is not a \.safetensors file"):
        checkpoint.checkpoint(tmp_path / name)


@pytest.mark.parametrize("begins", [b"PK\x03\x04", b"\x80\x02}q\x00X\x01\x00\x00\x00"])
def test_a_pickle_with_the_name_of_safetensors(begins: bytes, file: Path) -> None:
    file.write_bytes(begins + b"x" * 100)
    with pytest.raises(LoadRefused, match="is not a safetensors file but a pickle, which can run code"):
        checkpoint.tell(file)


def test_what_git_lfs_left_a_folder_and_nothing(file: Path, tmp_path: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(LoadRefused, match="run git lfs pull"):
        checkpoint.tell(file)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(LoadRefused, match="is a folder, not a file"):
        checkpoint.tell(tmp_path / "folder.safetensors")
    with pytest.raises(LoadRefused, match="does not exist"):
        checkpoint.tell(tmp_path / "nothing.safetensors")


NAME = f"{UNET}input_blocks.0.0.weight"


@pytest.mark.parametrize(
    "header",
    [
        {NAME: {"dtype": "F16", "shape": [2**63], "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F16", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F16", "shape": [4], "data_offsets": [0, 2**63]}},
        {NAME: {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]}},
        {NAME: {"dtype": "F16", "shape": [-4], "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F16", "shape": [4.0], "data_offsets": [0, 8]}},
        {NAME: {"dtype": 7, "shape": [4], "data_offsets": [0, 8]}},
        {NAME: {"shape": [4], "data_offsets": [0, 8]}},
        {NAME: [0, 8]},
        [1, 2],
    ],
)
def test_headers_that_lie(header: Any, file: Path) -> None:
    with pytest.raises(LoadRefused, match=r"some\.safetensors (has a damaged header|is truncated)"):
        checkpoint.tell(write_header(file, header, 8))


@pytest.mark.parametrize("starts", [(0, 12), (4, 12), (0, 4)])
def test_tensors_that_overlap_or_leave_gaps(starts: tuple[int, int], file: Path) -> None:
    """The check passed them, and the library opens no such file: such a LoRA made its whole model unavailable."""
    header = {
        name: {"dtype": "F16", "shape": [4], "data_offsets": [start, start + 8]}
        for name, start in zip(("b", "a"), starts, strict=True)
    }
    write_header(file, header, starts[1] + 8)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(str(file), framework="numpy")
    with pytest.raises(LoadRefused, match="its tensors overlap, or leave gaps"):
        checkpoint.tell(file)


def test_tensors_may_lie_in_any_order_and_be_empty(file: Path) -> None:
    places = {"b": ([4], [8, 16]), "a": ([4], [0, 8]), "none": ([0], [8, 8])}
    header = {n: {"dtype": "F16", "shape": shape, "data_offsets": at} for n, (shape, at) in places.items()}
    write_header(file, header, 16)
    safetensors.safe_open(str(file), framework="numpy")
    assert headers.read(file).tensors.keys() == places.keys()


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 10**9])
def test_a_length_that_lies(length: int, file: Path) -> None:
    file.write_bytes(length.to_bytes(8, "little") + b"{}" + b"\0" * 8)
    with pytest.raises(LoadRefused, match="is not a safetensors file, or is truncated"):
        checkpoint.tell(file)


def test_a_header_of_lists_within_lists(file: Path) -> None:
    text = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(LoadRefused, match="damaged header"):
        checkpoint.tell(file)


def test_names_are_names_and_no_paths(file: Path, tmp_path: Path) -> None:
    """A name with .. in it leads nowhere."""
    name = f"{UNET}../../../etc/input_blocks.passwd"
    told = checkpoint.tell(write(file, sd() | {name: (1,), "../x": (1,), "": (1,)}))
    assert name in told.parts["unet"].names
    assert [path.name for path in tmp_path.iterdir()] == ["some.safetensors"]


def plan(file: Path, base: str = "sd15", **more: Any) -> ModelPlan:
    return ModelPlan("m", str(ARCHITECTURES / base), "other", checkpoint=str(file), **more)


def test_another_base_than_the_file_says(file: Path) -> None:
    write(file, sd(2048))
    assert model_files.problem(plan(file)) == "some.safetensors is sdxl, not sd15: take base out of models.yaml"


def test_a_checkpoint_of_no_base_that_is_known(file: Path) -> None:
    write(file, sd(999))
    problem = model_files.problem(plan(file, ""))
    assert problem is not None
    assert problem.endswith("name a folder with its configurations under config")


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ("first_stage_model", "some.safetensors has no VAE: name one under vae in models.yaml"),
        (
            "cond_stage_model",
            "some.safetensors has no text encoder: take a complete checkpoint, or name CLIP-L (clip_l.safetensors)"
            " under text_encoders",
        ),
    ],
)
def test_a_part_that_is_not_in_the_file(lacks: str, says: str, file: Path) -> None:
    write(file, {name: shape for name, shape in sd().items() if not name.startswith(lacks)})
    assert model_files.problem(plan(file)) == says


def test_a_vae_beside_the_checkpoint_that_lacks_one(file: Path, tmp_path: Path) -> None:
    write(file, {name: shape for name, shape in sd().items() if not name.startswith("first_stage")})
    vae = write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": (4, 4), "encoder.conv_in.weight": (4, 4)})
    both = plan(file, vae=str(vae))
    assert model_files.problem(both) is None
    assert model_files.inspect(both) == 2 * (320 * 4 * 9 + 320 * 768 + 77 + 32)


def test_a_vae_that_is_none(file: Path, tmp_path: Path) -> None:
    write(file, sd())
    lora = write(tmp_path / "lora.safetensors", {"a.lora_up.weight": (4, 4)})
    assert model_files.problem(plan(file, vae=str(lora))) == "lora.safetensors is a LoRA, no VAE"


@pytest.mark.parametrize(
    ("more", "metadata", "written", "expected"),
    [
        ({}, {}, None, None),
        ({"v_pred": (0,)}, {}, None, ("PNDMScheduler", "v_prediction", "leading")),
        ({"v_pred": (0,), "ztsnr": (0,)}, {}, None, ("EulerDiscreteScheduler", "v_prediction", "trailing")),
        ({"v_pred": (0,)}, {}, "v", ("PNDMScheduler", "v_prediction", "leading")),
        ({}, {"modelspec.prediction_type": "v"}, None, ("PNDMScheduler", "v_prediction", "leading")),
        ({}, {"modelspec.prediction_type": "v"}, "epsilon", None),
        ({}, {"modelspec.prediction_type": "no such"}, None, None),
        ({}, {}, "v", ("PNDMScheduler", "v_prediction", "leading")),
    ],
)
def test_what_a_checkpoint_was_trained_to_predict_is_heeded(
    more: Shapes, metadata: dict[str, str], written: str | None, expected: tuple[str, str, str] | None, file: Path
) -> None:
    """Marks of v-prediction were dropped without a word, and the pictures wrong."""
    write(file, sd() | more, metadata=metadata)
    found = model_files.scheduler(plan(file, prediction=written))
    if expected is None:
        assert found is None
        return
    assert found is not None
    name, config = found
    assert (name, config["prediction_type"], config["timestep_spacing"]) == expected
    assert config.get("rescale_betas_zero_snr", False) == ("ztsnr" in more)


def test_models_yaml_against_a_mark(file: Path) -> None:
    write(file, sd() | {"v_pred": (0,)})
    problem = model_files.problem(plan(file, prediction="epsilon"))
    assert problem is not None
    assert problem.startswith("some.safetensors is marked as trained for prediction v; models.yaml says epsilon")


def test_sd_2_1_predicts_v_unless_told_otherwise(file: Path) -> None:
    write(file, sd(1024))
    assert model_files.scheduler(plan(file, "sd21")) is None
    found = model_files.scheduler(plan(file, "sd21", prediction="epsilon"))
    assert found is not None
    assert found[1]["prediction_type"] == "epsilon"


HUGE = 10**400  # times nothing, it takes no bytes, so its file is as large as it says


@pytest.mark.parametrize(
    "shapes",
    [
        {"pos_embed": (1, HUGE, 0), "joint_blocks.0.x": (0, HUGE)},
        {"img_in.weight": (3072, HUGE, 0), "vector_in.in_layer.weight": (0, HUGE), "double_blocks.0.x": ()},
        {"img_in.weight": (), "vector_in.in_layer.weight": ()},
        {"text_model.embeddings.token_embedding.weight": (), "text_model.encoder.layers.0.x": (HUGE, 0)},
        {"shared.weight": (0, HUGE), "encoder.block.0.layer.0.SelfAttention.q.weight": ()},
        {"text_encoders.a.transformer.shared.weight": (HUGE, 0), f"{UNET}joint_blocks.0.x": (0, HUGE)},
        {"a.weight": (0, HUGE), "a.weight_scale": (HUGE, 0)},
    ],
)
def test_shapes_that_no_number_holds(shapes: Shapes, file: Path) -> None:
    """A float of them is an OverflowError, in the front."""
    empty = {name: (*shape, 0) if 0 not in shape else shape for name, shape in shapes.items()}
    write(file, empty, dtype="F8_E4M3")
    checkpoint.tell(file)
    for key in ("checkpoint", "transformer", "text_encoders"):
        named: Any = (str(file),) if key == "text_encoders" else str(file)
        alone = {"is_transformer_alone": key == "transformer", key: named}
        assert model_files.problem(ModelPlan("m", str(ARCHITECTURES / "flux-dev"), "other", **alone)) is not None
