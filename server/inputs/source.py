"""What a request's image field holds → the file's bytes.

Knows the three spellings: a URL, a ``data:`` URL, bare base64; knows nothing of pictures.
"""

from __future__ import annotations

import asyncio
import re

from server.inputs.base64_text import decode_base64
from server.inputs.decode import ImageLimits
from server.inputs.fetch import Fetcher

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}:", re.IGNORECASE | re.ASCII)  # no base64 holds a colon
_INLINE = 64 * 1024  # characters decoded on the event loop; more go to a thread


def is_url(text: str) -> bool:
    """Is this a URL to fetch, rather than the picture itself?"""
    text = text.lstrip()
    return _SCHEME.match(text) is not None and text[:5].lower() != "data:"


async def read_source(text: str, *, fetcher: Fetcher, limits: ImageLimits, param: str, principal: str = "") -> bytes:
    """The bytes that an image field stands for. Raises BadImage or TooLarge, naming ``param``."""
    if is_url(text):
        return await fetcher.fetch(text.strip(), param=param, principal=principal)
    if len(text) <= _INLINE:
        return decode_base64(text, max_bytes=limits.max_bytes, param=param)
    return await asyncio.to_thread(decode_base64, text, max_bytes=limits.max_bytes, param=param)
