"""Pictures in a terminal: by the protocols of kitty and iTerm2, as sixels, or in coloured half blocks.

Knows escape sequences and which terminals understand which; knows nothing of servers. Sources: kitty's graphics
protocol (sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2's inline images (iterm2.com/documentation-images.html),
sixels (VT330/VT340 programmer reference, chapter 14).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

_KITTY_CHUNK = 4096  # characters of base64 in one escape sequence
_CELL = 10  # pixels: about a character's width
_MAX_COLUMNS = 80
_SIXEL_TERMS = ("foot", "mlterm", "contour", "yaft", "xterm-sixel")
_GAP = 1  # share of a picture's side between two, percent
_CHECKER = 8  # squares a side behind what is transparent


def choose_way(asked: str, environment: Mapping[str, str], *, tty: bool) -> str:
    """How to show pictures: the way asked for, else the best that the terminal is known to understand."""
    if asked != "auto":
        return asked
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if not tty or term == "dumb" or "NO_COLOR" in environment:
        return "off"
    if "TMUX" in environment or term.startswith(("screen", "tmux")):
        return "blocks"  # a multiplexer passes no pictures on
    if "KITTY_WINDOW_ID" in environment or term == "xterm-kitty" or program == "ghostty" or term == "xterm-ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "sixel" if term.startswith(_SIXEL_TERMS) else "blocks"


def render(pictures: Sequence[Image.Image], way: str, columns: int) -> str:
    """The characters that show ``pictures`` in one row, no wider than ``columns``."""
    columns = max(4, min(columns, _MAX_COLUMNS))
    row = _in_a_row([_on_checker(picture) for picture in pictures])
    if way == "kitty":
        return "".join(_kitty(row, columns)) + "\n"
    if way == "iterm":
        return _iterm(row, columns) + "\n"
    if way == "sixel":
        return _sixel(_narrowed(row, columns * _CELL)) + "\n"
    return _blocks(_narrowed(row, columns, even=True))


def _on_checker(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    side = max(1, max(picture.size) // _CHECKER)
    y, x = np.mgrid[0 : picture.height, 0 : picture.width] // side
    grey = Image.fromarray(np.where((x + y) % 2, 200, 150).astype(np.uint8)).convert("RGB")
    grey.paste(picture, mask=picture.getchannel("A"))
    return grey


def _in_a_row(pictures: Sequence[Image.Image]) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    height = min(picture.height for picture in pictures)
    scaled = [picture.resize((max(1, picture.width * height // picture.height), height)) for picture in pictures]
    gap = max(1, height * _GAP // 100)
    row = Image.new("RGB", (sum(picture.width + gap for picture in scaled) - gap, height))
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _narrowed(row: Image.Image, width: int, *, even: bool = False) -> Image.Image:
    """No wider than ``width``, in its own shape; ``even`` rows for half blocks."""
    width = min(width, row.width) if not even else width
    height = max(1, round(row.height * width / row.width))
    height += height % 2 if even else 0
    return row.resize((width, height), Image.Resampling.LANCZOS)


def _png(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def _kitty(row: Image.Image, columns: int) -> Iterator[str]:
    data = _png(_narrowed(row, columns * _CELL * 2))
    for start in range(0, len(data), _KITTY_CHUNK):
        head = f"a=T,f=100,c={columns},q=2," if start == 0 else ""
        more = int(start + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{head}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\"


def _iterm(row: Image.Image, columns: int) -> str:
    data = _png(_narrowed(row, columns * _CELL * 2))
    return f"\x1b]1337;File=inline=1;width={columns};preserveAspectRatio=1:{data}\x07"


def _sixel(row: Image.Image) -> str:
    """256 colours, bands of six rows; each colour of a band is one pass over it."""
    paletted = row.quantize(256)
    palette = paletted.getpalette() or []
    indices = np.asarray(paletted)
    out = [f'\x1bPq"1;1;{row.width};{row.height}']
    for number in range(len(palette) // 3):
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * number : 3 * number + 3])
        out.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, row.height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band), dtype=np.uint8))[:, None]
        passes = []
        for colour in np.unique(band):
            bits = ((band == colour) * weights).sum(axis=0)
            passes.append(f"#{colour}" + _runs(bits))
        out.append("$".join(passes) + "-")
    return "".join(out) + "\x1b\\"


def _runs(bits: npt.NDArray[np.uint64]) -> str:
    """A row of sixels, repeats shortened."""
    ends = np.flatnonzero(np.diff(bits)) + 1
    starts = np.concatenate([[0], ends])
    lengths = np.diff(np.concatenate([starts, [len(bits)]]))
    pairs = zip(bits[starts], lengths, strict=True)
    return "".join(f"!{length}{chr(63 + bit)}" if length > 3 else chr(63 + bit) * length for bit, length in pairs)


def _blocks(row: Image.Image) -> str:
    """Two pixels a character: the upper as the half block's colour, the lower as its ground's."""
    pixels = np.asarray(row.convert("RGB"))
    lines = []
    for top in range(0, pixels.shape[0], 2):
        cells = []
        for (r, g, b), (low_r, low_g, low_b) in zip(pixels[top], pixels[top + 1], strict=True):
            cells.append(f"\x1b[38;2;{r};{g};{b};48;2;{low_r};{low_g};{low_b}m▀")
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)
