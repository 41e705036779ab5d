"""The three spellings of an image field."""

from __future__ import annotations

import base64

import pytest

from server.errors import BadImage, TooLarge
from server.inputs.decode import ImageLimits
from server.inputs.fetch import Fetcher
from server.inputs.source import read_source

pytestmark = pytest.mark.anyio

LIMITS = ImageLimits(max_bytes=300_000, max_pixels=1)


async def read(text: str) -> bytes:
    async def own(url: str) -> bytes | None:
        return b"fetched " + url.encode() if url.startswith("http") else None

    fetcher = Fetcher("public", timeout_s=1, max_bytes=1, own=own)
    return await read_source(text, fetcher=fetcher, limits=LIMITS, param="image")


async def test_url_data_url_and_bare_base64() -> None:
    assert await read("https://a.example/x") == b"fetched https://a.example/x"
    assert await read("data:image/png;base64,QUJD") == b"ABC"
    assert await read("DATA:image/png;base64,QUJD") == b"ABC"
    assert await read("QUJD") == b"ABC"
    assert await read(" https://a.example/x\n") == b"fetched https://a.example/x"
    assert await read("\n data:image/png;base64,QUJD") == b"ABC"


async def test_long_text_is_decoded_too() -> None:
    data = bytes(range(256)) * 1000
    assert await read(base64.b64encode(data).decode()) == data
    with pytest.raises(TooLarge):
        await read(base64.b64encode(data * 2).decode())


@pytest.mark.parametrize("text", ["file:///etc/passwd", "ftp://a.example/", "s3://bucket/key", "about:blank"])
async def test_other_schemes_get_the_fetchers_refusal(text: str) -> None:
    with pytest.raises(BadImage, match="could not be fetched") as caught:
        await read(text)
    assert caught.value.param == "image"
