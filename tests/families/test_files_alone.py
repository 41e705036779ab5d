"""Models of single files alone, as owners of ComfyUI have them: a transformer, text encoders and a VAE, or all of them
in one checkpoint."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, model_files, seal
from pipelines.facts import folder as model_folder
from pipelines.facts.checkpoint import ARCHITECTURES, TRANSFORMER_BASES
from pipelines.models import conversion, dry_run, library, selfcheck
from pipelines.models.loader import load, weight_bytes
from pipelines.plan import ModelPlan
from tests.families.test_disk import save, set_class
from tests.families.test_transformer_files import original_sd3
from tests.original_layout import _open_clip, _vae, write_hollow
from tests.original_transformers import PREFIX, original_flux

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Pieces:
    """A tiny model whose weights lie in files of their own, and whose folder has configurations alone."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model = save(name, folder / "config")
        self.folder, self.config = folder, folder / "config"
        self.tensors: dict[str, Tensors] = {}
        for component in ("transformer", "vae", *TEXTS):
            for path in (self.config / component).glob("*.safetensors"):
                self.tensors[component] = load_file(path)
                path.unlink()
        self.tensors["vae"] = _vae(self.tensors["vae"], self.model.components["vae"])
        if name == "SD3":
            self.tensors["transformer"] = original_sd3(self.tensors["transformer"])

    def write(self, component: str, tensors: Tensors | None = None) -> str:
        path = self.folder / f"{component}.safetensors"
        found = self.tensors[component] if tensors is None else tensors
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
        return str(path)

    def plan(self, **more: Any) -> ModelPlan:
        known = {
            "folder": str(self.config),
            "is_transformer_alone": True,
            "transformer": self.write("transformer"),
            "vae": self.write("vae"),
            "text_encoders": tuple(self.write(each) for each in TEXTS if each in self.tensors),
        }
        return msgspec.structs.replace(self.model.plan, **{**known, **more})

    def checkpoint(self, *, without: str = "") -> ModelPlan:
        """All of it in one file, as ComfyUI writes it."""
        names = {"text_encoder": "clip_1", "text_encoder_2": "clip_2", "text_encoder_3": "t5xxl"}  # of one width here
        if "text_encoder_3" not in self.tensors:
            names["text_encoder_2"] = "t5xxl"
        tensors = {PREFIX + name: each for name, each in self.tensors["transformer"].items()}
        tensors |= {f"vae.{name}": each for name, each in self.tensors["vae"].items()}
        for component, called in names.items():
            if component in self.tensors and component != without:
                prefix = f"text_encoders.{called}."
                tensors |= {f"{prefix}transformer.{name}": each for name, each in self.tensors[component].items()}
                tensors[f"{prefix}logit_scale"] = torch.ones(())
        file = self.write("all", tensors)
        return msgspec.structs.replace(self.model.plan, folder=str(self.config), checkpoint=file)

    def same_as(self, plan: ModelPlan, without: tuple[str, ...] = ()) -> None:
        assert model_files.problem(plan) is None
        assert dry_run.problem(plan, lambda read: None) is None
        loaded = load(plan, CPU)
        for component in ("transformer", "vae", *TEXTS):
            expected = self.model.components.get(component)
            if expected is None:
                continue
            if component in without:
                assert loaded.components[component] is None
                continue
            found = loaded.components[component].state_dict()
            for name, tensor in expected.state_dict().items():
                assert torch.equal(found[name], tensor), f"{component}: {name}"


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


def seal_folder(folder: Path) -> None:
    (folder / seal.NAME).write_bytes(seal.make(folder, model_folder.files_read(folder), lambda read: None))


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


@pytest.fixture(scope="module")
def words() -> bytes:
    """T5's words in small."""
    return trained_on("cat", "dog", "red")


def trained_on(*some: str) -> bytes:
    model = io.BytesIO()
    text = [f"a {a} and the {b} on an old map" for a in some for b in ("house", "tree", "apple")]
    trained: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 50}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 10), model_writer=model, hard_vocab_limit=False, **trained
    )
    return model.getvalue()


def without_words(pieces: Pieces) -> Pieces:
    """As our own configurations are: no words of T5."""
    take_words(pieces.config)
    return pieces


def take_words(model: Path) -> None:
    folder = model / "tokenizer_2"
    for path in folder.iterdir():
        path.unlink()
    config = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 10}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512}))
    set_class(model, "tokenizer_2", "transformers", "T5TokenizerFast")


