"""JPEGs without their end marker: drawn from if nothing else is missing, and named incomplete if something is."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from server.errors import BadImage
from server.inputs.decode import decode_image, decode_mask
from tests.unit.inputs.picture_files import LIMITS

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "sharp": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "optimised": {"optimize": True},
}


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    out = BytesIO()
    noise = Image.effect_noise((64, 48), 60)  # whole blocks: what is cut off can be seen
    Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("tail", [b"", b"\xff", b"\xff\xff", b"\0" * 40], ids=["none", "half", "fill", "zeros"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_drawn_from(options: dict[str, Any], tail: bytes, mode: str) -> None:
    """It was called damaged, though every program shows it whole."""
    whole = jpeg(mode, **options)
    shown = decode_image(whole[:-2] + tail, limits=LIMITS, param="image")
    assert shown == decode_image(whole, limits=LIMITS, param="image")
    mask = decode_mask(whole[:-2] + tail, limits=LIMITS, param="mask")
    assert mask == decode_mask(whole, limits=LIMITS, param="mask")


@pytest.mark.parametrize("missing", [12, 50, 400])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_jpeg_that_lacks_pixels_too_is_named_incomplete(options: dict[str, Any], missing: int) -> None:
    with pytest.raises(BadImage, match="is incomplete"):
        decode_image(jpeg(**options)[:-missing], limits=LIMITS, param="image")


def test_a_progressive_jpeg_that_ends_between_two_scans_is_named_incomplete() -> None:
    """Every program shows it, blurred: nothing tells a decoder that a scan is still to come."""
    whole = jpeg(progressive=True)
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 3
    for start in starts[1:]:
        table = whole.rindex(b"\xff\xc4", 0, start)
        for end in (start, table):
            with pytest.raises(BadImage, match="is incomplete"):
                decode_image(whole[:end], limits=LIMITS, param="image")
