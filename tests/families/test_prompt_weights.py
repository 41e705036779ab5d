"""Prompts with weights, and longer than an encoder hears at once: what pipelines are given, and who shares steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pipelines.engine import prompts
from pipelines.engine.embeddings import EmbeddingCache
from pipelines.engine.prompts import MAX_CHUNKS, prompt_arguments
from pipelines.engine.sink import KeepingSink
from pipelines.facts.prompt_weights import FAMILIES, Section, TooHeavy, parse
from pipelines.models.loader import LoadedModel, load
from pipelines.plan import EmbeddingFile
from tests.families import tiny
from tests.families.drive import check, draw, drawing, half_mask, picture, run
from tests.families.test_textual_inversion import Saved

BUILDS = ["SD 1.x", "SDXL", "LCM"]
ROOM = 75
PROMPT = "a red apple on a table"
LETTERS = "".join("qwrtzpsdfghjklyxcvbnm"[i * i % 21] for i in range(400))  # to the tokenizer here a token each


@pytest.fixture(scope="module", params=BUILDS)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    built = tiny.build(request.param)
    check(built)
    assert built.shares, built.reason
    return built


@pytest.fixture(scope="module")
def sdxl() -> LoadedModel:
    return tiny.build("SDXL")


@pytest.fixture(scope="module")
def sd() -> LoadedModel:
    return tiny.build("SD 1.x")


def one(model: LoadedModel, prompt: str, **fields: Any) -> torch.Tensor:
    return draw(model, [drawing(model, 1, prompt, **{"steps": 2, "prompt_weights": True, **fields})]).pictures["1"]


def given(model: LoadedModel, prompt: str, **fields: Any) -> dict[str, Any]:
    """What the pipeline is given for a prompt whose weights are read."""
    pipeline = model._base
    asked = drawing(model, 1, prompt, prompt_weights=True, **fields)
    texts = {"prompt": asked.spec.prompt, "negative_prompt": asked.spec.negative_prompt, "num_inference_steps": 4}
    found = prompt_arguments(pipeline, model.family, asked, texts)
    assert found.pop("num_inference_steps") == 4
    return found


def encode(model: LoadedModel, prompt: str) -> torch.Tensor:
    """What the pipeline itself makes of a text."""
    with torch.no_grad():
        made: torch.Tensor = model._base.encode_prompt(
            prompt, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
    return made


def pooled(model: LoadedModel, prompt: str) -> torch.Tensor:
    """The same of SDXL's pooled state."""
    with torch.no_grad():
        made: torch.Tensor = model._base.encode_prompt(prompt, do_classifier_free_guidance=False)[2]
    return made


def test_a_prompt_of_weight_one_is_the_plain_picture(model: LoadedModel) -> None:
    plain = one(model, PROMPT, prompt_weights=False, negative_prompt="dim")
    assert torch.equal(one(model, PROMPT, negative_prompt="dim"), plain)
    assert torch.equal(one(model, "(a red:1) apple on a table", negative_prompt="(dim:1.0)"), plain)
    assert not torch.allclose(one(model, "a (red:1.3) apple on a table", negative_prompt="dim"), plain, atol=1e-4)


def test_without_the_word_in_models_yaml_brackets_are_characters(model: LoadedModel) -> None:
    written, plain = "a (red:1.3) apple", {"prompt_weights": False}
    assert torch.equal(one(model, written, **plain), one(model, r"a \(red:1.3\) apple"))


def test_each_token_counts_as_much_as_is_said_and_the_mean_stays(sd: LoadedModel, sdxl: LoadedModel) -> None:
    weights = torch.ones(77)
    weights[1 + 2 : 1 + 5] = 1.5
    weights[1 + 5 : 1 + 8] = 0.5
    for model in (sd, sdxl):
        found = given(model, "qq(wrt:1.5)(zps:0.5)df")["prompt_embeds"]
        plain = encode(model, "qqwrtzpsdf")
        for start in range(0, plain.shape[-1], 16):  # each encoder its own mean
            part, whole = found[..., start : start + 16], plain[..., start : start + 16]
            expected = whole * weights[:, None]
            assert torch.allclose(part, expected * (whole.mean() / expected.mean()), atol=1e-6)
            assert torch.allclose(part.mean(), whole.mean(), atol=1e-6)


