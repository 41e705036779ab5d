"""Which terminals are shown pictures and how, and that what is sent to them decodes to the picture."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from server.commands.terminal import choose_way, render
from tests.pictures import scene


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "tmux-256color", "TMUX": "x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "dumb"}, "off"),
        ({"TERM": "xterm-kitty", "NO_COLOR": ""}, "off"),
    ],
)
def test_the_best_that_the_terminal_understands(environment: dict[str, str], way: str) -> None:
    assert choose_way("auto", environment, tty=True) == way
    assert choose_way("auto", environment, tty=False) == "off"
    assert choose_way("sixel", environment, tty=False) == "sixel"  # asked for is asked for


def test_kitty_gets_the_png_in_chunks() -> None:
    text = render([Image.effect_noise((400, 300), 90)], "kitty", 80)
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(chunks) > 2
    assert chunks[0][0] == "a=T,f=100,c=80,q=2,m=1"
    assert [controls for controls, _ in chunks[1:]] == ["m=1"] * (len(chunks) - 2) + ["m=0"]
    assert all(len(data) <= 4096 for _, data in chunks)
    picture = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks))))
    assert picture.size == (400, 300)


def test_iterm_gets_the_png_inline() -> None:
    match = re.fullmatch(r"\x1b\]1337;File=inline=1;width=40;preserveAspectRatio=1:([^\x07]+)\x07\n",
                         render([scene(64, 32)], "iterm", 40))  # fmt: skip
    assert match is not None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1])))), np.asarray(scene(64, 32)))


def test_sixels_draw_the_picture() -> None:
    picture = Image.new("RGB", (20, 14), (255, 0, 0))
    picture.paste((0, 0, 255), (5, 3, 15, 9))
    assert np.array_equal(_read_sixels(render([picture], "sixel", 80)), np.asarray(picture))


def _read_sixels(text: str) -> npt.NDArray[np.uint8]:
    match = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\\n', text, re.DOTALL)
    assert match is not None
    width, height = int(match[1]), int(match[2])
    pixels = np.zeros((height + 6, width, 3), dtype=np.uint8)
    palette, colour, x, y = {}, 0, 0, 0
    for define, r, g, b, select, count, repeated, single in re.findall(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~$-])", match[3]
    ):
        if define:
            palette[int(define)] = [round(int(part) * 255 / 100) for part in (r, g, b)]
        elif select:
            colour = int(select)
        elif single == "$":
            x = 0
        elif single == "-":
            x, y = 0, y + 6
        else:
            bits = ord(repeated or single) - 63
            end = x + int(count or 1)
            for row in range(6):
                if bits >> row & 1:
                    pixels[y + row, x:end] = palette[colour]
            x = end
    return pixels[:height]


def test_half_blocks_carry_two_pixels_a_character() -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 1, 4, 2))
    lines = render([picture], "blocks", 4).splitlines()
    assert len(lines) == 2
    assert lines[0].count("\x1b[38;2;255;0;0;48;2;0;0;255m▀") == 4
    assert all(line.endswith("\x1b[0m") for line in lines)


@pytest.mark.parametrize("way", ["kitty", "iterm", "sixel", "blocks"])
def test_several_pictures_of_any_mode_share_one_row(way: str) -> None:
    pictures = [scene(30, 20), Image.new("RGBA", (10, 40), (1, 2, 3, 0)), Image.new("L", (1, 1))]
    assert render(pictures, way, 100).endswith("\n")
