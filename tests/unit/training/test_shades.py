"""The judge of colours."""

import pytest
from PIL import Image, ImageDraw

from training import colours, questions, shades


@pytest.mark.parametrize("colour", colours.COLOURS[:12], ids=lambda colour: colour.name)
@pytest.mark.parametrize("ground", [(250, 220, 215), (215, 250, 230)])
def test_an_object_is_called_by_its_colour_shading_and_small_parts_apart(
    colour: colours.Colour, ground: tuple[int, int, int]
) -> None:
    picture = Image.new("RGB", (128, 128), ground)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((24, 24, 104, 104), fill=colour.rgb)
    shaded = tuple(round(0.85 * value) for value in colour.rgb)
    pen.chord((24, 24, 104, 104), 20, 160, fill=shaded)
    pen.ellipse((45, 45, 55, 55), fill=(20, 20, 20))
    pen.ellipse((75, 45, 85, 55), fill=(20, 20, 20))
    assert shades.named(picture) == colour.name


def test_an_answer_tells_held_out_pairs_from_trained_ones() -> None:
    picture = Image.new("RGB", (64, 64), (220, 240, 220))
    ImageDraw.Draw(picture).rectangle((16, 16, 48, 48), fill=(34, 88, 214))
    blue, red = questions.TINTS.index("blue"), questions.TINTS.index("red")
    asked = questions.Question("colours", "a blue cat", (0,), colour=blue, held_out=True)
    assert shades.answered(picture, asked) == {"colour right": 1.0, "held out": 1.0}
    asked = questions.Question("colours", "a red dog", (0,), colour=red)
    assert shades.answered(picture, asked) == {"colour right": 0.0, "trained": 0.0}
