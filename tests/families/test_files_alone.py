"""Models of single files alone, as owners of ComfyUI have them: a transformer, text encoders and a VAE, or all of them
in one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import msgspec
import pytest
import torch
import transformers
from safetensors.torch import save_file

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, model_files
from pipelines.facts.checkpoint import ARCHITECTURES, TRANSFORMER_BASES
from pipelines.models import conversion, dry_run, library, selfcheck
from pipelines.models.loader import load, weight_bytes
from pipelines.plan import ModelPlan
from tests.families.pieces import CPU, TEXTS, Pieces, Tensors, seal_folder
from tests.families.test_disk import save
from tests.families.test_transformer_files import original_sd3
from tests.original_layout import _open_clip, _vae, write_hollow
from tests.original_transformers import PREFIX, original_flux


@pytest.mark.parametrize("name", ["SD3", "FLUX.1", "Chroma", "Z-Image"])
def test_files_are_the_model_that_its_folder_is(name: str, tmp_path: Path) -> None:
    """Owners of ComfyUI's files had no folder, and were asked for one."""
    pieces = Pieces(name, tmp_path)
    pieces.same_as(pieces.plan())


@pytest.mark.parametrize("name", ["SD3", "FLUX.1"])
def test_a_checkpoint_of_all_parts(name: str, tmp_path: Path) -> None:
    """It was refused, whatever it had."""
    pieces = Pieces(name, tmp_path)
    pieces.same_as(pieces.checkpoint())


def test_stable_diffusion_3_draws_without_its_t5(tmp_path: Path) -> None:
    pieces = Pieces("SD3", tmp_path)
    plan = pieces.checkpoint(without="text_encoder_3")
    pieces.same_as(plan, without=("text_encoder_3",))
    model = load(plan, CPU)
    assert model.components["tokenizer_3"] is None
    selfcheck.check(model)
    plan = msgspec.structs.replace(plan, text_encoders=(pieces.write("text_encoder_3"),))
    pieces.same_as(plan)  # the part that the checkpoint lacks comes from a file


def test_a_folder_that_was_sealed_with_its_t5_serves_a_model_without(tmp_path: Path) -> None:
    """Its files were said to be no longer read, and the model was refused."""
    folder = tmp_path / "whole"
    save("SD3", folder)
    seal_folder(folder)
    plan = Pieces("SD3", tmp_path).checkpoint(without="text_encoder_3")
    plan = msgspec.structs.replace(plan, folder=str(folder))
    assert "text_encoder_3" in model_files.left_out(plan)
    assert model_files.problem(plan) is None
    (folder / "text_encoder_3" / "model.safetensors").unlink()
    assert "text_encoder_3/model.safetensors was sealed, and is missing" in str(model_files.problem(plan))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("tokenizer_2", "tokenizer_9"))
    (folder / "tokenizer_2").rename(folder / "tokenizer_9")
    assert "model_index.json has another content" in str(model_files.problem(plan))


def test_what_is_named_comes_before_what_the_checkpoint_has(tmp_path: Path) -> None:
    pieces = Pieces("FLUX.1", tmp_path)
    plan = pieces.checkpoint()
    pieces.tensors["text_encoder_2"] = {name: each + 1 for name, each in pieces.tensors["text_encoder_2"].items()}
    with_file = msgspec.structs.replace(plan, text_encoders=(pieces.write("text_encoder_2"),))
    for chosen, added in ((plan, 0), (with_file, 1)):
        found = load(chosen, CPU).components["text_encoder_2"].shared.weight
        expected = pieces.model.components["text_encoder_2"].shared.weight + added
        assert torch.allclose(found, expected)


def test_a_text_encoder_over_a_folder(tmp_path: Path) -> None:
    """Without its folder's weights, or in their place."""
    pieces = Pieces("FLUX.1", tmp_path)
    plan = pieces.plan(is_transformer_alone=False)
    pieces.same_as(plan)
    for component in ("transformer", "text_encoder", "text_encoder_2"):
        stem = "diffusion_pytorch_model" if component == "transformer" else "model"
        save_file(pieces.tensors[component], pieces.config / component / f"{stem}.safetensors")
    other = {name: each * 2 for name, each in pieces.tensors["text_encoder_2"].items()}
    plan = pieces.plan(is_transformer_alone=False, transformer=None, text_encoders=(pieces.write("t5", other),))
    model = load(plan, CPU)
    assert torch.equal(model.components["text_encoder_2"].shared.weight, other["shared.weight"])


