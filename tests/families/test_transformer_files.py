"""Transformers from single files over a folder: in diffusers' names and the original ones, behind ComfyUI's prefix, in
fp8 with scales, and in GGUF."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import LoadRefused
from pipelines.facts import model_files, requirements
from pipelines.models import dry_run, selfcheck
from pipelines.models.loader import LoadedModel, load, weight_bytes
from pipelines.plan import ModelPlan
from tests.families.test_disk import save

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
PREFIX = "model.diffusion_model."
FAMILIES = ["SD3", "FLUX.1", "FLUX.2 Klein", "Qwen-Image", "Z-Image", "Sana", "Lumina 2", "AuraFlow", "Chroma"]


class Split:
    """A tiny model whose folder has the configuration of its transformer alone, and its weights for files."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model = save(name, folder / "model")
        component = folder / "model" / "transformer"
        self.tensors: Tensors = {}
        for path in component.glob("*.safetensors*"):
            if path.suffix == ".safetensors":
                self.tensors |= load_file(path)
            path.unlink()
        self.file = folder / "transformer.safetensors"
        self.folder = folder / "model"

    def plan(self, tensors: Tensors | None = None, **more: Any) -> ModelPlan:
        if tensors is not None:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self.file)
        known = {"folder": str(self.folder), "transformer": str(self.file)}
        return msgspec.structs.replace(self.model.plan, **{**known, **more})

    def same_as(self, model: LoadedModel) -> None:
        loaded = model.components["transformer"].state_dict()
        expected = self.model.components["transformer"].state_dict()
        assert loaded.keys() == expected.keys()
        for name in expected:
            assert torch.equal(loaded[name], expected[name]), name


@pytest.mark.parametrize("prefix", ["", PREFIX, "diffusion_model.", "transformer."])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_in_diffusers_names(name: str, prefix: str, tmp_path: Path) -> None:
    """Behind ComfyUI's prefix they ended in a KeyError, or on the meta device."""
    split = Split(name, tmp_path)
    plan = split.plan({prefix + each: tensor for each, tensor in split.tensors.items()})
    assert model_files.problem(plan) is None
    assert dry_run.problem(plan, lambda read: None) is None
    split.same_as(load(plan, CPU))


def test_a_class_that_is_read_from_its_folder_alone(tmp_path: Path) -> None:
    split = Split("PixArt-Sigma", tmp_path)
    with pytest.raises(LoadRefused, match=r"PixArtTransformer2DModel are read from its folder alone"):
        load(split.plan(split.tensors), CPU)


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    """Scale and shift are the other way round in the original."""
    return torch.cat(list(tensor.chunk(2))[::-1])


_SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}


