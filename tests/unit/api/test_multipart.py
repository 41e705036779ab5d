"""Multipart bodies taken apart, in every way in which they may arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from server.api.multipart import MAX_PART_HEADERS, MAX_PARTS, Part, boundary_of, read_parts
from server.errors import BadRequest, TooLarge
from tests.hostile.memory import form, part

BOUNDARY = b"a-boundary"
MIB = 1024 * 1024


class Anything:
    def begin(self, part: Part) -> None: ...

    def grown(self, part: Part) -> None: ...


class AtMost:
    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0

    def begin(self, part: Part) -> None: ...

    def grown(self, part: Part) -> None:
        self.seen = len(part.data)
        if self.seen > self.size:
            raise TooLarge("Too large.")


def read(body: bytes, *, step: int = 64 * 1024, limits: Anything | AtMost | None = None) -> list[tuple[str, object]]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), step):
            yield body[start : start + step]

    parts = asyncio.run(read_parts(chunks(), BOUNDARY, limits or Anything()))
    return [(part.name, bytes(part.data)) for part in parts]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64 * 1024])
def test_parts_arrive_whole_however_they_are_cut(step: int) -> None:
    data = b"\r\n--a-boundar\r\n--\r\n\r\n--a-boundarx\r\r\n" * 3
    body = b"\r\n" + form(part("one", data, filename="x"), part("two", b""), part("thrée", b"3")) + b"epilogue"
    assert read(body, step=step) == [("one", data), ("two", b""), ("thrée", b"3")]


@pytest.mark.parametrize("step", [1, 64 * 1024])
@pytest.mark.parametrize(
    "preamble", [b"This is a form.\r\n", b"x\r\n--a-boundar\r\n", b"x" * 8000 + b"\r\n", b"\r\n\r\n"]
)
def test_a_preamble_is_ignored(preamble: bytes, step: int) -> None:
    """It was 400, though RFC 2046 has a reader ignore it and libraries for mail write one."""
    assert read(preamble + form(part("one", b"1")), step=step) == [("one", b"1")]


def test_a_body_without_the_boundary_is_refused_early() -> None:
    for body in (b'{"prompt": "x", "n": 1, "size": "256x256"}', b"--other\r\n" * 20, b"x" * 9000 + b"\r\n"):
        with pytest.raises(BadRequest, match="its boundary"):
            read(body + form() if len(body) > 8192 else body)


def test_a_body_without_its_closing_delimiter_is_refused() -> None:
    """Its last part was dropped without a word: without its mask, the whole picture was redrawn."""
    whole = form(part("image", b"x", filename="x"), part("mask", b"y", filename="y"))
    for end in (whole.rindex(b"--\r\n"), whole.rindex(b"a-boundary"), whole.rindex(b"y"), 3, 0):
        with pytest.raises(BadRequest, match="closing delimiter"):
            read(whole[:end])
    assert read(whole.removesuffix(b"\r\n")) == read(whole)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: text/plain",
        b'Content-Disposition: form-data; filename="x"',
        b'Content-Disposition: attachment; name="x"',
        b"",
    ],
)
def test_a_part_without_a_name_is_refused(head: bytes) -> None:
    with pytest.raises(BadRequest, match="must have a name"):
        read(b"--a-boundary\r\n" + head + b"\r\n\r\nx\r\n--a-boundary--\r\n")


def test_names_are_read_as_programs_write_them() -> None:
    for head, name in (
        (b'content-disposition:form-data;name="a b;c"', "a b;c"),
        (b"Content-Disposition: form-data; name=plain", "plain"),
        (b'Content-Disposition: FORM-DATA ; Name="with \\"quotes\\""', 'with "quotes"'),
        (b"X-Other: y\r\nContent-Disposition: form-data; name*=punycode''x; name=\"right\"", "right"),
    ):
        assert read(b"--a-boundary  \r\n" + head + b"\r\n\r\nx\r\n--a-boundary--") == [(name, b"x")]


def test_an_encoding_of_a_part_that_is_not_read_is_refused() -> None:
    head = b'--a-boundary\r\nContent-Disposition: form-data; name="x"\r\nContent-Transfer-Encoding: %s'
    head += b"\r\n\r\nx\r\n--a-boundary--"
    for encoding in (b"7bit", b"8BIT", b"binary", b"", b"base64", b"Quoted-Printable"):
        assert read(head % encoding) == [("x", b"x")]
    for encoding in (b"x-uuencode", b"gzip", b"base64, base64"):
        with pytest.raises(BadRequest, match="Content-Transfer-Encoding"):
            read(head % encoding)


def test_a_part_is_refused_at_its_limit_while_it_arrives() -> None:
    """Ten uploads of 60 MiB put 595 MiB into /tmp before the first was refused, where the limit is 20."""
    limits = AtMost(MIB)
    with pytest.raises(TooLarge):
        read(form(part("image", bytes(10 * MIB), filename="x")), limits=limits)
    assert limits.seen <= MIB + 64 * 1024


def test_headers_and_parts_are_bounded() -> None:
    with pytest.raises(BadRequest, match=f"{MAX_PART_HEADERS}"):
        read(b"--a-boundary\r\nX: " + b"x" * MIB)
    with pytest.raises(BadRequest, match=f"{MAX_PARTS}"):
        read(form(*[part("x", b"")] * (MAX_PARTS + 1)))
    with pytest.raises(BadRequest):
        read(b"x" * MIB)
    with pytest.raises(BadRequest):
        read(b"--a-boundary" + b" " * MIB)


@pytest.mark.parametrize(
    "filler", [b"\r", b"\n", b"\r\n", b"\r\n-", b"\r\n--a-boundar", b"-", b"\r\n--a-boundary\r", b'";']
)
def test_no_data_makes_it_work_twice(filler: bytes) -> None:
    """Parsers that look at every line break one by one take half a minute for a body of them."""
    started = time.process_time()
    with pytest.raises(BadRequest):
        read(b'--a-boundary\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + filler * (20 * MIB // len(filler)))
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "header",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 201,
        "multipart/form-data; boundary=\xe9",
        "multipart/form-data; charset=punycode; boundary=x",
        "multipart/form-data; charset=utf-16; boundary=x",
        "multipart/form-data; " + '";' * 30_000,
        "multipart/form-data" + ';a="' * 200 + "; boundary=x" + " " * 60_000,
    ],
)
def test_boundaries_that_cannot_be_used(header: str) -> None:
    started = time.process_time()
    with pytest.raises(BadRequest):
        boundary_of(header)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "header", ['x; boundary="a b"', "x;boundary=a b;charset=UTF-8", 'x; Boundary="a b"; charset=""']
)
def test_boundaries_that_can(header: str) -> None:
    assert boundary_of(header) == b"a b"
