"""What a mask does not cover comes back pixel for pixel, from the server as users run it, through PNG."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipelines.pictures.fitting import cover
from tests.pictures import files, opened, png, scene, text
from tests.running import Running

Array = npt.NDArray[np.uint8]
QUICK = {"model": "gpt-image-1", "num_inference_steps": 2, "seed": 4, "guidance_scale": 1}


def ellipse(width: int, height: int) -> Array:
    """True in the middle: what is to be repainted."""
    y, x = np.mgrid[0:height, 0:width]
    found: Array = ((x / width - 0.5) ** 2 * 9 + (y / height - 0.5) ** 2 * 16) < 1
    return found


def transparent_at(where: Array, under: Image.Image | None = None) -> Image.Image:
    """A mask in OpenAI's sense: transparent where it is to be repainted."""
    height, width = where.shape
    mask = (under or Image.new("RGB", (width, height))).convert("RGBA")
    mask.putalpha(Image.fromarray(np.where(where, 0, 255).astype(np.uint8)))
    return mask


def sticker(width: int, height: int) -> Image.Image:
    """A picture whose colours and transparency differ from pixel to pixel, also where nothing shows."""
    picture = scene(width, height).convert("RGBA")
    alpha = np.random.default_rng(1).integers(0, 256, (height, width), dtype=np.uint8)
    alpha[: height // 5], alpha[-height // 5 :] = 0, 255
    picture.putalpha(Image.fromarray(alpha))
    return picture


def edited(server: Running, source: Image.Image, **fields: Any) -> Array:
    answer = server.draw(**{**QUICK, "image": text(png(source)), **fields})
    (picture,) = files(answer)
    return np.asarray(opened(picture))


@pytest.mark.parametrize("size", [(64, 64), (320, 200), (1024, 1024)])
@pytest.mark.parametrize("mask_scale", [1.0, 0.5, 3.1])
def test_at_the_sources_size_the_rest_is_the_source(server: Running, size: tuple[int, int], mask_scale: float) -> None:
    source = scene(*size)
    where = ellipse(round(size[0] * mask_scale), round(size[1] * mask_scale))
    asked = {"mask": text(png(transparent_at(where))), "size": "auto"}
    result = edited(server, source, **asked)
    nominal = np.asarray(Image.fromarray(where).resize(size, Image.Resampling.BOX))
    if mask_scale == 1:
        nominal = where
    else:  # what a pixel of the mask touches may change, no more
        grown = Image.fromarray(nominal.astype(np.uint8) * 255).filter(_grow(2))
        nominal = np.asarray(grown) > 0
    assert result.shape == (size[1], size[0], 3)
    assert np.array_equal(result[~nominal], np.asarray(source)[~nominal])
    changed = np.abs(result.astype(int) - np.asarray(source))[nominal]
    assert changed.mean() > 4


def _grow(radius: int) -> Any:
    from PIL import ImageFilter

    return ImageFilter.MaxFilter(2 * radius + 1)


def test_when_the_answer_is_resized_the_rest_is_the_resized_source(server: Running) -> None:
    source, where = scene(300, 200), ellipse(300, 200)
    result = edited(server, source, mask=text(png(transparent_at(where))), size="256x256")
    resized = np.asarray(cover(source, 256, 256))
    outside = np.ones((256, 256), dtype=bool)
    outside[60:196] = False  # the ellipse, enlarged and cut as the source is
    assert np.array_equal(result[outside], resized[outside])
    assert not np.array_equal(result, resized)


@pytest.mark.parametrize("format_", ["png", "webp", "jpeg"])
def test_a_transparent_source_keeps_its_transparency_where_the_format_can(server: Running, format_: str) -> None:
    source, where = sticker(200, 160), ellipse(200, 160)
    mask = text(png(transparent_at(where)))
    asked = {"mask": mask, "size": "auto", "output_format": format_, "output_compression": 100}
    result = edited(server, source, **asked)
    kept = np.asarray(source)
    if format_ == "png":
        assert result.shape == (160, 200, 4)
        assert np.array_equal(result[~where], kept[~where])  # colours under full transparency too
        assert (result[..., 3][where] >= kept[..., 3][where]).all()
    elif format_ == "webp":
        assert np.array_equal(result[..., 3][~where], kept[..., 3][~where])
    else:
        assert result.shape == (160, 200, 3)


def test_background_opaque_lays_a_transparent_source_on_white(server: Running) -> None:
    source, where = sticker(200, 160), ellipse(200, 160)
    result = edited(server, source, mask=text(png(transparent_at(where))), size="auto", background="opaque")
    laid = Image.new("RGB", source.size, "white")
    laid.paste(source, mask=source.getchannel("A"))
    assert np.abs(result[~where].astype(int) - np.asarray(laid)[~where]).max() <= 1


@pytest.mark.parametrize("model", ["dall-e-2", "gpt-image-1"])
def test_a_transparent_source_is_its_own_mask_for_dall_e_2_alone(server: Running, model: str) -> None:
    where = ellipse(256, 256)
    source = transparent_at(where, scene(256, 256))
    result = edited(server, source, model=model, size="256x256")
    assert result.shape == (256, 256, 3)
    kept = np.asarray(scene(256, 256))
    assert np.array_equal(result[~where], kept[~where]) is (model == "dall-e-2")
    assert not np.array_equal(result[where], kept[where])


def test_a_soft_edge_of_such_a_source_goes_over_what_is_drawn(server: Running) -> None:
    alpha = np.tile(np.linspace(0, 255, 256).astype(np.uint8), (256, 1))
    source = Image.new("RGB", (256, 256), (10, 200, 30)).convert("RGBA")
    source.putalpha(Image.fromarray(alpha))
    result = edited(server, source, model="dall-e-2", size="256x256").astype(int)
    assert result.shape == (256, 256, 3)
    assert np.abs(result[:, -1] - [10, 200, 30]).max() == 0
    share = alpha.astype(float)[..., None] / 255
    # What shows of the source is at least its share, and never the white that transparency is laid on elsewhere.
    assert (result[..., 1] >= (share[..., 0] * 200 - 2)).all()
    assert (result[..., 0] <= (share[..., 0] * 10 + (1 - share[..., 0]) * 255 + 2)).all()


def test_shadows_alone_are_no_mask(server: Running) -> None:
    source = scene(256, 256).convert("RGBA")
    source.putalpha(200)
    result = edited(server, source, model="dall-e-2", size="256x256")
    assert np.abs(result.astype(int) - np.asarray(scene(256, 256))).mean() > 4


@pytest.mark.parametrize("edge", [True, False])
def test_a_mask_smaller_than_what_a_model_sees_still_repaints(server: Running, edge: bool) -> None:
    where = np.zeros((1024, 1024), dtype=bool)
    where[501:509, (0 if edge else 377) : (8 if edge else 385)] = True
    source = scene(1024, 1024)
    result = edited(server, source, mask=text(png(transparent_at(where))), size="auto")
    assert np.array_equal(result[~where], np.asarray(source)[~where])
    assert not np.array_equal(result[where], np.asarray(source)[where])


def test_a_mask_saved_as_jpeg_keeps_what_its_noise_touches(server: Running) -> None:
    import io

    mask = Image.fromarray(np.where(ellipse(256, 256), 255, 0).astype(np.uint8))
    out = io.BytesIO()
    mask.save(out, "JPEG", quality=70)
    result = edited(server, scene(256, 256), mask=text(out.getvalue()), size="256x256")
    corners = np.s_[:16, :16], np.s_[-16:, -16:], np.s_[:16, -16:]
    for corner in corners:
        assert np.array_equal(result[corner], np.asarray(scene(256, 256))[corner])


def test_every_picture_of_n_keeps_the_rest(server: Running) -> None:
    source, where = scene(128, 128), ellipse(128, 128)
    asked = {**QUICK, "image": text(png(source)), "mask": text(png(transparent_at(where))), "size": "auto", "n": 3}
    pictures = [np.asarray(opened(data)) for data in files(server.draw(**asked))]
    assert len(pictures) == 3
    for picture in pictures:
        assert np.array_equal(picture[~where], np.asarray(source)[~where])
    assert not np.array_equal(pictures[0], pictures[1])
