"""The command that writes a sheet of samples with their captions, to be looked at.

Knows the archive alone: tokens become text again without the tokenizer's library.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from .. import colours, grounds
from ..scenes import CELLS, LAYOUTS
from .archive import Archive
from .maker import SampleMaker, Samples

COLUMNS, LINES, LINE = 8, 4, 12  # of the sheet; lines of a caption, and their height
LETTERS = 25  # in a line
LONG = 64  # tokens of a caption that are shown


class Reader:
    """Reader of token ids: what the tokenizer's `decode` gives."""

    def __init__(self, archive: Archive) -> None:
        vocabulary: dict[str, int] = json.loads(archive.tokenizer["tokenizer.json"])["model"]["vocab"]
        self.pieces = {number: piece for piece, number in vocabulary.items()}
        self.marks = {archive.start, archive.end}
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level BPE writes as themselves
        others = [byte for byte in range(256) if byte not in plain]
        self.bytes = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}

    def __call__(self, ids: list[int]) -> str:
        """The text of a caption."""
        pieces = "".join(self.pieces[number] for number in ids if number not in self.marks).split("</w>")
        words = (bytes(self.bytes[char] for char in piece) for piece in pieces)
        return b" ".join(words).decode("utf-8", "replace").replace(" ,", ",").strip()


def describe(archive: Archive, labels: list[int]) -> str:
    """What labels say, for a caption that the font cannot show."""
    layout, ground, first, tint, second, tint2 = labels
    nouns = [
        f"{colours.NAMES[colour]} {archive.names[concept]}" if colour >= 0 else archive.names[concept]
        for concept, colour in ((first, tint), (second, tint2))
        if concept >= 0
    ]
    return f"(Chinese) {f' {LAYOUTS[layout]} '.join(nouns) or LAYOUTS[layout]}; {grounds.NAMES[max(ground, 0)]}".strip(
        "; "
    )


def lay(samples: Samples, captions: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """The sheet: pictures row by row, each over the beginning of its caption."""
    rows = ((samples.pixels.cpu() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    height, width = rows.shape[1:3]
    cell = width + 8, height + LINES * LINE + 8
    sheet = Image.new("RGB", (COLUMNS * cell[0], -(-len(rows) // COLUMNS) * cell[1]), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        x, y = n % COLUMNS * cell[0] + 4, n // COLUMNS * cell[1] + 4
        sheet.paste(Image.fromarray(row), (x, y))
        for number, line in enumerate(_lines(caption)[:LINES]):
            pen.text((x, y + height + number * LINE), line, fill="black", font=font)
    return sheet


def _lines(caption: str) -> list[str]:
    """The caption in lines of `LETTERS`; a Chinese character is as wide as two."""
    lines, wide = [""], 0
    for word in caption.split(" "):
        parts = word if len(word.encode()) > len(word) else [word]  # Chinese may break anywhere
        for part in parts:
            size = 2 * len(part) if part > "\u2e80" else len(part) + 1
            if wide + size > LETTERS:
                lines.append("")
                wide = 0
            lines[-1] += part if part > "\u2e80" else f"{part} "
            wide += size
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, default=Path("build/art.zip"))
    parser.add_argument("--output", type=Path, default=Path("build/samples.png"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rows", type=int, default=CELLS, help="of latents")
    parser.add_argument("--columns", type=int, default=CELLS, help="of latents")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--font", type=Path, help="one that has Chinese characters; else their labels are shown")
    options = parser.parse_args()
    archive = Archive.open(options.archive)
    maker, read = SampleMaker(archive, torch.device("cpu"), options.seed), Reader(archive)
    samples = maker.draw(options.count, (options.rows, options.columns))
    texts = [read(row) for row in maker.captions(samples.labels, LONG).tolist()]
    if options.font:
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.truetype(options.font, 10)
    else:
        font = ImageFont.load_default(10)
        texts = [
            describe(archive, row) if any(char > "\u2e80" for char in text) else text
            for text, row in zip(texts, samples.labels.tolist(), strict=True)
        ]
    sheet = lay(samples, texts, font)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