def original_sd3(tensors: Tensors, layers: int = 2) -> Tensors:
    """SD3's names as its first program has them."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if (".attn.to_" in name and ".to_out" not in name and ".to_add_out" not in name) or ".attn.add_" in name:
            continue
        if name.startswith("norm_out.") or name.startswith(f"transformer_blocks.{layers - 1}.norm1_context."):
            tensor = swapped(tensor)
        head = ""
        if name.startswith("transformer_blocks."):
            _, block, name = name.split(".", 2)
            head = f"joint_blocks.{block}."
        ours = next((each for each in _SD3 if name == each or name.startswith(f"{each}.")), None)
        found[head + (name if ours is None else name.replace(ours, _SD3[ours], 1))] = tensor
    streams = {"x": ("to_q", "to_k", "to_v"), "context": ("add_q_proj", "add_k_proj", "add_v_proj")}
    for number in range(layers):
        for kind in ("weight", "bias"):
            for stream, words in streams.items():
                parts = [tensors[f"transformer_blocks.{number}.attn.{word}.{kind}"] for word in words]
                found[f"joint_blocks.{number}.{stream}_block.attn.qkv.{kind}"] = torch.cat(parts)
    return found


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_original_names(prefix: str, tmp_path: Path) -> None:
    """Alone, or in a checkpoint of all parts, of which the transformer is taken."""
    split = Split("SD3", tmp_path)
    tensors = {prefix + name: tensor for name, tensor in original_sd3(split.tensors).items()}
    if prefix:
        tensors["first_stage_model.decoder.conv_in.weight"] = torch.ones(4, 4)
    split.same_as(load(split.plan(tensors), CPU))


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    split = Split("SD3", tmp_path)
    plain = dict(split.tensors)
    del plain["transformer_blocks.0.ff.net.2.weight"]
    with pytest.raises(
        LoadRefused, match=r"^transformer\.safetensors \(transformer\) lacks 1 of the .*ff\.net\.2\.weight"
    ):
        load(split.plan(plain), CPU)
    original = original_sd3(split.tensors)
    del original["joint_blocks.0.x_block.mlp.fc2.weight"]
    with pytest.raises(
        LoadRefused, match=r"does not fit SD3Transformer2DModel .*lacks 'joint_blocks\.0\.x_block\.mlp\.fc2"
    ):
        load(split.plan(original), CPU)


def test_another_familys_transformer(tmp_path: Path) -> None:
    split = Split("FLUX.1", tmp_path)
    other = Split("SD3", tmp_path / "other")
    with pytest.raises(LoadRefused, match=r"transformer\.safetensors \(transformer\)"):
        load(split.plan(other.tensors), CPU)


def test_scaled_fp8_is_multiplied_by_its_scales(tmp_path: Path) -> None:
    """FLUX, SD3 and others loaded in silence with weights hundreds of times too large."""
    split = Split("SD3", tmp_path)
    scaled: Tensors = {}
    plain: Tensors = {}
    for name, tensor in original_sd3(split.tensors).items():
        plain[name] = tensor
        scaled[PREFIX + name] = tensor
        if tensor.ndim == 2:
            scale = tensor.abs().max() / 400
            small = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[PREFIX + name] = small
            scaled[PREFIX + name.replace(".weight", ".scale_weight")] = scale
            plain[name] = small.float() * scale
    scaled[f"{PREFIX}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    wanted = load(split.plan(plain), CPU).components["transformer"].state_dict()
    found = load(split.plan(scaled), CPU).components["transformer"].state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.lora_up.weight"], "is a LoRA, no transformer"),
        ([f"{PREFIX}input_blocks.0.0.weight"], "is a UNet alone, no transformer"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "is a VAE alone, no transformer"),
    ],
)
def test_what_is_no_transformer(names: list[str], says: str, tmp_path: Path) -> None:
    split = Split("SD3", tmp_path)
    assert says in str(model_files.problem(split.plan({name: torch.ones(2, 2) for name in names})))


def test_a_folder_that_has_no_transformer(tmp_path: Path) -> None:
    split = Split("SD3", tmp_path)
    index = json.loads((split.folder / "model_index.json").read_text())
    del index["transformer"]
    (split.folder / "model_index.json").write_text(json.dumps(index))
    said = model_files.problem(split.plan(split.tensors))
    assert (
        said
        == "transformer: its model_index.json names no transformer that transformer.safetensors could be the weights of"
    )


def test_a_vae_over_a_folder(tmp_path: Path) -> None:
    split = Split("SD3", tmp_path)
    shutil.copyfile(split.folder / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "vae.safetensors")
    (split.folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    model = load(split.plan(split.tensors, vae=str(tmp_path / "vae.safetensors")), CPU)
    expected = split.model.components["vae"].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.components["vae"].state_dict().items())


Type = gguf.GGMLQuantizationType


def write_gguf(
    path: Path, tensors: Tensors, kind: Any = Type.Q8_0, *, vectors: Any = Type.F32, prefix: str = ""
) -> Path:
    """A GGUF file: matrices whose rows are whole blocks in ``kind``, all others in ``vectors``."""
    writer = gguf.GGUFWriter(path, "sd3")
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, tensor in tensors.items():
        is_matrix = tensor.ndim == 2 and tensor.shape[-1] % block == 0
        of = kind if is_matrix else vectors if tensor.ndim == 1 else Type.F32
        data = gguf.quants.quantize(tensor.float().numpy(), of)
        writer.add_tensor(prefix + name, data, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def size_of(model: LoadedModel) -> int:
    return sum(tensor.nbytes for tensor in model.components["transformer"].parameters())


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q5_1, Type.Q4_0, Type.BF16, Type.F16])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_gguf_is_near_what_it_was_made_of(kind: Any, prefix: str, tmp_path: Path) -> None:
    split = Split("SD3", tmp_path)
    file = write_gguf(tmp_path / "some.gguf", original_sd3(split.tensors), kind, prefix=prefix)
    plan = split.plan(transformer=str(file))
    assert model_files.problem(plan) is None
    assert dry_run.problem(plan, lambda read: None) is None
    model = load(plan, CPU)
    selfcheck.check(model)
    assert model.shares, model.reason
    computed = sum(
        each.nbytes
        for part in model._modules().values()
        for name, each in part.named_buffers()
        if name not in part.state_dict()
    )
    assert weight_bytes(plan, CPU) + computed == model.weight_bytes(), "its size is told truly before it is loaded"
    if kind is Type.Q8_0:
        assert size_of(model) < size_of(split.model) / 2


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Type.Q8_0, torch.nan, "some.gguf: proj_out.weight has NaN or infinity in it; fetch the model again"),
        (Type.Q4_0, torch.inf, "some.gguf: proj_out.weight has NaN or infinity in it; fetch the model again"),
        (Type.F16, torch.nan, "some.gguf: proj_out.weight has NaN or infinity in it; fetch the model again"),
        (Type.Q8_0, 0.0, "some.gguf (transformer): all of its weights are zero; fetch the model again"),
    ],
)
def test_gguf_is_read_to_its_last_byte_by_a_deep_check(kind: Any, value: float, says: str, tmp_path: Path) -> None:
    """Its bytes were counted as read, and none of them was: broken blocks passed as sound."""
    split = Split("SD3", tmp_path)
    bad = split.tensors["proj_out.weight"]
    tensors = {name: torch.zeros_like(each) for name, each in split.tensors.items()} if value == 0 else split.tensors
    with warnings.catch_warnings(action="ignore"):  # numpy's, of what is no number
        tensors = {**tensors, "proj_out.weight": torch.full_like(bad, value)}
        file = write_gguf(tmp_path / "some.gguf", tensors, kind)
    plan = split.plan(transformer=str(file))
    assert dry_run.problem(plan) is None, "without its bytes, nothing is wrong"
    assert dry_run.problem(plan, lambda read: None) == says


def test_a_deep_check_tells_of_as_many_bytes_of_a_gguf_as_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split("SD3", tmp_path)
    file = write_gguf(tmp_path / "some.gguf", split.tensors, Type.Q5_1)
    plan = split.plan(transformer=str(file))
    monkeypatch.setattr(dry_run, "_GGUF_CHUNK", 100)  # four blocks of 24 bytes, or 25 numbers
    read: list[int] = []
    assert dry_run.problem(plan, read.append) is None
    stored = [part.tensors() for part in model_files.parts(plan) if part.weights]
    assert sum(read) == sum(tensor.size for tensors in stored for tensor in tensors.values())


def test_gguf_in_diffusers_names(tmp_path: Path) -> None:
    split = Split("FLUX.1", tmp_path)
    plan = split.plan(transformer=str(write_gguf(tmp_path / "some.gguf", split.tensors)))
    selfcheck.check(load(plan, CPU))


def test_vectors_in_bf16_are_refused_by_name(tmp_path: Path) -> None:
    """They failed at the first forward, in unclear words."""
    split = Split("SD3", tmp_path)
    file = write_gguf(tmp_path / "some.gguf", split.tensors, vectors=Type.BF16)
    assert "a vector, in BF16, which diffusers cannot use" in str(
        model_files.problem(split.plan(transformer=str(file)))
    )


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split("SD3", tmp_path)
    plan = split.plan(transformer=str(write_gguf(tmp_path / "some.gguf", split.tensors)))
    monkeypatch.setattr(requirements, "_is_installed", lambda module: module != "gguf")
    assert model_files.problem(plan) == "some.gguf needs gguf: pip install 'darkroom[gguf]'"


def test_gguf_that_lacks_a_tensor(tmp_path: Path) -> None:
    split = Split("SD3", tmp_path)
    del split.tensors["transformer_blocks.1.attn.to_q.weight"]
    plan = split.plan(transformer=str(write_gguf(tmp_path / "some.gguf", split.tensors)))
    with pytest.raises(LoadRefused, match=r"some\.gguf \(transformer\) lacks 1 of the"):
        load(plan, CPU)


def put(at: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:at] + data + whole[at + len(data) :]


def cut(length: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:length]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (put(0, b"GGML"), "is not a GGUF file"),
        (put(4, b"\x07\0\0\0"), "version 7"),
        (put(8, b"\xff" * 8), "counts more than it can have"),
        (put(16, b"\xff" * 8), "counts more than it can have"),
        (put(8, (1000).to_bytes(8, "little")), "damaged header|truncated"),
        (put(24, b"\xff" * 8), "too long|truncated"),
        (cut(20), "truncated"),
        (cut(100), "truncated"),
        (cut(-100), "truncated"),
        (cut(0), "truncated"),
    ],
)
def test_gguf_headers_that_lie(how: Callable[[bytes], bytes], says: str, tmp_path: Path) -> None:
    """The package's own reader trusts them all."""
    file = write_gguf(tmp_path / "some.gguf", {"joint_blocks.0.x.weight": torch.ones(32, 32)})
    file.write_bytes(how(file.read_bytes()))
    with pytest.raises(LoadRefused, match=says):
        model_files.inspect(ModelPlan("m", str(tmp_path), "other", transformer=str(file)))


