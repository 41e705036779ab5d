"""A text in a PNG that has been encoded without one."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from server.inputs.png import SIGNATURE

_HEADER: Final = len(SIGNATURE) + 4 + 4 + 13 + 4  # where IHDR ends, which is always the first chunk


def with_text(png: bytes, key: str, text: str) -> bytes:
    """The same picture with ``text`` under ``key``, as iTXt: any script, not compressed."""
    body = b"iTXt" + key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_HEADER] + chunk + png[_HEADER:]