@torch.no_grad()
def test_scaled_fp8_of_t5_is_multiplied_by_its_scales(tmp_path: Path) -> None:
    pieces = Pieces("FLUX.1", tmp_path)
    plain, scaled = dict(pieces.tensors["text_encoder_2"]), dict(pieces.tensors["text_encoder_2"])
    for name, tensor in pieces.tensors["text_encoder_2"].items():
        if name.endswith(("Attention.q.weight", "wi_0.weight", "wi.weight")):
            scale = tensor.abs().max() / 400
            scaled[name] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[name.replace(".weight", ".scale_weight")] = scale
            plain[name] = scaled[name].float() * scale
    assert plain.keys() < scaled.keys()
    scaled["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    plan = pieces.plan(text_encoders=(pieces.write("text_encoder"), pieces.write("t5", scaled)))
    found = load(plan, CPU).components["text_encoder_2"].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def in_clip_of_another_program(tensors: Tensors) -> Tensors:
    return _open_clip(tensors)


def behind_a_prefix(tensors: Tensors) -> Tensors:
    return {f"text_encoders.clip_l.transformer.{name}": each for name, each in tensors.items()}


def with_its_eyes(tensors: Tensors) -> Tensors:
    more = {"vision_model.embeddings.class_embedding": torch.ones(4), "visual_projection.weight": torch.ones(4, 4)}
    return {**tensors, **more, "logit_scale": torch.ones(())}


@pytest.mark.parametrize("layout", [in_clip_of_another_program, behind_a_prefix, with_its_eyes])
def test_clip_in_the_names_that_people_have(layout: Callable[[Tensors], Tensors], tmp_path: Path) -> None:
    pieces = Pieces("SD3", tmp_path)
    before = weight_bytes(pieces.plan(), CPU)
    pieces.tensors["text_encoder"] = layout(pieces.tensors["text_encoder"])
    pieces.same_as(pieces.plan())
    assert weight_bytes(pieces.plan(), CPU) == before, "what is passed by is not counted"


def test_clip_l_of_stable_diffusion_3_has_no_projection(tmp_path: Path) -> None:
    """In its checkpoints it is left out, and is the identity."""
    pieces = Pieces("SD3", tmp_path)
    del pieces.tensors["text_encoder"]["text_projection.weight"]
    found = load(pieces.plan(), CPU).components["text_encoder"].text_projection.weight
    assert torch.equal(found, torch.eye(16))


def test_what_is_missing_is_said_with_what_to_write(tmp_path: Path) -> None:
    pieces = Pieces("FLUX.1", tmp_path)
    plan = pieces.plan(vae=None, text_encoders=())
    assert model_files.problem(plan) == (
        "transformer.safetensors has no VAE, no text encoder CLIP of width 16, no text encoder T5 of width 32: name"
        " them under vae and text_encoders in models.yaml"
    )
    real = msgspec.structs.replace(plan, folder=str(ARCHITECTURES / "flux-dev"))
    assert "no text encoder CLIP-L (clip_l.safetensors), no text encoder T5 (t5xxl" in str(model_files.problem(real))


def test_text_encoders_that_nobody_asked_for(tmp_path: Path) -> None:
    pieces = Pieces("FLUX.1", tmp_path)
    clip, t5 = pieces.write("text_encoder"), pieces.write("text_encoder_2")
    twice = model_files.problem(pieces.plan(text_encoders=(clip, t5, clip)))
    assert (
        twice == "text_encoder.safetensors is CLIP of width 16, and another has its place: take it out of text_encoders"
    )
    wide = {"text_model.embeddings.token_embedding.weight": torch.ones(4, 24)}
    said = model_files.problem(pieces.plan(text_encoders=(pieces.write("wide", wide), t5)))
    assert said == (
        "wide.safetensors is CLIP of width 24, and this model takes CLIP of width 16, T5 of width 32: take it out of"
        " text_encoders"
    )
    for name, says in (("vae", "is a VAE alone, no text encoder"), ("transformer", "is a transformer alone, no text")):
        assert says in str(model_files.problem(pieces.plan(text_encoders=(pieces.write(name), t5))))
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert "is a GGUF file; text encoders come as" in str(
        model_files.problem(pieces.plan(text_encoders=(str(tmp_path / "some.gguf"),)))
    )
    gone = str(tmp_path / "gone.safetensors")
    assert model_files.problem(pieces.plan(text_encoders=(gone,))) == "gone.safetensors does not exist"


@pytest.mark.parametrize("lacks", ["text_model.final_layer_norm.weight", "encoder.final_layer_norm.weight"])
def test_a_tensor_that_is_missing_is_named(lacks: str, tmp_path: Path) -> None:
    pieces = Pieces("FLUX.1", tmp_path)
    component = "text_encoder" if lacks.startswith("text") else "text_encoder_2"
    names = [name for name in pieces.tensors[component] if lacks.endswith(name)]
    del pieces.tensors[component][names[0]]
    says = rf"^{component}\.safetensors \({component}\) lacks 1 of the .*final_layer_norm"
    with pytest.raises(LoadRefused, match=says):
        load(pieces.plan(), CPU)


def test_files_copied_into_a_folder_are_the_same_model(tmp_path: Path) -> None:
    pieces = Pieces("SD3", tmp_path)
    plan = pieces.checkpoint(without="text_encoder_3")
    (tmp_path / "copy").mkdir()
    written: list[int] = []
    conversion.write(plan, tmp_path / "copy", written.append)
    assert sum(written) == model_files.inspect(plan)
    index = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    copied = msgspec.structs.replace(pieces.model.plan, folder=str(tmp_path / "copy"))
    pieces.same_as(copied, without=("text_encoder_3",))


def real_parts(base: str) -> dict[str, torch.nn.Module]:
    """The models of a base's own configurations, without memory."""
    folder = ARCHITECTURES / base
    index = json.loads((folder / "model_index.json").read_text())
    made: dict[str, torch.nn.Module] = {}
    for name, (where, called) in (pair for pair in index.items() if isinstance(pair[1], list)):
        if where is None or not (folder / name / "config.json").is_file():
            continue
        loaded = getattr(diffusers if where == "diffusers" else transformers, called)
        if where == "diffusers":
            made[name], _ = library.empty_model(loaded, folder / name)
        else:
            with torch.device("meta"):
                made[name] = loaded(loaded.config_class.from_pretrained(str(folder / name)))
    return made


def test_kontext_is_dev_but_for_its_pipeline() -> None:
    for path in (ARCHITECTURES / "flux-dev").rglob("*.json"):
        other = ARCHITECTURES / "flux-kontext" / path.relative_to(ARCHITECTURES / "flux-dev")
        assert path.name == "model_index.json" or other.read_text() == path.read_text()


@pytest.mark.parametrize("base", [base for base in TRANSFORMER_BASES if base != "flux-kontext"])
def test_our_configurations_fit_files_of_real_size(base: str, words: bytes, tmp_path: Path) -> None:
    """Headers as people's files have them, and holes in the place of their bytes."""
    parts = real_parts(base)
    tensors = parts["transformer"].state_dict()
    if base.startswith("flux"):
        tensors = original_flux(tensors)
    elif base == "sd3-medium":
        tensors = original_sd3(tensors, 24)
    tensors = {PREFIX + name: tensor for name, tensor in tensors.items()}
    file = write_hollow(tmp_path / "real.safetensors", tensors)
    told = checkpoint.tell(file)
    assert told.base == base
    vae = write_hollow(tmp_path / "ae.safetensors", _vae(parts["vae"].state_dict(), parts["vae"]))
    texts = []
    for name in TEXTS:
        if name in parts:
            texts.append(str(write_hollow(tmp_path / f"{name}.safetensors", parts[name].state_dict())))
    (tmp_path / "spiece.model").write_bytes(words)
    plan = ModelPlan(
        *("m", str(ARCHITECTURES / base), "auto"),
        is_transformer_alone=True,
        transformer=str(file),
        vae=str(vae),
        text_encoders=tuple(reversed(texts)),
        tokenizer=str(tmp_path / "spiece.model"),
    )
    assert model_files.problem(plan) is None
    assert dry_run.problem(plan) is None
    assert model_files.inspect(plan) > 4e9
    if base == "flux-dev":
        assert model_files.problem(msgspec.structs.replace(plan, folder=str(ARCHITECTURES / "flux-kontext"))) is None
        other = "flux-schnell"
        said = model_files.problem(msgspec.structs.replace(plan, folder=str(ARCHITECTURES / other)))
        assert said == f"real.safetensors is {base}, not {other}: take base out of models.yaml"


def test_a_flux_that_is_not_served_is_named(tmp_path: Path) -> None:
    shapes = {"img_in.weight": (3072, 384), "vector_in.in_layer.weight": (3072, 768), "double_blocks.0.x": (1, 1)}
    file = write_hollow(tmp_path / "fill.safetensors", {n: torch.empty(s, device="meta") for n, s in shapes.items()})
    plan = ModelPlan("m", str(ARCHITECTURES), "auto", is_transformer_alone=True, transformer=str(file))
    said = model_files.problem(plan)
    assert said == "fill.safetensors is a transformer alone: it is FLUX.1 Fill, which is not served"
    small = {"img_in.weight": (3072, 64), "vector_in.in_layer.weight": (3072, 768), "double_blocks.0.x": (1, 1)}
    write_hollow(file, {name: torch.empty(shape, device="meta") for name, shape in small.items()})
    assert "of no base that is known (flux-dev, flux-schnell" in str(model_files.problem(plan))
