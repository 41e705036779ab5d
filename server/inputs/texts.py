"""The texts that programs write into pictures beside the pixels, such as the parameters that a picture was made with.

Knows where PNG, JPEG and WebP keep texts; decodes no pixels. What does not fit its format is passed by: such a text is
a nicety, and no picture is refused for it. What is compressed expands within the bounds of ``container``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from server.errors import BadImage
from server.inputs import jpeg, png, webp
from server.inputs.container import MAX_PARTS, Container, Inflater, MalformedError

MAX_TEXT: Final = 1024 * 1024  # bytes of all texts of one picture
MAX_TEXTS: Final = 256

_BYTE, _ASCII, _LONG, _UNDEFINED = 1, 2, 4, 7  # types of a TIFF field
_DESCRIPTION, _EXIF_FOLDER, _COMMENT = 0x010E, 0x8769, 0x9286  # tags
_MAX_FIELDS: Final = 512  # of one folder
_UNICODE, _PLAIN = b"UNICODE\0", b"ASCII\0\0\0"  # how a comment begins


def read_texts(data: bytes, *, param: str) -> dict[str, str]:
    """Every text by its key. Of EXIF: ``Description`` and ``UserComment``. Raises BadImage for what is no picture."""
    try:
        container = _container(data)
        found = _png_texts(data) if container.format == "PNG" else iter(())
        texts: dict[str, str] = {}
        size = 0
        for key, text in (*found, *_exif_texts(container.exif or b"")):
            size += len(text)
            if len(texts) >= MAX_TEXTS or size > MAX_TEXT:
                break
            texts.setdefault(key, text)
    except MalformedError as error:
        raise BadImage(f"{param}: the picture {error}.", param=param) from None
    return texts


def _container(data: bytes) -> Container:
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data)
    if webp.is_webp(data):
        return webp.read(data)
    raise MalformedError("is not a PNG, JPEG or WebP file" if data else "is empty; its file has 0 bytes")


def _png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    """Of a file whose chunks have been walked before, and are whole."""
    inflate, offset = Inflater(), len(png.SIGNATURE)
    for _ in range(MAX_PARTS):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        kind, body = data[offset + 4 : offset + 8], data[offset + 8 : end - 4]
        offset = end
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        key, _, rest = body.partition(b"\0")
        text: bytes | None = rest
        if kind == b"zTXt":
            text = inflate(rest[1:])
        elif kind == b"iTXt":  # flag, method, language\0, translated keyword\0, text
            text = rest[2:].split(b"\0", 2)[-1]
            text = inflate(text) if rest[:1] == b"\x01" else text
        if text is not None:
            yield key.decode("latin-1"), _decoded(text, "utf-8" if kind == b"iTXt" else "latin-1")


def _exif_texts(tiff: bytes) -> Iterator[tuple[str, str]]:
    order: dict[bytes, str] = {b"II*\0": "little", b"MM\0*": "big"}
    if tiff[:4] not in order:
        return
    reader = _Tiff(tiff, little=order[tiff[:4]] == "little")
    first = reader.fields(reader.number(4, 4))
    if _DESCRIPTION in first:
        yield "Description", _decoded(first[_DESCRIPTION].rstrip(b"\0"), "utf-8")
    folder = first.get(_EXIF_FOLDER, b"")
    comment = reader.fields(reader.value(folder)).get(_COMMENT, b"") if len(folder) == 4 else b""
    if comment.startswith(_UNICODE):
        text = comment[len(_UNICODE) :]
        # In the file's order by the standard; programs write either. Most texts have blanks, whose high byte is 0.
        high_first, low_first = text[0::2].count(0), text[1::2].count(0)
        little = order[tiff[:4]] == "little" if high_first == low_first else low_first > high_first
        yield "UserComment", _decoded(text, "utf-16-le" if little else "utf-16-be").rstrip("\0")
    elif comment.startswith(_PLAIN):
        yield "UserComment", _decoded(comment[len(_PLAIN) :], "utf-8").rstrip("\0")


class _Tiff:
    """The fields of an EXIF record: texts, and the places of folders."""

    def __init__(self, data: bytes, *, little: bool) -> None:
        self._data = data
        self._little = little

    def value(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self._little else "big")

    def number(self, offset: int, size: int) -> int:
        return self.value(self._data[offset : offset + size])

    def fields(self, offset: int) -> dict[int, bytes]:
        """The bytes of each field of the folder at ``offset`` that may be a text or a place, by its tag."""
        found: dict[int, bytes] = {}
        for index in range(min(self.number(offset, 2), _MAX_FIELDS)):
            start = offset + 2 + 12 * index
            tag, kind, count = self.number(start, 2), self.number(start + 2, 2), self.number(start + 4, 4)
            if kind not in (_BYTE, _ASCII, _LONG, _UNDEFINED):
                continue
            size = count * (4 if kind == _LONG else 1)
            place = start + 8 if size <= 4 else self.number(start + 8, 4)
            if place + size <= len(self._data):
                found.setdefault(tag, self._data[place : place + size])
        return found


def _decoded(text: bytes, encoding: str) -> str:
    return text.decode(encoding, "replace")
