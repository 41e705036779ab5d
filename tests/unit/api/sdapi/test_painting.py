"""Sources and masks as A1111 brings them to the size that is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.pictures.fitting import cover, to_pil, to_pixels
from pipelines.spec import Window
from server.api.sdapi import painting
from server.api.sdapi.painting import Manner, arrange, grown, resize, smeared
from server.errors import BadImage
from server.inputs.decode import Decoded, ImageLimits, decode_image
from tests.pictures import png, scene

SHARP = Manner((64, 64), blur=(0, 0), fill=painting.ORIGINAL)


def decoded(image: Image.Image) -> Decoded:
    return decode_image(png(image), limits=ImageLimits(10**7, 10**7), param="image")


def spot(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """White in ``box``, black elsewhere."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def painted(mask: Image.Image, manner: Manner) -> np.ndarray:
    _, sources = arrange(decoded(scene(64, 64)), decoded(mask), manner)
    assert sources.mask is not None
    return np.asarray(to_pil(sources.mask))


def test_white_is_painted_and_black_is_kept() -> None:
    mask = painted(spot((64, 64), (8, 8, 40, 40)), SHARP)
    assert mask[8:40, 8:40].min() == 255
    assert mask.sum() == 32 * 32 * 255


def test_of_a_mask_with_transparency_the_opaque_part_is_painted() -> None:
    """The opposite of OpenAI's: colours say nothing there."""
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (8, 8, 40, 40))
    assert np.array_equal(painted(mask, SHARP), np.asarray(spot((64, 64), (8, 8, 40, 40))))


@pytest.mark.parametrize(("alpha", "rounded", "level"), [(128, True, 0), (129, True, 255), (100, False, 200)])
def test_half_transparent_masks(alpha: int, rounded: bool, level: int) -> None:
    mask = Image.new("RGBA", (64, 64), (9, 9, 9, alpha))
    mask.paste((0, 0, 0, 255), (0, 0, 4, 4))
    assert painted(mask, replace(SHARP, is_rounded=rounded))[32, 32] == level


def test_inverted() -> None:
    mask = painted(spot((64, 64), (8, 8, 40, 40)), replace(SHARP, is_inverted=True))
    assert (mask[20, 20], mask[60, 60]) == (0, 255)


def test_blur_softens_both_ways_and_ends() -> None:
    mask = painted(spot((64, 64), (16, 16, 48, 48)), replace(SHARP, blur=(4, 0)))
    line = mask[32].astype(int)
    assert (np.diff(line[:32]) >= 0).all()  # A1111 doubles it, so that the middle of the edge is painted whole
    assert 0 < line[13] < 255
    assert line[0] == 0
    assert not mask[:16].any()  # not down


def test_a_mask_of_another_size_is_stretched_to_its_source() -> None:
    mask = painted(spot((128, 32), (64, 0, 128, 32)), SHARP)
    assert (mask[:, :31].max(), mask[:, 33:].min()) == (0, 255)


@pytest.mark.parametrize("only_masked", [True, False])
def test_a_mask_that_covers_nothing_is_refused(only_masked: bool) -> None:
    with pytest.raises(BadImage) as refused:
        painted(Image.new("L", (64, 64), 0), replace(SHARP, only_masked=only_masked))
    assert refused.value.param == "mask"


def test_only_masked_is_a_window_of_the_source() -> None:
    source = scene(200, 120)
    manner = Manner((64, 64), blur=(0, 0), fill=painting.ORIGINAL, only_masked=True, padding=10)
    size, sources = arrange(decoded(source), decoded(spot((200, 120), (50, 40, 80, 60))), manner)
    assert size == (200, 120)
    assert sources.window == Window(40, 25, 50, 50)
    assert sources.drawn_for == (64, 64)
    assert sources.mask is not None
    assert sources.kept is not None
    assert to_pil(sources.images[0]).tobytes() == source.crop((40, 25, 90, 75)).tobytes()
    assert to_pil(sources.mask).getbbox() == (10, 15, 40, 35)
    assert sources.kept == to_pixels(source)


