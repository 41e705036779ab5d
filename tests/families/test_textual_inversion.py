"""Embeddings: prompts that say their word draw what bare diffusers draws with it, all others what they drew before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import pytest
import torch
import transformers
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors.torch import save_file

from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.sink import KeepingSink
from pipelines.errors import LoadRefused
from pipelines.facts.checkpoint import ARCHITECTURES
from pipelines.facts.families import FAMILIES
from pipelines.facts.textual_inversion import SLOTS
from pipelines.models import dry_run, inversion, single_file
from pipelines.models.loader import LoadedModel, load
from pipelines.plan import EmbeddingFile, ModelPlan
from tests.families import tiny
from tests.families.drive import draw, drawing, half_mask, picture, run
from tests.families.test_disk import save

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
# The tensors of a file for each row, by the parts of the pipeline that bare diffusers is given them for.
FILES: dict[str, dict[str, tuple[str, int, int]]] = {
    "SD 1.x": {"": ("<any>", 3, 16)},
    "LCM": {"": ("emb_params", 3, 16)},
    "SDXL": {"": ("clip_l", 3, 16), "_2": ("clip_g", 2, 16)},
    "FLUX.1": {"": ("clip_l", 3, 16), "_2": ("t5xxl", 2, 32)},
    "Chroma": {"": ("t5", 3, 32)},
}


def tensors_of(name: str, seed: int = 7) -> Tensors:
    numbers = torch.Generator().manual_seed(seed)
    return {key: torch.randn(count, width, generator=numbers) for key, count, width in FILES[name].values()}


class Saved:
    """A tiny model in a folder, and a file of vectors for it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.built = save(name, folder / "model")
        self.file = folder / "toy.safetensors"
        save_file(tensors_of(name), self.file)
        self.plan = msgspec.structs.replace(self.built.plan, folder=str(folder / "model"))

    def with_words(self, *words: str) -> ModelPlan:
        files = tuple(EmbeddingFile(word, str(self.file)) for word in words)
        return msgspec.structs.replace(self.plan, embeddings=files)


def bare(saved: Saved, **arguments: Any) -> torch.Tensor:
    """What diffusers alone draws with the file, loaded as its own documentation has it."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(saved.plan.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for end, (key, _, _) in FILES[saved.name].items():
        parts = {name: getattr(pipeline, f"{name}{end}") for name in ("tokenizer", "text_encoder")}
        pipeline.load_textual_inversion(tensors_of(saved.name)[key], token="<toy>", **parts)
    generator = [torch.Generator("cpu").manual_seed(1)]
    with torch.no_grad():
        drawn: torch.Tensor = pipeline(
            generator=generator, output_type="pt", num_inference_steps=2, width=32, height=32, **arguments
        ).images
    return drawn


def one(model: LoadedModel, prompt: str, **fields: Any) -> torch.Tensor:
    return draw(model, [drawing(model, 1, prompt, steps=2, **fields)]).pictures["1"]


@pytest.mark.parametrize("name", FILES)
def test_a_prompt_that_says_the_word_is_what_bare_diffusers_draws(name: str, tmp_path: Path) -> None:
    saved = Saved(name, tmp_path)
    plan = saved.with_words("<toy>")
    assert dry_run.problem(plan) is None
    model, before = load(plan, CPU), load(saved.plan, CPU)
    prompt, guidance = "an old <toy> on a map", model.family.guidance
    drawn = one(model, prompt)
    assert torch.allclose(drawn, bare(saved, prompt=prompt, guidance_scale=guidance), atol=1e-5)
    assert not torch.allclose(drawn, one(before, prompt), atol=1e-2)
    assert torch.equal(one(model, "an old map"), one(before, "an old map")), "neighbours are as they were"


def test_a_word_in_a_negative_prompt_counts_too(tmp_path: Path) -> None:
    saved = Saved("SDXL", tmp_path)
    model = load(saved.with_words("<toy>"), CPU)
    drawn = one(model, "an old map", negative_prompt="<toy>, dim")
    expected = bare(saved, prompt="an old map", negative_prompt="<toy>, dim", guidance_scale=model.family.guidance)
    assert torch.allclose(drawn, expected, atol=1e-5)


@pytest.mark.parametrize("mask", [False, True])
def test_all_vectors_of_a_word_are_heard_where_a_pipeline_does_not_write_them_out(mask: bool, tmp_path: Path) -> None:
    """FLUX.1's pipelines for sources and masks, in diffusers 0.42, hear the first vector of a word and no other."""
    saved = Saved("FLUX.1", tmp_path)
    model = load(saved.with_words("<toy>"), CPU)
    first = load(saved.with_words("<toy>"), CPU)  # the same word, but nothing in its other vectors
    for end, (_, count, _) in FILES["FLUX.1"].items():
        numbers = getattr(first._base, f"tokenizer{end}").convert_tokens_to_ids([f"<toy>_{n}" for n in range(1, count)])
        getattr(first._base, f"text_encoder{end}").get_input_embeddings().weight.data[numbers] = 0
    fields: dict[str, Any] = {"sources": (picture(32, 32),), "strength": 1.0, "guidance": 3.5}
    if mask:
        fields["mask"] = half_mask(32, 32)
    assert not torch.allclose(one(model, "a <toy>", **fields), one(first, "a <toy>", **fields), atol=1e-4)


