"""The archive: art, names, tables of captions and the tokenizer in one file that travels to where training runs.

Knows the file's form; knows nothing of networks, nor of the packages that the art came from. It is a zip without
compression of its pictures, and always the same bytes for the same content.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from .phrases import Phrases

SIDE = 256  # of a sprite's longer side
WIDTH = 192  # of an embedding
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in it
MANIFEST, TABLES = "manifest.json", "tables.safetensors"


@dataclass(frozen=True)
class Archive:
    """What training reads."""

    names: list[str]  # of the concepts, English, in the order of labels
    sprites: Tensor  # (N, 4, 256, 256) uint8, straight alpha, cut to the outline and centred, longer side 256
    kinds: Tensor  # (N,) what an object's main parts are, as of `recolouring.kind_of`
    recolourable: Tensor  # (N,) whether there is a name without a colour
    all_embeddings: Tensor  # (V, 384) float16: of the sentence encoder, the directions that matter most first
    phrases: Phrases
    tokenizer: dict[str, bytes]  # file name to content
    start: int  # the token before a caption
    end: int  # the token behind it, and of what is left

    @property
    def embeddings(self) -> Tensor:
        """(V, WIDTH) float16: for the text encoder's table."""
        return self.all_embeddings[:, :WIDTH].contiguous()

    @classmethod
    def open(cls, path: Path) -> "Archive":
        """The archive in a file."""
        with zipfile.ZipFile(path) as file:
            told: dict[str, Any] = json.loads(file.read(MANIFEST))
            tables = safetensors.torch.load(file.read(TABLES))
            pictures = [file.read(f"sprites/{n:04}.webp") for n in range(len(told["names"]))]
            tokenizer = {name: file.read(f"tokenizer/{name}") for name in told["tokenizer"]}
        return cls(
            names=told["names"],
            sprites=torch.from_numpy(np.stack([sprite(picture) for picture in pictures])).permute(0, 3, 1, 2),
            phrases=Phrases(
                families=told["families"],
                **{name.removeprefix("phrases."): t for name, t in tables.items() if name.startswith("phrases.")},
            ),
            **{name: t for name, t in tables.items() if "." not in name},
            tokenizer=tokenizer,
            start=told["start"],
            end=told["end"],
        )


def write(path: Path, archive: dict[str, Any], pictures: list[bytes], texts: dict[str, str]) -> None:
    """Write an archive: ``archive`` holds its fields but the sprites, ``pictures`` are theirs as WebP."""
    phrases: Phrases = archive["phrases"]
    tables = {name: value for name, value in archive.items() if isinstance(value, Tensor)}
    tables |= {f"phrases.{name}": table for name, table in phrases.tables().items()}
    told = {name: archive[name] for name in ("names", "start", "end")}
    told |= {"families": phrases.families, "tokenizer": sorted(archive["tokenizer"])}
    part = path.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(part, "w") as file:
        _add(file, MANIFEST, json.dumps(told, ensure_ascii=False, indent=1).encode())
        for name, text in texts.items():
            _add(file, name, text.encode())
        for name, content in sorted(archive["tokenizer"].items()):
            _add(file, f"tokenizer/{name}", content)
        _add(file, TABLES, safetensors.torch.save({name: tables[name].contiguous() for name in sorted(tables)}))
        for number, picture in enumerate(pictures):
            _add(file, f"sprites/{number:04}.webp", picture, zipfile.ZIP_STORED)
    part.replace(path)


def _add(file: zipfile.ZipFile, name: str, content: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
    entry = zipfile.ZipInfo(name, DATE)
    entry.external_attr = 0o644 << 16
    file.writestr(entry, content, how, 9)


def sprite(picture: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(256, 256, 4): a picture cut to its outline, enlarged and centred, with straight alpha."""
    with Image.open(io.BytesIO(picture)) as opened:
        whole = opened.convert("RGBA")
    box = whole.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    cut = whole.crop(box).convert("RGBa")
    width, height = (max(1, round(side * SIDE / max(cut.size))) for side in cut.size)
    resized = cut.resize((width, height), Image.Resampling.BICUBIC).convert("RGBA")
    frame = np.zeros((SIDE, SIDE, 4), np.uint8)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    frame[top : top + height, left : left + width] = np.asarray(resized)
    return frame
