"""A client's picture file → safe pixels.

Knows limits, what each sample layout means, and the two conventions for masks; knows nothing of where the
bytes came from. Only PNG, JPEG and WebP are opened, each by the decoder its first bytes name: there is no
format detection. Sizes are checked before any decoding. Functions are synchronous, for a thread, and share
no state. Nothing that Pillow says is repeated: its messages hold memory addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO

from PIL import Image, ImageChops, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipelines.pictures import masks
from pipelines.spec import Pixels
from server.errors import BadImage, TooLarge
from server.inputs import jpeg, png, webp
from server.inputs.colour import to_srgb, upright
from server.inputs.container import DAMAGED, MAX_SIDE, TRUNCATED, Container, MalformedError

# The classes themselves, not Image.open: that warns about large pictures, and warnings filters are not
# per thread.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
}
_UNKNOWN = "is not a PNG, JPEG or WebP file"
_MAX_FAINT = 12  # of 255: what a mask's noise is cleaned of, in pipelines.pictures.masks
_EMPTY = "is empty; its file has 0 bytes"
# Entropy-coded bits that are neither the zeros that the decoder fills in nor the ones that encoders pad with.
_ANYTHING = b"\xaa" * 64


@dataclass(frozen=True)
class ImageLimits:
    """How much input picture one file may be."""

    max_bytes: int  # encoded
    max_pixels: int  # width × height


@dataclass(frozen=True)
class Decoded:
    """An input picture: its colours, laid on white, and its transparency if it has any."""

    rgb: Pixels  # mode "RGB"
    alpha: Pixels | None  # mode "L", 255 = opaque; None when every pixel is
    rgba: Pixels | None = None  # mode "RGBA", colours not laid on anything; None when alpha is


def decode_image(data: bytes, *, limits: ImageLimits, param: str) -> Decoded:
    """Decode a picture. Raises TooLarge for its bytes, BadImage for everything else, naming ``param``."""
    rgb, alpha = _decode(data, limits, param)
    if alpha is None:
        return Decoded(_pixels(rgb), None)
    rgba = _pixels(Image.merge("RGBA", (*rgb.split(), alpha)))
    rgb.paste((255, 255, 255), mask=ImageChops.invert(alpha))  # in place: a picture may be 200 MB
    return Decoded(_pixels(rgb), _pixels(alpha), rgba)


def decode_mask(data: bytes, *, limits: ImageLimits, param: str) -> Pixels:
    """Decode a mask: mode "L", 255 = repaint.

    Both conventions are understood; ``masks.from_picture`` tells them apart.
    """
    rgb, alpha = _decode(data, limits, param)
    levels = rgb.convert("L").histogram() if alpha is None else [0]
    if any(levels[1:]) and not any(levels[_MAX_FAINT + 1 :]):  # a mask of 0 and 1, as arrays have them
        raise BadImage(
            f"{param}: the picture covers nothing: its brightest pixel has {_MAX_FAINT} of 255 at most, which counts as"
            " black. What is to be drawn anew must be white, 255, or transparent.",
            param=param,
        )
    return _pixels(masks.from_picture(rgb, alpha))


def _decode(data: bytes, limits: ImageLimits, param: str) -> tuple[Image.Image, Image.Image | None]:
    """RGB and, when there is real transparency, alpha; both upright."""
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{param}: a picture may have at most {limits.max_bytes} bytes.", param=param)
    try:
        container = _read_container(data)
        if min(container.width, container.height) < 1:
            raise MalformedError(DAMAGED)
        if container.width * container.height > limits.max_pixels:
            raise MalformedError(f"has too many pixels; at most {limits.max_pixels} are accepted")
        if max(container.width, container.height) > MAX_SIDE:
            raise MalformedError(f"has a side of more than {MAX_SIDE} pixels")
        colour, alpha = _open(container)
        rgb = to_srgb(colour, container.icc)
    except MalformedError as error:
        raise BadImage(f"{param}: the picture {error}.", param=param) from None
    except Exception:  # decoders raise whatever they meet: OSError, SyntaxError, struct.error, MemoryError …
        raise BadImage(f"{param}: the picture {DAMAGED}.", param=param) from None
    if alpha is not None:
        if alpha.getextrema() == (255, 255):
            alpha = None
        else:
            alpha = upright(alpha, container.exif)
    return upright(rgb, container.exif), alpha


def _read_container(data: bytes) -> Container:
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data)
    if webp.is_webp(data):
        return webp.read(data)
    raise MalformedError(_UNKNOWN if data else _EMPTY)


def _open(container: Container) -> tuple[Image.Image, Image.Image | None]:
    """The decoded colours as L, RGB or CMYK, and the alpha channel as L, if the file has one."""
    image = _load(container) if container.ended else _load_unended(container)
    alpha: Image.Image | None = None
    match image.mode:
        case "RGBA" | "LA":
            alpha = image.getchannel("A")
            # 16-bit grey with alpha arrives as RGBA; one band of it is the grey that its profile speaks of
            colour = image.getchannel(0) if container.grey else image.convert("RGB")
        case "I;16":
            # the high bytes: Pillow's own conversion saturates everything above 255
            colour = Image.frombytes("L", image.size, image.tobytes()[1::2])
            if not colour.getbbox():  # an array of 0 to 255 saved as 16 bits: nearly black, and not nothing
                colour = Image.frombytes("L", image.size, image.tobytes()[0::2]).point([0] + [1] * 255)
        case "1":
            colour = image.convert("L")
        case "P":
            colour = image.convert("RGB")
        case "L" | "RGB" | "CMYK":  # CMYK: Pillow inverts, as Adobe writes it and browsers read it
            colour = image
        case _:
            raise MalformedError(DAMAGED)
    if container.transparency is not None and alpha is None:
        alpha = _keyed_alpha(image, colour, container)
    return colour, alpha


def _load(container: Container, rawmode: str | None = None) -> Image.Image:
    image = _DECODERS[container.format](BytesIO(container.lean))
    if image.size != (container.width, container.height):
        raise MalformedError(DAMAGED)  # checked one size, would decode another
    if rawmode is not None:
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    image.load()
    return image


def _load_unended(container: Container) -> Image.Image:
    """A JPEG without its end marker: some writers forget it, and some files were cut off.

    The decoder fills in what is missing and does not say so. If nothing is, it reads nothing of what follows the last
    pixel, and the picture is the same whatever that is.
    """
    image = _load(replace(container, lean=container.lean + jpeg.END))
    other = _load(replace(container, lean=container.lean + _ANYTHING + jpeg.END))
    if ImageChops.difference(image, other).getbbox() is not None:
        raise MalformedError(TRUNCATED)
    return image


def _keyed_alpha(image: Image.Image, colour: Image.Image, container: Container) -> Image.Image:
    """Alpha from a PNG's tRNS chunk: one colour, or an alpha for each palette entry.

    Samples of 1, 2 and 4 bits have been scaled to 8 by now, so the key is scaled with them; of 16-bit samples
    both bytes are compared.
    """
    key = container.transparency or b""
    if image.mode == "P":
        indices = Image.frombytes("L", image.size, image.tobytes())
        return indices.point(list(key[:256].ljust(256, b"\xff")))
    if len(key) != 2 * len(colour.getbands()):
        raise MalformedError(DAMAGED)
    samples = [int.from_bytes(key[at : at + 2]) for at in range(0, len(key), 2)]
    if container.depth < 16:
        most = (1 << container.depth) - 1
        return _unlike(colour, [(sample & most) * 255 // most for sample in samples])
    if image.mode == "I;16":
        low = Image.frombytes("L", image.size, image.tobytes()[0::2])
    else:
        low = _load(container, "RGB;16L")  # decoded once more, for the bytes that the first pass dropped
    high = _unlike(colour, [sample >> 8 for sample in samples])
    return ImageChops.lighter(high, _unlike(low, [sample & 255 for sample in samples]))


def _unlike(image: Image.Image, key: list[int]) -> Image.Image:
    """0 where every band has its key's value, else 255."""
    unlike = Image.new("L", image.size, 0)
    for band, sample in zip(image.split(), key, strict=True):
        unlike = ImageChops.lighter(unlike, band.point([0 if value == sample else 255 for value in range(256)]))
    return unlike


def _pixels(image: Image.Image) -> Pixels:
    return Pixels(width=image.width, height=image.height, mode=image.mode, data=image.tobytes())