def test_a_source_larger_than_the_model_makes_is_answered_in_what_it_does() -> None:
    """50 megapixels, ten times in PNG, would be more than a message to the front may have."""
    manner = Manner((64, 64), blur=(0, 0), only_masked=True, max_side=100)
    size, sources = arrange(decoded(scene(400, 200)), decoded(spot((400, 200), (0, 0, 200, 200))), manner)
    assert size == (100, 50)
    assert sources.window == Window(0, 0, 50, 50)
    assert sources.kept is not None
    assert (sources.kept.width, sources.kept.height) == size


@pytest.mark.parametrize(
    ("box", "padding", "shape", "within", "window"),
    [
        ((10, 10, 20, 20), 0, (1, 1), (100, 100), Window(10, 10, 10, 10)),
        ((10, 10, 20, 20), 32, (1, 1), (100, 80), Window(0, 0, 52, 52)),
        ((40, 40, 60, 50), 0, (1, 1), (100, 100), Window(40, 35, 20, 20)),
        ((40, 0, 60, 10), 0, (1, 1), (100, 100), Window(40, 0, 20, 20)),
        ((90, 90, 100, 100), 0, (2, 1), (100, 100), Window(80, 90, 20, 10)),
        ((0, 0, 100, 10), 0, (1, 1), (100, 80), Window(0, 0, 100, 80)),  # no room for the aspect
    ],
)
def test_windows(
    box: tuple[int, int, int, int], padding: int, shape: tuple[int, int], within: tuple[int, int], window: Window
) -> None:
    assert grown(box, padding, shape, within) == window


def test_where_there_is_no_room_for_the_aspect_what_is_drawn_has_the_windows() -> None:
    manner = Manner((64, 64), blur=(0, 0), only_masked=True)
    _, sources = arrange(decoded(scene(100, 50)), decoded(spot((100, 50), (0, 0, 100, 10))), manner)
    assert sources.window == Window(0, 0, 100, 50)
    assert sources.drawn_for == (64, 32)


def test_resize_modes() -> None:
    source = scene(80, 40)
    stretched, cut, filled = (np.asarray(resize(source, (60, 60), mode)).astype(int) for mode in (0, 1, 2))
    assert stretched.shape == cut.shape == filled.shape == (60, 60, 3)
    assert np.array_equal(cut, np.asarray(cover(source, 60, 60)))
    assert np.abs(stretched[0, 0] - np.asarray(source)[0, 0]).max() < 12
    inner = np.asarray(source.resize((60, 30), Image.Resampling.LANCZOS))
    assert np.array_equal(filled[15:45], inner)
    assert np.array_equal(filled[0], inner[0])  # the border is the outermost line, drawn out
    assert np.array_equal(filled[59], inner[29])


def test_what_is_covered_is_filled_with_the_colours_around_it() -> None:
    source = Image.new("RGB", (64, 64), (20, 200, 40))
    source.paste((255, 0, 0), (24, 24, 40, 40))
    result = np.asarray(smeared(source, spot((64, 64), (20, 20, 44, 44)))).astype(int)
    assert np.abs(result - [20, 200, 40]).max() <= 8


def test_where_all_is_covered_nothing_is_filled() -> None:
    source = scene(32, 32)
    assert smeared(source, Image.new("L", (32, 32), 255)).tobytes() == source.tobytes()


def test_what_is_filled_is_not_what_is_shown() -> None:
    manner = Manner((64, 64), blur=(0, 0), fill=painting.FILLED)
    _, sources = arrange(decoded(scene(64, 64)), decoded(spot((64, 64), (8, 8, 40, 40))), manner)
    assert sources.kept == to_pixels(scene(64, 64))
    assert sources.images[0] != sources.kept
