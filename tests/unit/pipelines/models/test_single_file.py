"""Checkpoints loaded: their tensors are those that were written, whatever the layout, and nothing is asked of a hub."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, model_files
from pipelines.facts.checkpoint import ARCHITECTURES, BASES
from pipelines.models import dry_run, selfcheck, single_file
from pipelines.models.loader import load, weight_bytes
from pipelines.plan import AdapterFile, ModelPlan
from pipelines.spec import Task
from tests import original_layout
from tests.loras import write_lora
from tests.original_layout import modules, small_configurations, write, write_hollow

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading connects to nothing."""

    def refuse(*_: Any) -> None:
        raise AssertionError("loading asked for a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


class Written:
    """A small checkpoint on the disk, and the modules that it was written from."""

    def __init__(self, folder: Path, base: str = "sd15") -> None:
        self.configurations = small_configurations(base, folder / "configurations")
        self.modules = modules(self.configurations)
        self.tensors: Tensors = original_layout.checkpoint(self.modules)
        self.file = folder / "some.safetensors"
        self.write()

    def write(self, metadata: dict[str, str] | None = None) -> None:
        write(self.file, self.tensors, metadata)

    def plan(self, **more: Any) -> ModelPlan:
        known: dict[str, Any] = {"folder": str(self.configurations), "checkpoint": str(self.file)}
        return ModelPlan("m", family="auto", native_width=16, native_height=16, **{**known, **more})


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def same(module: torch.nn.Module, other: torch.nn.Module) -> int:
    """How many tensors two modules have, which are equal."""
    ours, theirs = module.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    return len(ours)


@pytest.mark.parametrize("base", BASES)
def test_a_real_checkpoint_of_each_base_fits_our_configurations(base: str, tmp_path: Path) -> None:
    """Told by its header alone; each tensor has the shape that our configuration makes it."""
    tensors = original_layout.checkpoint(modules(ARCHITECTURES / base, empty=True))
    file = write_hollow(tmp_path / "real.safetensors", tensors)
    assert checkpoint.checkpoint(file).base == base
    plan = ModelPlan("m", str(ARCHITECTURES / base), "auto", checkpoint=str(file))
    assert model_files.problem(plan) is None
    assert dry_run.problem(plan) is None
    whole = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    assert model_files.inspect(plan) == sum(2 * tensor.numel() for tensor in whole.values())


@pytest.mark.parametrize("base", BASES)
def test_each_tensor_of_a_checkpoint_is_loaded_as_it_was_written(base: str, tmp_path: Path) -> None:
    written = Written(tmp_path, base)
    plan = written.plan()
    assert dry_run.problem(plan, lambda read: None) is None
    model = load(plan, CPU)
    counted = {name: same(module, model.components[name]) for name, module in written.modules.items()}
    assert min(counted.values()) > 20
    buffers = sum(each.nbytes for part in written.modules.values() for each in part.buffers())
    assert weight_bytes(plan, CPU) + buffers == model.weight_bytes()
    assert (model.family.name == "stable-diffusion-xl-refiner") == (base == "sdxl-refiner")


def test_a_small_checkpoint_passes_the_check_at_load(written: Written) -> None:
    """Two prompts with one seed make two pictures: its words are those that ship."""
    model = load(written.plan(), CPU)
    selfcheck.check(model)
    assert model.shares


def test_a_refiner_edits_and_makes_no_picture_of_text_alone(tmp_path: Path) -> None:
    """A folder of SDXL's refiner was taken for SDXL itself, and each request for text alone failed in its UNet."""
    model = load(Written(tmp_path, "sdxl-refiner").plan(), CPU)
    assert Task.TEXT_TO_IMAGE not in model.family.tasks
    selfcheck.check(model)


def test_the_words_of_clip() -> None:
    tokenizer = single_file.tokenizer(ARCHITECTURES / "sd15" / "tokenizer")
    assert len(tokenizer) == 49408
    ids = tokenizer("a cat").input_ids
    assert ids == [49406, 320, 2368, 49407]
    padded = tokenizer("a cat", padding="max_length").input_ids
    assert padded == [*ids, *[49407] * 73]
    other = single_file.tokenizer(ARCHITECTURES / "sdxl" / "tokenizer_2")
    assert other("a cat", padding="max_length").input_ids == [*ids, *[0] * 73]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"{UNET}time_embed.0.weight", r"some\.safetensors \(unet\) lacks 1 of the \d+ tensors of its UNet2DCond"),
        (f"{UNET}middle_block.1.norm.weight", r"\(unet\) lacks 1 of the"),
        ("first_stage_model.decoder.conv_in.bias", r"\(vae\) lacks 1 of the"),
        (f"{TEXT}final_layer_norm.weight", r"\(text_encoder\) lacks 1 of the"),
        (f"{TEXT}encoder.layers.1.mlp.fc1.bias", r"\(text_encoder\) lacks 1 of the"),
    ],
)
def test_a_tensor_that_is_missing_is_named(name: str, says: str, written: Written) -> None:
    """Of a text encoder it stayed without numbers, of a UNet one heard "Cannot copy out of meta tensor"."""
    del written.tensors[name]
    written.write()
    assert dry_run.problem(written.plan()) is not None
    with pytest.raises(LoadRefused, match=says) as refused:
        load(written.plan(), CPU)
    assert str(written.file.parent) not in str(refused.value)


