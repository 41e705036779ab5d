"""Multipart bodies → their parts, read as they arrive (RFC 7578, RFC 2046).

Knows boundaries, part headers and limits; knows no field. Nothing that a client can choose makes it work more than
once over a byte: names of character sets and encodings of file names are not looked at, headers and boundaries are
bounded before they are read, and a part is refused at its limit, while it arrives. Nothing is written to a disk: the
bytes are those of the body, which the request holds of the budget already.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from server.errors import BadRequest

MAX_BOUNDARY = 200  # characters; RFC 2046 allows 70
MAX_CONTENT_TYPE = 1024  # characters of the request's Content-Type
MAX_PART_HEADERS = 8192  # bytes of one part's headers
MAX_PARTS = 1024
MAX_PREAMBLE = 8192  # bytes before the first boundary, which RFC 2046 has a reader ignore

_PARAMETER = re.compile(r';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*+"|[^;"]*)', re.ASCII)
_ASCII_LIKE = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
_AS_IT_IS = frozenset({"", "7bit", "8bit", "binary"})
_DECODED = frozenset({"base64", "quoted-printable"})


@dataclass
class Part:
    """One part. Its data grows while it arrives, as it was sent."""

    name: str
    filename: str | None  # None: a field, not a file
    encoding: str = ""  # its Content-Transfer-Encoding, base64 or quoted-printable, where its data has one
    data: bytearray = field(default_factory=bytearray)


class Limits(Protocol):
    """What a part may be, asked as its headers come and whenever it has grown. Raises the refusal."""

    def begin(self, part: Part) -> None: ...

    def grown(self, part: Part) -> None: ...


class _State(Enum):
    START = auto()  # before the first boundary
    HEADERS = auto()
    DATA = auto()
    BOUNDARY = auto()  # behind one: a line break, or the two dashes of the end
    END = auto()


def malformed() -> BadRequest:
    """The refusal of what is not a form at all."""
    return BadRequest(
        "The body is not multipart/form-data as its Content-Type says; its boundary must be named there, and every"
        " part must have a name."
    )


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises BadRequest."""
    if len(content_type) > MAX_CONTENT_TYPE:
        raise BadRequest(f"Content-Type has more than {MAX_CONTENT_TYPE} characters.")
    parameters = _parameters(content_type)
    if parameters.get("charset", "").lower() not in _ASCII_LIKE:
        raise BadRequest("The form's charset cannot be read; send UTF-8.")
    boundary = parameters.get("boundary", "").rstrip(" ")
    if not boundary or len(boundary) > MAX_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise malformed()
    return boundary.encode("ascii")


async def read_parts(chunks: AsyncIterator[bytes], boundary: bytes, limits: Limits) -> list[Part]:
    """Every part, whole. Raises BadRequest, also for a body that ends before its closing delimiter."""
    reader = _Reader(boundary, limits)
    async for chunk in chunks:
        reader.feed(chunk)
    return reader.end()


class _Reader:
    """Takes a body apart, chunk by chunk."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._limits = limits
        self._state = _State.START
        self._buffer = bytearray(b"\r\n")  # so that the first boundary is found like any other
        self._parts: list[Part] = []

    def feed(self, chunk: bytes) -> None:
        if self._state is _State.END:
            return  # what follows the end is nothing (RFC 2046)
        self._buffer += chunk
        while self._step():
            pass

    def end(self) -> list[Part]:
        if self._state is _State.START and len(self._buffer) > 2 * len(self._delimiter):
            raise malformed()
        if self._state is not _State.END:
            raise BadRequest(
                "The form ends without its closing delimiter, so a part of it is missing. It was cut off, or the client"
                " forgets the last line, --boundary--."
            )
        return self._parts

    def _step(self) -> bool:
        """Read what can be read of the buffer; False when more must arrive first."""
        match self._state:
            case _State.START:
                return self._start()
            case _State.DATA:
                return self._data()
            case _State.BOUNDARY:
                return self._boundary()
            case _State.HEADERS:
                return self._headers()
            case _State.END:
                return False

    def _start(self) -> bool:
        found = self._buffer.find(self._delimiter)
        if (len(self._buffer) if found < 0 else found) > MAX_PREAMBLE + len(self._delimiter):
            raise malformed()
        return found >= 0 and self._behind(found)

    def _data(self) -> bool:
        part = self._parts[-1]
        found = self._buffer.find(self._delimiter)
        # The end of what arrived may be the beginning of a delimiter.
        ready = found if found >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if ready > 0:
            part.data += memoryview(self._buffer)[:ready]
            self._limits.grown(part)
        if found >= 0:
            return self._behind(found)
        if ready > 0:
            del self._buffer[:ready]
        return False

    def _behind(self, found: int) -> bool:
        del self._buffer[: found + len(self._delimiter)]
        self._state = _State.BOUNDARY
        return True

    def _boundary(self) -> bool:
        if self._buffer.startswith(b"--"):
            self._state = _State.END
            self._buffer.clear()
            return False
        line_end = self._buffer.find(b"\r\n")
        if line_end < 0:
            if len(self._buffer) > 64:
                raise malformed()
            return False
        if self._buffer[:line_end].strip(b" \t"):
            raise malformed()
        del self._buffer[:line_end]  # its line break begins the headers, so that none at all are found like others
        self._state = _State.HEADERS
        return True

    def _headers(self) -> bool:
        found = self._buffer.find(b"\r\n\r\n")
        if (len(self._buffer) if found < 0 else found) > MAX_PART_HEADERS:
            raise BadRequest(f"The headers of a part of the form have more than {MAX_PART_HEADERS} bytes.")
        if found < 0:
            return False
        if len(self._parts) == MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} parts.")
        part = _part(bytes(self._buffer[:found]))
        del self._buffer[: found + 4]
        self._limits.begin(part)
        self._parts.append(part)
        self._state = _State.DATA
        return True


def _part(headers: bytes) -> Part:
    """A part without its data. Raises BadRequest for one that has no name."""
    try:
        lines = headers.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise BadRequest("The names in the form's part headers are not UTF-8.") from None
    found: dict[str, str] = {}
    for line in lines:
        header, _, value = line.partition(":")
        found.setdefault(header.strip().lower(), value.strip())
    disposition = found.get("content-disposition", "")
    parameters = _parameters(disposition)
    if disposition.partition(";")[0].strip().lower() != "form-data" or "name" not in parameters:
        raise malformed()
    is_file = not parameters.keys().isdisjoint(("filename", "filename*"))
    filename = parameters.get("filename", parameters.get("filename*", "")) if is_file else None
    return Part(parameters["name"], filename, _encoding(found.get("content-transfer-encoding", "")))


def _encoding(named: str) -> str:
    """How a part's data must be decoded; empty where it is as it is. RFC 7578 has senders do without."""
    encoding = named.partition(";")[0].strip().lower()
    if encoding in _AS_IT_IS:
        return ""
    if encoding not in _DECODED:
        raise BadRequest(
            "A part of the form has a Content-Transfer-Encoding that is not read here. Send its data as it is."
        )
    return encoding


def _parameters(header: str) -> dict[str, str]:
    """The parameters of a header; of two of one name, the first."""
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(header):
        value = match[2]
        quoted = value.startswith('"')
        found.setdefault(match[1].lower(), re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value.strip(" \t"))
    return found