@pytest.mark.parametrize("form", ["spiece.model", "tokenizer.json", "folder"])
def test_the_words_of_t5_are_its_owners(form: str, words: bytes, tmp_path: Path) -> None:
    pieces = without_words(Pieces("FLUX.1", tmp_path))
    (tmp_path / "words").mkdir()
    (tmp_path / "blob").write_bytes(words)
    spiece = tmp_path / "words" / "spiece.model"
    spiece.symlink_to(tmp_path / "blob")  # as in a hub's cache
    plan = pieces.plan(tokenizer=str(tmp_path / "words" if form == "folder" else spiece))
    if form == "tokenizer.json":
        load(plan, CPU).components["tokenizer_2"].save_pretrained(tmp_path / "fast")
        plan = pieces.plan(tokenizer=str(tmp_path / "fast" / "tokenizer.json"))
    assert model_files.problem(plan) is None
    assert dry_run.problem(plan) is None
    tokenizer = load(plan, CPU).components["tokenizer_2"]
    ids = tokenizer("a cat", padding="max_length", max_length=8).input_ids
    assert ids[-1] == 0
    assert 1 in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a cat"
    assert tokenizer.model_max_length == 512


def test_words_that_are_named_come_before_those_of_the_folder(words: bytes, tmp_path: Path) -> None:
    """They were sealed and packed, and those of the config folder were drawn with, without a word."""
    folder = tmp_path / "whole"
    save("FLUX.1", folder)
    take_words(folder)
    (folder / "tokenizer_2" / "spiece.model").write_bytes(trained_on("zebra", "maze", "quiz"))
    seal_folder(folder)
    named = tmp_path / "spiece.model"
    named.write_bytes(words)
    plan = Pieces("FLUX.1", tmp_path).plan(folder=str(folder))
    chosen = msgspec.structs.replace(plan, tokenizer=str(named))
    assert model_files.problem(chosen) is None
    assert dry_run.problem(chosen) is None
    assert "z" in "".join(load(plan, CPU).components["tokenizer_2"].get_vocab())
    assert "z" not in "".join(load(chosen, CPU).components["tokenizer_2"].get_vocab())
    named_seal = tmp_path / seal.name_for(named.name)
    named_seal.write_bytes(seal.make(tmp_path, [named.name], lambda read: None))
    named.write_bytes(words + b"0")
    assert str(model_files.problem(chosen)).startswith("spiece.model has ")
    assert model_files.problem(plan) is None


def test_words_that_are_missing_or_wrong(words: bytes, tmp_path: Path) -> None:
    pieces = without_words(Pieces("FLUX.1", tmp_path))
    said = str(model_files.problem(pieces.plan()))
    assert said.startswith("T5 is without its words, which do not ship with Darkroom: name its tokenizer.json or")
    (tmp_path / "empty").mkdir()
    for named, says in (
        (tmp_path / "nowhere.json", "tokenizer: nowhere.json does not exist"),
        (tmp_path / "empty", "tokenizer: empty/ has neither tokenizer.json nor spiece.model"),
        (Path(pieces.write("vae")), "tokenizer: vae.safetensors is no tokenizer.json or spiece.model"),
    ):
        assert says in str(model_files.problem(pieces.plan(tokenizer=str(named))))
    others = tmp_path / "other" / "tokenizer.json"
    others.parent.mkdir()
    for content, says in (("", "is empty"), ("{", "is not valid JSON"), ("[" * 10**5, "is not valid JSON")):
        others.write_text(content)
        said = str(model_files.problem(pieces.plan(tokenizer=str(others))))
        assert said == f"tokenizer: tokenizer.json {says}"
    others.write_text((pieces.config / "tokenizer" / "tokenizer.json").read_text())
    said = str(dry_run.problem(pieces.plan(tokenizer=str(others))))
    assert "tokenizer.json is not T5's" in said or "could not be built" in said
    with pytest.raises(LoadRefused):
        load(pieces.plan(tokenizer=str(others)), CPU)
    whole = Pieces("Z-Image", tmp_path / "z")
    assert "no T5 text encoder that would ask for it" in str(model_files.problem(whole.plan(tokenizer=str(others))))


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


def test_the_words_of_t5_are_copied_too(words: bytes, tmp_path: Path) -> None:
    pieces = without_words(Pieces("FLUX.1", tmp_path))
    (tmp_path / "spiece.model").write_bytes(words)
    (tmp_path / "copy").mkdir()
    conversion.write(pieces.plan(tokenizer=str(tmp_path / "spiece.model")), tmp_path / "copy", lambda written: None)
    pieces.same_as(msgspec.structs.replace(pieces.model.plan, folder=str(tmp_path / "copy")))


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