@pytest.mark.parametrize(
    "name", [f"{UNET}input_blocks.1.0.in_layers.2.weight", f"{TEXT}encoder.layers.0.mlp.fc1.weight"]
)
def test_a_tensor_of_another_shape_is_named(name: str, written: Written) -> None:
    written.tensors[name] = torch.cat([written.tensors[name]] * 2)
    written.write()
    with pytest.raises(LoadRefused, match=r"some\.safetensors \(\w+\) does not fit its config\.json: "):
        load(written.plan(), CPU)


def test_a_checkpoint_that_is_another_model_altogether(written: Written, tmp_path: Path) -> None:
    """The configurations of SDXL for a checkpoint of SD 1.5."""
    plan = written.plan(folder=str(small_configurations("sdxl", tmp_path / "xl")))
    with pytest.raises(LoadRefused, match=r"some\.safetensors has no second text encoder"):
        load(plan, CPU)


def test_open_clip_with_a_tensor_missing(tmp_path: Path) -> None:
    written = Written(tmp_path, "sdxl")
    del written.tensors["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"]
    written.write()
    with pytest.raises(LoadRefused, match=r"\(text_encoder_2\) lacks 3 of the .*k_proj\.weight"):
        load(written.plan(), CPU)


def test_ema_weights_and_what_trainers_leave_are_passed_by(written: Written) -> None:
    plain = weight_bytes(written.plan(), CPU)
    for index in range(120):
        written.tensors[f"model_ema.diffusion_model{index}"] = torch.ones(64)
    written.tensors |= {"alphas_cumprod": torch.ones(1000), "state_dict": torch.ones(1), "global_step": torch.ones(1)}
    written.write()
    model = load(written.plan(), CPU)
    same(written.modules["unet"], model.components["unet"])
    assert weight_bytes(written.plan(), CPU) == plain


def test_text_encoders_of_old_programs(written: Written) -> None:
    written.tensors = {
        name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in written.tensors.items()
    }
    written.write()
    same(written.modules["text_encoder"], load(written.plan(), CPU).components["text_encoder"])


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith(UNET) and tensor.ndim == 2


def test_plain_fp8_is_loaded_as_it_is(written: Written) -> None:
    eight = torch.float8_e4m3fn
    expected = written.modules["unet"]
    with torch.no_grad():
        for parameter in expected.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.to(eight).float())
    written.tensors = {
        name: tensor.to(eight) if is_matrix(name, tensor) else tensor for name, tensor in written.tensors.items()
    }
    written.write()
    same(expected, load(written.plan(), CPU).components["unet"])