def test_gguf_tensors_that_lie(tmp_path: Path) -> None:
    name = b"joint_blocks.0.x.weight"
    file = write_gguf(tmp_path / "some.gguf", {name.decode(): torch.ones(32, 32)})
    whole = file.read_bytes()
    at = whole.index(name) + len(name)  # dimensions: 4, sides: 8 each, type: 4, offset: 8
    for offset, data, says in (
        (0, b"\x09\0\0\0", "9 dimensions"),
        (4, (2**63).to_bytes(8, "little"), "truncated"),
        (4, (33).to_bytes(8, "little"), "whole blocks"),
        (20, (16).to_bytes(4, "little"), "IQ2_XXS, which is not read"),
        (20, (99).to_bytes(4, "little"), "type 99, which is not read"),
        (24, (2**62).to_bytes(8, "little"), "truncated"),
    ):
        file.write_bytes(put(at + offset, data)(whole))
        with pytest.raises(LoadRefused, match=says):
            model_files.inspect(ModelPlan("m", str(tmp_path), "other", transformer=str(file)))


def test_the_header_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(64, 32), "b.weight": torch.ones(3, 5, 2), "joint_blocks.0.x.bias": torch.ones(7)}
    file = write_gguf(tmp_path / "some.gguf", tensors, Type.Q4_0)
    from pipelines.facts import gguf as ours

    header = ours.read(file)
    theirs = {each.name: each for each in gguf.GGUFReader(file).tensors}
    assert header.tensors.keys() == theirs.keys()
    for name, stored in header.tensors.items():
        assert stored.shape == tuple(numpy.array(theirs[name].shape)[::-1])
        assert (stored.size, stored.dtype) == (theirs[name].n_bytes, theirs[name].tensor_type.name)