def test_words_of_several_files_are_kept_apart(tmp_path: Path) -> None:
    saved = Saved("SD 1.x", tmp_path)
    save_file({"x": torch.zeros(16)}, tmp_path / "other.safetensors")
    plan = saved.with_words("<toy>")
    both = msgspec.structs.replace(
        plan, embeddings=(EmbeddingFile("<else>", str(tmp_path / "other.safetensors")), *plan.embeddings)
    )
    assert torch.equal(one(load(both, CPU), "a <toy>"), one(load(plan, CPU), "a <toy>"))


def test_kept_prompts_are_those_of_one_plan(tmp_path: Path) -> None:
    """The same ids mean another word after its file was replaced: the model is loaded anew, and encodes anew."""
    saved, cache, pictures = Saved("SD 1.x", tmp_path), EmbeddingCache(), []
    for seed in (7, 8):
        save_file(tensors_of("SD 1.x", seed), saved.file)
        model, sink = load(saved.with_words("<toy>"), CPU), KeepingSink()
        run(model, [drawing(model, 1, "a <toy>", steps=2)], sink, cache)
        pictures.append(sink.pictures["1"])
        del model
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "word", "tensors", "says"),
    [
        ("SD 1.x", "<toy>", {"x": torch.zeros(2, 24)}, r"vectors of 24 numbers, and text_encoder takes 16"),
        ("SD 1.x", "image", {"x": torch.zeros(2, 16)}, "image is in tokenizer's vocabulary already"),
        ("SDXL", "<toy>", {"clip_l": torch.zeros(2, 16), "clip_g": torch.zeros(2, 8)}, "text_encoder_2 takes 16"),
        ("SDXL", "<toy>", {"clip_l": torch.zeros(2, 16)}, "has no clip_g"),
        ("SD3", "<toy>", {"x": torch.zeros(2, 16)}, "family stable-diffusion-3 take none"),
        ("Chroma", "detailed", {"x": torch.zeros(2, 32)}, "vocabulary already"),
    ],
)
def test_what_cannot_be_taught_is_refused_by_check_and_at_load(
    name: str, word: str, tensors: Tensors, says: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    plan = msgspec.structs.replace(save(name, folder).plan, folder=str(folder))
    save_file(tensors, tmp_path / "bad.safetensors")
    plan = msgspec.structs.replace(plan, embeddings=(EmbeddingFile(word, str(tmp_path / "bad.safetensors")),))
    said = dry_run.problem(plan)
    assert said is not None
    with pytest.raises(LoadRefused, match=f"^embeddings: {word}: .*{says}") as refused:
        load(plan, CPU)
    assert said == str(refused.value)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_vectors_that_are_no_numbers_are_refused_by_check_and_at_load(number: float, tmp_path: Path) -> None:
    """The check passed them, and the model that it had called sound was refused by every request."""
    saved = Saved("SD 1.x", tmp_path)
    save_file({"x": torch.full((2, 16), number)}, saved.file)
    said = "embeddings: <toy>: toy.safetensors has NaN or infinity in it; fetch it again"
    assert dry_run.problem(saved.with_words("<toy>")) == said
    with pytest.raises(LoadRefused, match=r"^embeddings: <toy>") as refused:
        load(saved.with_words("<toy>"), CPU)
    assert str(refused.value) == said


@pytest.fixture(scope="module")
def clip_words() -> Any:
    """CLIP's own tokenizer, with the words that ship."""
    return single_file.tokenizer(ARCHITECTURES / "sd15" / "tokenizer")


def test_a_word_that_a_tokenizer_folds_into_its_own_is_refused(clip_words: Any, tmp_path: Path) -> None:
    """CLIP's folds case: "Cat" as a token took the place of "cat" in every prompt, and diffusers said nothing."""
    save_file({"x": torch.zeros(2, 768)}, tmp_path / "cat.safetensors")
    for word in ("cat", "Cat", "CAT"):
        files = (EmbeddingFile(word, str(tmp_path / "cat.safetensors")),)
        plan = ModelPlan("m", "", "stable-diffusion", embeddings=files)
        with pytest.raises(LoadRefused, match=f"^embeddings: {word}: .*already"):
            inversion.check(plan, {"tokenizer": clip_words, "text_encoder": None})


@pytest.mark.parametrize("weighted", [False, True])
def test_a_word_in_capitals_is_heard_with_all_of_its_vectors(weighted: bool, clip_words: Any, tmp_path: Path) -> None:
    """CLIP's tokenizer finds a word in any case; diffusers, which looks for its own, wrote none of its vectors out but
    the first: EasyNegative, as its authors spell it, was a third of itself."""
    save_file({"x": torch.randn(3, 16, generator=torch.Generator().manual_seed(3))}, tmp_path / "easy.safetensors")
    built = tiny.build("SD 1.x")
    config = built._base.text_encoder.config
    config.vocab_size = len(clip_words)
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(config).eval()
    built._base.register_modules(tokenizer=copy.deepcopy(clip_words), text_encoder=encoder)
    files = (EmbeddingFile("EasyNegative", str(tmp_path / "easy.safetensors")),)
    plan = msgspec.structs.replace(built.plan, embeddings=files)
    inversion.load(plan, built._base.components)
    model = LoadedModel(plan, built._base, built.family, CPU)

    def with_negative(text: str) -> torch.Tensor:
        return one(model, "an old map", negative_prompt=text, prompt_weights=weighted, guidance=5.0)

    whole = "easynegative, (dim:1.3)" if weighted else "easynegative, dim"
    drawn = with_negative(whole)
    for word in ("EasyNegative", "EASYNEGATIVE"):
        assert torch.equal(with_negative(whole.replace("easynegative", word)), drawn)
    encoder.get_input_embeddings().weight.data[-2:] = 0
    assert not torch.allclose(with_negative(whole), drawn, atol=1e-4), "the others counted"


def test_the_families_that_take_embeddings_are_those_whose_pipelines_do() -> None:
    for family in FAMILIES:
        classes = [getattr(diffusers, name) for name in family.classes]
        if classes:  # SDXL's refiner has none of its own
            assert any(issubclass(each, TextualInversionLoaderMixin) for each in classes) == (family.name in SLOTS)


def test_the_rows_are_of_families_that_take_embeddings() -> None:
    assert {tiny.BUILDERS[name][0] for name in FILES} <= SLOTS.keys()
