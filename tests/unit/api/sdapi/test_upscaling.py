"""The fields of the extras' routes, and the sizes that they ask for."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL.PngImagePlugin import PngInfo

from pipelines.pictures.provenance import PNG_KEYWORD
from pipelines.spec import Picture
from server.api.sdapi.upscaling import read_upscaling, upscaled
from server.errors import BadRequest
from server.inputs.decode import ImageLimits
from tests.pictures import opened, png, scene

LIMITS = ImageLimits(10**6, 10**6)
TO_SIZE = {"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100}


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        ({"upscaler_1": "Lanczos"}, (80, 60)),
        ({"upscaler_1": "nearest", "upscaling_resize": "1.5"}, (60, 45)),
        ({"upscaler_1": "R-ESRGAN 4x+", "upscaling_resize": 4}, (160, 120)),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 0.01}, (1, 1)),
        ({"upscaler_1": "None", "upscaling_resize": 4}, (40, 30)),
        ({}, (40, 30)),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100}, (100, 100)),
        (
            {
                "upscaler_1": "Lanczos",
                "resize_mode": "1",
                "upscaling_resize_w": 100.0,
                "upscaling_resize_h": 100,
                "upscaling_crop": "false",
            },
            (133, 100),
        ),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": None}, (512, 512)),
        *(({**TO_SIZE, "upscaling_crop": crop}, (100, 100)) for crop in ("", " ", None, 1, "1", "True")),
        *(({**TO_SIZE, "upscaling_crop": crop}, (133, 100)) for crop in (0, 0.0, "0", "off", False)),
    ],
)
def test_sizes(sent: dict[str, Any], size: tuple[int, int]) -> None:
    how = read_upscaling(sent)
    assert how.result(40, 30) == size
    made = upscaled(png(scene(40, 30)), how, limits=LIMITS, most_pixels=10**6, param="image")
    assert opened(made.data).size == (made.width, made.height) == size


@pytest.mark.parametrize(
    "sent",
    [
        {"resize_mode": 2},
        {"resize_mode": True},
        {"upscaling_resize": 0},
        {"upscaling_resize": -1},
        {"upscaling_resize": 17},
        {"upscaling_resize": "wide"},
        {"upscaling_resize": [2]},
        {"resize_mode": 1, "upscaling_resize_w": 0},
        {"resize_mode": 1, "upscaling_resize_h": 10**9},
        {"upscaler_2": "Nearest", "extras_upscaler_2_visibility": 2},
        {"upscaling_crop": "maybe"},
        {"upscaling_crop": [True]},
    ],
)
def test_what_cannot_be_is_refused_by_name(sent: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        read_upscaling({"upscaler_1": "Lanczos", **sent})
    assert refused.value.param in sent
    assert str(refused.value.param) in refused.value.message


def test_what_has_no_effect_is_named() -> None:
    sent = {"upscaler_1": "SwinIR_4x", "gfpgan_visibility": 1, "codeformer_visibility": 0, "codeformer_weight": 0.5}
    assert read_upscaling({**sent, "image": "x", "show_extras_results": True}).ignored == (
        "gfpgan_visibility",
        "upscaler_1",
    )


def test_a_second_upscaler_is_laid_over_the_first() -> None:
    source = png(scene(8, 8))

    def drawn(**fields: Any) -> bytes:
        how = read_upscaling({"upscaling_resize": 3, **fields})
        return opened(upscaled(source, how, limits=LIMITS, most_pixels=10**6, param="image").data).tobytes()

    lanczos, nearest = drawn(upscaler_1="Lanczos"), drawn(upscaler_1="Nearest")
    both = {"upscaler_1": "Lanczos", "upscaler_2": "Nearest"}
    assert lanczos != nearest
    assert drawn(**both) == lanczos
    assert drawn(**both, extras_upscaler_2_visibility=1) == nearest
    half = drawn(**both, extras_upscaler_2_visibility=0.5)
    assert all(abs(h - (a + b) / 2) <= 1 for h, a, b in zip(half, lanczos, nearest, strict=True))


def test_transparency_stays() -> None:
    image = scene(8, 8)
    image.putalpha(100)
    how = read_upscaling({"upscaler_1": "Lanczos"})
    made = opened(upscaled(png(image), how, limits=LIMITS, most_pixels=10**6, param="image").data)
    assert (made.mode, made.getpixel((9, 9))[3]) == ("RGBA", 100)  # type: ignore[index]


@pytest.mark.parametrize("share", [0, 0.5])
def test_what_a_network_says_of_its_picture_stays(share: float) -> None:
    """The file was written anew, and no word in it said that a model had made it."""
    out, info = io.BytesIO(), PngInfo()
    info.add_itxt(PNG_KEYWORD, "made by a model")
    scene(16, 16).save(out, "PNG", pnginfo=info)
    first, second = ("Lanczos", "four") if share else ("four", "None")
    how = read_upscaling(
        {"upscaler_1": first, "upscaler_2": second, "extras_upscaler_2_visibility": share}, networks=["four"]
    )

    def made(network: bytes) -> Picture:
        by_network = {"four": network}
        source = png(scene(8, 8))
        return upscaled(source, how, limits=LIMITS, most_pixels=10**6, param="image", by_network=by_network)

    picture = made(out.getvalue())
    assert picture.upscaler == "four"
    assert opened(picture.data).info[PNG_KEYWORD] == "made by a model"
    resampled = made(png(scene(16, 16)))  # in its place, where the device had no room
    assert resampled.upscaler is None
    assert PNG_KEYWORD not in opened(resampled.data).info


def test_a_result_of_too_many_pixels_is_refused() -> None:
    how = read_upscaling({"upscaler_1": "Lanczos", "upscaling_resize": 16})
    with pytest.raises(BadRequest, match="upscaling_resize"):
        upscaled(png(scene(100, 100)), how, limits=LIMITS, most_pixels=10**6, param="image")