def test_chunks_are_encoded_as_prompts_of_their_own(sd: LoadedModel, sdxl: LoadedModel) -> None:
    for model in (sd, sdxl):
        first, rest = LETTERS[:ROOM], LETTERS[ROOM:120]
        for prompt, parts in (
            (LETTERS[:120], (first, rest)),
            ("a cat BREAK a dog", ("a cat", "a dog")),
            (LETTERS[:70] + "," + LETTERS[70:90], (LETTERS[:70] + ",", LETTERS[70:90])),  # at the last comma
            (LETTERS[:40] + "," + LETTERS[40:90], (LETTERS[:40] + "," + LETTERS[40:74], LETTERS[74:90])),  # too far
            (LETTERS[:ROOM] + ",", (first, ",")),
        ):
            expected = torch.cat([encode(model, part) for part in parts], 1)
            assert torch.equal(given(model, prompt)["prompt_embeds"], expected), prompt


def test_a_prompt_that_just_fits_is_left_to_the_pipeline(sd: LoadedModel) -> None:
    assert given(sd, LETTERS[:ROOM])["prompt"] == LETTERS[:ROOM]
    assert "prompt_embeds" in given(sd, LETTERS[: ROOM + 1])


def test_a_prompt_is_cut_once_for_each_encoder(sdxl: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was tokenised and cut a second time where any was weighted, on the thread that all requests wait for."""
    asked: list[str] = []
    words = prompts._Encoder._words

    def note(self: Any, section: Section) -> Any:
        asked.extend(piece.text for piece in section)
        return words(self, section)

    monkeypatch.setattr(prompts._Encoder, "_words", note)
    assert "prompt_embeds" in given(sdxl, "a (red:1.3) cat", negative_prompt=LETTERS)
    assert sorted(asked) == sorted([*("a ", "red", " cat"), LETTERS] * 2)


def test_both_halves_of_guidance_have_one_length(sd: LoadedModel, sdxl: LoadedModel) -> None:
    long = LETTERS[:120]
    for model in (sd, sdxl):
        nothing, dim = encode(model, ""), encode(model, "dim")
        found = given(model, long, negative_prompt="dim")
        assert torch.equal(found["negative_prompt_embeds"], torch.cat([dim, nothing], 1))
        found = given(model, "dim", negative_prompt=long)
        assert torch.equal(found["prompt_embeds"], torch.cat([dim, nothing], 1))
    assert torch.equal(given(sd, long)["negative_prompt_embeds"], torch.cat([encode(sd, "")] * 2, 1))
    assert "negative_prompt_embeds" not in given(sd, long, guidance=1.0), "nobody hears it"


def test_sdxl_keeps_the_zeros_of_no_negative_prompt_and_pools_the_first_chunk(sdxl: LoadedModel) -> None:
    """compel, and whoever encodes "" in their place, makes other pictures of the same prompt."""
    found = given(sdxl, f"(a cat:1.2) BREAK {LETTERS}")
    assert found.keys() == {"prompt_embeds", "pooled_prompt_embeds"}, "the pipeline makes its zeros itself"
    assert torch.equal(found["pooled_prompt_embeds"], pooled(sdxl, "a cat"))
    found = given(sdxl, "a cat", negative_prompt="(dim:1.2)")
    assert torch.equal(found["negative_pooled_prompt_embeds"], pooled(sdxl, "dim"))
    assert torch.equal(found["prompt_embeds"], encode(sdxl, "a cat"))


def test_a_refiner_hears_by_its_second_encoder_alone() -> None:
    model = tiny.build("SDXL")
    model._base.register_modules(text_encoder=None, tokenizer=None)
    found = given(model, "(a cat:1.0) BREAK a dog", negative_prompt="(dim:1.3)")
    assert torch.equal(found["prompt_embeds"], torch.cat([encode(model, "a cat"), encode(model, "a dog")], 1))
    assert torch.equal(found["pooled_prompt_embeds"], pooled(model, "a cat"))
    assert found["negative_prompt_embeds"].shape == found["prompt_embeds"].shape == (1, 154, 16)


def test_a_prompt_is_heard_up_to_a_bound(sd: LoadedModel) -> None:
    long = LETTERS * 9  # 3,600
    found = given(sd, long)["prompt_embeds"]
    assert found.shape[1] == 77 * MAX_CHUNKS
    assert torch.equal(found, given(sd, long[: ROOM * MAX_CHUNKS])["prompt_embeds"])
    assert given(sd, "a BREAK " * 4000)["prompt_embeds"].shape[1] == 77 * MAX_CHUNKS


def test_a_word_of_several_vectors_is_not_cut(tmp_path: Path) -> None:
    saved = Saved("SD 1.x", tmp_path)
    model = load(saved.with_words("<toy>"), torch.device("cpu"))
    found = given(model, f"{LETTERS[:73]}<toy> (a:1.1)")["prompt_embeds"]  # three vectors, and room for two
    assert torch.equal(found[:, :77], encode(model, LETTERS[:73]))
    heavy, light = one(model, "a (<toy>:1.4)"), one(model, "a <toy>")
    assert not torch.allclose(heavy, light, atol=1e-4)
    without = msgspec.structs.replace(saved.plan, embeddings=(EmbeddingFile("<other>", str(saved.file)),))
    assert not torch.allclose(one(load(without, torch.device("cpu")), "a (<toy>:1.4)"), heavy, atol=1e-4)


@pytest.mark.parametrize("build", BUILDS)
def test_weighted_and_plain_long_and_short_are_together_what_they_are_alone(build: str) -> None:
    model = tiny.build(build)
    check(model)
    options: dict[str, Any] = {"prompt_weights": True}
    drawings = [
        drawing(model, 1, PROMPT, steps=3),
        drawing(model, 2, "a (red:1.4) apple", steps=4, **options),
        drawing(model, 3, PROMPT, steps=3, n=2, negative_prompt="[dim]", **options),
        drawing(model, 4, LETTERS[:120], steps=3, **options),
        drawing(model, 5, f"({LETTERS[:100]}:0.8)", steps=4, negative_prompt="dim", **options),
        drawing(model, 6, LETTERS[:200], steps=2, **options),
    ]
    alone = [draw(model, [each]) for each in drawings]
    together = draw(model, drawings)
    assert together.fallbacks == 0
    # Those of 77 tokens share their steps, those of 154 theirs, and the one of 231 is alone.
    assert together.forwards == 4 + 4 + 2
    assert sum(each.forwards for each in alone) == 19
    for each, before in zip(drawings, alone, strict=True):
        difference = (together.pictures[each.job_id] - before.pictures[each.job_id]).abs().max()
        assert float(difference) <= 1e-5, each.job_id


@pytest.mark.parametrize(
    "prompt",
    [
        *("((((a", "a)))", "[a", "()", "(:1.2)", "BREAK", r"\ "),
        *("(a:nan)", "(a:1e9)", "(a:-1)", "(a:0)", "(a:-10) (b:10)", "(a:1)(b:-1)"),
        *("(" * 32_000, "[" * 2000 + "a", "(a)b" * 3000),
    ],
    ids=lambda prompt: prompt[:10],
)
def test_whatever_is_written_is_drawn(prompt: str, sd: LoadedModel) -> None:
    drawn = one(sd, prompt, negative_prompt=prompt)
    assert torch.isfinite(drawn).all()


def test_what_was_encoded_is_kept_whatever_its_weights(sdxl: LoadedModel) -> None:
    cache, sink = EmbeddingCache(), KeepingSink()
    prompts = ["a cat", "(a cat:1.2)", "[a cat] BREAK a dog", "a dog"]
    drawings = [
        drawing(sdxl, number, prompt, steps=2, prompt_weights=True, negative_prompt="dim")
        for number, prompt in enumerate(prompts)
    ]
    for each in drawings:
        run(sdxl, [each], sink, cache)
    assert not sink.errors, sink.errors
    assert cache.misses == 2 * len(["a cat", "a dog", "dim", ""]), "two encoders"
    for each in drawings:
        alone = draw(sdxl, [each]).pictures[each.job_id]
        assert float((sink.pictures[each.job_id] - alone).abs().max()) <= 1e-5, each.spec.prompt


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_the_plain_picture_too(dtype: torch.dtype) -> None:
    model = tiny.build("SDXL")
    model._base.to(dtype)
    plain = one(model, "a cat", prompt_weights=False, negative_prompt="dim")
    assert torch.equal(one(model, "(a cat:1)", negative_prompt="dim"), plain)
    assert not torch.equal(one(model, "a (cat:2)", negative_prompt="dim"), plain)
    assert torch.isfinite(one(model, "(a:-10)(cat:10)", negative_prompt="(dim:-10)")).all()


def test_edits_and_repaints_are_weighted_too(sdxl: LoadedModel) -> None:
    for fields in ({}, {"mask": half_mask(32, 32)}):
        source: dict[str, Any] = {"sources": (picture(32, 32),), "strength": 1.0, **fields}
        assert not torch.allclose(one(sdxl, "a (cat:2)", **source), one(sdxl, "a cat", **source), atol=1e-4)


def test_the_families_of_the_builds_are_weighted() -> None:
    assert {tiny.BUILDERS[name][0] for name in BUILDS} <= FAMILIES
    with pytest.raises(TooHeavy):
        parse("(a:11)")
