"""Embeddings by their headers alone: for which text encoder each vector is, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import LoadRefused
from pipelines.facts import textual_inversion
from pipelines.facts.checkpoint import Kind, tell
from pipelines.facts.textual_inversion import clash, vectors
from pipelines.plan import EmbeddingFile
from tests.unit.pipelines.facts.test_checkpoint import Shapes, write

ONE: Shapes = {"emb_params": (2, 768)}
SDXL: Shapes = {"clip_l": (2, 768), "clip_g": (3, 1280)}


def read(tmp_path: Path, shapes: Shapes, family: str, dtype: str = "F16") -> dict[str, tuple[str, int, int]]:
    """By encoder: the tensor, how many vectors, how wide."""
    path = write(tmp_path / "some.safetensors", shapes, dtype=dtype)
    found = vectors(EmbeddingFile("<toy>", str(path)), family)
    return {each.slot.encoder: (each.name, each.count, each.width) for each in found}


@pytest.mark.parametrize(
    ("shapes", "family", "expected"),
    [
        (ONE, "stable-diffusion", {"text_encoder": ("emb_params", 2, 768)}),
        ({"<cat>": (768,)}, "stable-diffusion", {"text_encoder": ("<cat>", 1, 768)}),
        ({"clip_l": (1, 768)}, "lcm", {"text_encoder": ("clip_l", 1, 768)}),
        (
            {"string_to_param.*": (4, 768), "string_to_token.*": (1,)},
            "stable-diffusion-inpainting",
            {"text_encoder": ("string_to_param.*", 4, 768)},
        ),
        (SDXL, "stable-diffusion-xl", {"text_encoder": ("clip_l", 2, 768), "text_encoder_2": ("clip_g", 3, 1280)}),
        (SDXL, "stable-diffusion-xl-refiner", {"text_encoder_2": ("clip_g", 3, 1280)}),
        ({"<cat>": (2, 1280)}, "stable-diffusion-xl-refiner", {"text_encoder_2": ("<cat>", 2, 1280)}),
        ({"<cat>": (2, 768)}, "flux", {"text_encoder": ("<cat>", 2, 768)}),
        (
            {"clip_l": (2, 768), "t5": (2, 4096)},
            "flux-kontext",
            {"text_encoder": ("clip_l", 2, 768), "text_encoder_2": ("t5", 2, 4096)},
        ),
        ({"t5xxl": (1, 4096)}, "chroma", {"text_encoder": ("t5xxl", 1, 4096)}),
    ],
)
def test_each_vector_goes_to_its_encoder(
    shapes: Shapes, family: str, expected: dict[str, tuple[str, int, int]], tmp_path: Path
) -> None:
    assert read(tmp_path, shapes, family) == expected


@pytest.mark.parametrize(
    ("shapes", "family", "says"),
    [
        (ONE, "stable-diffusion-3", "models of family stable-diffusion-3 take none; those of stable-diffusion, "),
        (ONE, "other", "family other take none"),
        (ONE, "stable-diffusion-xl", "for one text encoder, and stable-diffusion-xl has two: .* clip_l and clip_g"),
        ({"clip_l": (2, 768)}, "stable-diffusion-xl", "has no clip_g"),
        (SDXL, "stable-diffusion", "vectors for clip_g, an encoder that stable-diffusion has not"),
        ({"clip_g": (2, 1280)}, "stable-diffusion", "vectors for clip_g"),
        (SDXL | {"t5xxl": (1, 4096)}, "stable-diffusion-xl", "vectors for t5xxl"),
        ({"t5xxl": (1, 4096)}, "flux", "has no clip_l"),
        ({"a.lora_down.weight": (4, 768), "a.lora_up.weight": (768, 4)}, "stable-diffusion", "no embedding"),
        ({"emb_params": (2, 768), "else": (1,)}, "stable-diffusion", "no embedding: it has "),
        ({}, "stable-diffusion", "has no clip_l"),
        ({"emb_params": (76, 768)}, "stable-diffusion", "76 vectors; a prompt has room for 75"),
        ({"emb_params": (0, 768)}, "stable-diffusion", "emb_params is 0x768"),
        ({"emb_params": (2, 3, 768)}, "stable-diffusion", "emb_params is 2x3x768"),
        ({"emb_params": ()}, "stable-diffusion", "is one number"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_the_word_that_it_is_for(
    shapes: Shapes, family: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadRefused, match=f"^embeddings: <toy>: .*{says}"):
        read(tmp_path, shapes, family)


def test_vectors_of_integers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadRefused, match="emb_params is 2x768 in I16"):
        read(tmp_path, ONE, "stable-diffusion", "I16")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("toy.pt", b"PK\x03\x04", r"toy\.pt is a pickle, which can run code: .* \.safetensors"),
        ("toy.bin", b"", "is a pickle"),
        ("toy.webp", b"", r"is not a \.safetensors file"),
        ("toy.safetensors", b"\x80\x02x" * 9, "a pickle, which can run code"),
        ("toy.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("toy.safetensors", b"\x10\0\0\0\0\0\0\0{}", "not a safetensors file, or is truncated"),
        ("toy.safetensors", None, "does not exist"),
    ],
)
def test_pickles_and_broken_files_are_refused_with_what_to_do(
    name: str, content: bytes | None, says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadRefused, match=f"^embeddings: <toy>: .*{says}"):
        vectors(EmbeddingFile("<toy>", str(tmp_path / name)), "stable-diffusion")


@pytest.mark.parametrize(
    ("tokens", "is_refused"),
    [
        (["<cat>", "<dog>"], False),
        (["cat-toy", "cat-toys"], True),  # the longer would be torn apart where the shorter is written out
        (["toy", "toy_1"], True),  # it would be taken for the second vector of the other
        (["Toy", "TOY"], True),  # tokenizers fold case
        ([], False),
    ],
)
def test_tokens_that_would_be_read_in_each_others_place_are_refused(tokens: list[str], is_refused: bool) -> None:
    assert (clash(tokens) is not None) is is_refused


@pytest.mark.parametrize("shapes", [ONE, SDXL, {"<cat>": (768,)}, {"<cat>": (75, 1024)}])
def test_an_embedding_is_told_for_what_it_is(shapes: Shapes, tmp_path: Path) -> None:
    """Those that diffusers writes, by the word that they stand for, were "no kind of model that is known here"."""
    told = tell(write(tmp_path / "some.safetensors", shapes))
    assert told.kind is Kind.EMBEDDING
    assert "list it under embeddings" in (told.problem or "")


def test_one_matrix_is_no_embedding(tmp_path: Path) -> None:
    assert tell(write(tmp_path / "some.safetensors", {"w": (768, 768)})).kind is Kind.UNKNOWN


def test_the_slots_name_components() -> None:
    for slots in textual_inversion.SLOTS.values():
        assert all(slot.tokenizer == slot.encoder.replace("text_encoder", "tokenizer") for slot in slots)