@pytest.mark.parametrize("word", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("by_row", [False, True])
@torch.no_grad()
def test_scaled_fp8_is_multiplied_by_its_scales(word: str, by_row: bool, written: Written) -> None:
    """Loaded in silence with weights hundreds of times too large."""
    expected: dict[str, torch.Tensor] = {}
    scaled = dict(written.tensors)
    for name, tensor in written.tensors.items():
        if is_matrix(name, tensor):
            most = tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().max()
            scale = most / 400
            small = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[name] = small
            scaled[name.replace(".weight", f".{word}")] = scale.reshape(-1) if by_row else scale
            scaled[name.replace(".weight", ".scale_input")] = torch.ones(())
            expected[name] = small.float() * scale
    scaled[f"{UNET}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    plain = dict(written.tensors)
    written.tensors = plain | expected
    written.write()
    wanted = load(written.plan(), CPU).components["unet"]
    written.tensors = scaled
    written.write()
    model = load(written.plan(), CPU)
    same(wanted, model.components["unet"])
    off = [
        float((a - b).abs().mean() / b.abs().mean())
        for a, b in zip(model.components["unet"].parameters(), written.modules["unet"].parameters(), strict=True)
        if b.ndim == 2
    ]
    assert max(off) < 0.04  # what eight bits round


@torch.no_grad()
def test_scales_of_blocks(written: Written) -> None:
    """Refused until each block was multiplied by its own: as tools of ComfyUI's users write them."""
    name = f"{UNET}time_embed.2.weight"
    whole = written.tensors[name]
    rows, columns = (side // 32 for side in whole.shape)
    scale = whole.reshape(rows, 32, columns, 32).abs().amax((1, 3)) / 400
    assert scale.numel() > 1
    small = (whole / scale.repeat_interleave(32, 0).repeat_interleave(32, 1)).to(torch.float8_e4m3fn)
    written.tensors |= {name: small, name.replace("weight", "weight_scale"): scale}
    written.tensors[name.replace("weight", "comfy_quant")] = torch.zeros(40, dtype=torch.uint8)
    written.write()
    found = load(written.plan(), CPU).components["unet"].time_embedding.linear_2.weight
    assert float((found - whole).abs().mean() / whole.abs().mean()) < 0.04


def test_a_scale_that_cannot_be_undone(written: Written) -> None:
    name = f"{UNET}time_embed.0.weight"
    written.tensors[name] = written.tensors[name].to(torch.float8_e4m3fn)
    written.tensors[name.replace("weight", "scale_weight")] = torch.ones(3, 5)
    written.write()
    with pytest.raises(LoadRefused, match=r"some\.safetensors \(unet\) has .*scale_weight, a scale that"):
        load(written.plan(), CPU)


def original_vae(module: torch.nn.Module) -> Tensors:
    prefix = "first_stage_model."
    return {name.removeprefix(prefix): each for name, each in original_layout.checkpoint({"vae": module}).items()}


def with_prefix(module: torch.nn.Module) -> Tensors:
    return original_layout.checkpoint({"vae": module})


def diffusers_vae(module: torch.nn.Module) -> Tensors:
    return dict(module.state_dict())


def old_attention(module: torch.nn.Module) -> Tensors:
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, old in words.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
        return name

    return {renamed(name): tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("layout", [original_vae, with_prefix, diffusers_vae, old_attention])
@pytest.mark.parametrize("has_its_own", [False, True])
def test_a_vae_in_the_place_of_its_own_or_of_none(
    layout: Callable[[torch.nn.Module], Tensors], has_its_own: bool, written: Written, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    other = type(written.modules["vae"]).from_config(written.modules["vae"].config)  # type: ignore[attr-defined]
    vae = write(tmp_path / "vae.safetensors", layout(other))
    if not has_its_own:
        written.tensors = {name: each for name, each in written.tensors.items() if not name.startswith("first_stage")}
        written.write()
    model = load(written.plan(vae=str(vae)), CPU)
    same(other, model.components["vae"])


def test_v_prediction_that_is_marked_or_written(written: Written) -> None:
    """Marks were dropped without a word, and the pictures wrong."""
    assert load(written.plan(), CPU).components["scheduler"].config.prediction_type == "epsilon"
    by_word = load(written.plan(prediction="v"), CPU).components["scheduler"]
    assert by_word.config.prediction_type == "v_prediction"
    written.tensors |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    written.write()
    scheduler = load(written.plan(), CPU).components["scheduler"]
    assert type(scheduler).__name__ == "EulerDiscreteScheduler"
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.rescale_betas_zero_snr is True


def test_adapters_go_with_a_checkpoint(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Writing one, peft asks the hub for the base model.
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_, **__: False)
    file = write_lora(load(written.plan(), CPU)._base, tmp_path, seed=3)
    model = load(written.plan(adapters=(AdapterFile("ink", str(file)),)), CPU)
    assert model.adapters.names == ["ink"]
    selfcheck.check(model)
    assert model.shares
    assert model.adapters.mixed


def test_every_byte_is_read_of_this_model_alone(written: Written) -> None:
    """With --deep: NaN is found, and the EMA's is nobody's."""
    written.tensors["model_ema.x"] = torch.full((4,), float("nan"))
    written.write()
    read: list[int] = []
    assert dry_run.problem(written.plan(), read.append) is None
    assert sum(read) == model_files.inspect(written.plan())
    written.tensors[f"{TEXT}final_layer_norm.bias"][0] = float("nan")
    written.write()
    said = dry_run.problem(written.plan(), read.append)
    assert said is not None
    assert "final_layer_norm.bias has NaN or infinity in it" in said


def test_configurations_with_words_of_their_own(written: Written) -> None:
    """The owner's tokenizer counts where there is one."""
    folder = written.configurations / "tokenizer"
    letters = "abcdegnohplrtw"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "ap"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na p\n")
    model = load(written.plan(), CPU)
    assert len(model.components["tokenizer"]) == len(tokens)


def test_words_that_the_library_cannot_read_are_a_refusal(written: Written) -> None:
    """Its tokenizers raise a plain Exception, which went past loading as none of its own."""
    (written.configurations / "tokenizer" / "vocab.json").write_text("{}")
    (written.configurations / "tokenizer" / "merges.txt").write_text("#version: 0.2\na p\n")
    with pytest.raises(LoadRefused, match="diffusers could not load it"):
        load(written.plan(), CPU)


def test_half_precision_stays_what_it_is(written: Written) -> None:
    save_file({name: each.half().contiguous() for name, each in written.tensors.items()}, written.file)
    model = load(written.plan(dtype="float16"), CPU)
    for name, parameter in model.components["text_encoder"].named_parameters():
        assert parameter.dtype is torch.float16, name
    assert weight_bytes(written.plan(dtype="float16"), CPU) * 2 == weight_bytes(written.plan(dtype="float32"), CPU)
