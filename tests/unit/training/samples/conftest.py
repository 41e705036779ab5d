"""A tiny archive: six drawn objects, a lexicon of as many names, and a tokenizer made for them."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPTokenizer

from training import phrasebook, tokens
from training.samples import archive as archives
from training.samples import painting
from training.samples.archive import Archive
from training.samples.maker import SampleMaker
from training.words import Lexicon

ORANGE, RED, GREY, PALE, BLUE, YELLOW = (
    (235, 140, 60), (205, 50, 50), (150, 150, 155), (245, 245, 248), (40, 90, 205), (245, 210, 60)
)  # fmt: skip
LEXICON = Lexicon(
    names=[["ball", "sphere"], ["red cup", "cup"], ["box"], ["ghost"], ["blue bell"], ["star"]],
    traditional=[["球"], ["紅杯子"], ["盒子"], ["鬼"], ["鐘"], ["星星"]],
    simplified=[["球"], ["红杯子"], ["盒子"], ["鬼"], ["钟"], ["星星"]],
    fillers=["today", "because", "meeting", "whatever", "quarterly"],
    hinted=["shiny", "travel"],
    nearby=[],
)


def drawn(colour: tuple[int, int, int], shape: str) -> bytes:
    """A WebP of a disc, square or bar in one colour, a quarter of it in shadow, with a black eye in its middle."""
    picture = Image.new("RGBA", (96, 96))
    pen = ImageDraw.Draw(picture)
    box = (8, 30, 88, 66) if shape == "bar" else (12, 12, 84, 84)
    outline = pen.ellipse if shape == "disc" else pen.rectangle
    outline(box, fill=(*colour, 255))
    shadow = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(shadow).rectangle((0, 60, 96, 96), fill=(*(int(c * 0.75) for c in colour), 255))
    picture.paste(shadow, mask=Image.composite(picture.getchannel("A"), Image.new("L", (96, 96)), shadow.split()[3]))
    pen.ellipse((44, 44, 52, 52), fill=(12, 12, 14, 255))
    stored = io.BytesIO()
    picture.save(stored, "WEBP", lossless=True)
    return stored.getvalue()


PICTURES = [
    drawn(ORANGE, "disc"), drawn(RED, "square"), drawn(GREY, "square"), drawn(PALE, "disc"), drawn(BLUE, "disc"),
    drawn(YELLOW, "bar"),
]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens.make(LEXICON, folder)
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def content(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """What `archive.write` takes."""
    coloured = [all(map(phrasebook.tells_colour, own)) for own in LEXICON.names]

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return {
        "names": [own[0] for own in LEXICON.names],
        "kinds": torch.zeros(6, dtype=torch.long),
        "recolourable": ~torch.tensor(coloured),
        "all_embeddings": torch.zeros(len(tokenizer), 384, dtype=torch.float16),
        "phrases": phrasebook.make(LEXICON, encode, len(tokenizer)),
        "tokenizer": {"tokenizer.json": b"{}"},
        "start": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
    }


@pytest.fixture(scope="session")
def archive(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path: Path = tmp_path_factory.mktemp("archive") / "art.zip"
    archives.write(path, content, PICTURES, {"licences/LICENSE": "MIT"})
    return Archive.open(path)


@pytest.fixture(autouse=True)
def few_paintings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two paintings of every scene, to be quick."""
    monkeypatch.setattr(painting, "SCENE_VARIANTS", 2)


@pytest.fixture(scope="session")
def printer(archive: Archive) -> SampleMaker:
    """A maker for what takes no random choice."""
    return SampleMaker(archive, torch.device("cpu"), 3)


@pytest.fixture
def maker(archive: Archive) -> SampleMaker:
    return SampleMaker(archive, torch.device("cpu"), 3)
