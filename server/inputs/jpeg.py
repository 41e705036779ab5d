"""Reads a JPEG's segments.

Knows markers, the frame header and which segments draw pixels; decodes none. A phone's second picture (a
gain map or depth map behind the first) is not animation: the first picture is the photograph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from server.inputs.container import DAMAGED, MAX_PARTS, TRUNCATED, Container, MalformedError

SIGNATURE = b"\xff\xd8\xff"
MAX_SCANS = 100  # each scan of a progressive picture passes over every pixel; encoders write about ten

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
_BARE = {0x01, _SOI, *range(0xD0, 0xD8)}  # markers without a length
_METADATA = {*range(_APP0, _APP15 + 1), _COMMENT} - {_APP0, _APP14}  # JFIF and Adobe decide the colours
_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # entropy data holds only ff00 and restarts


def read(data: bytes) -> Container:
    lean = [data[:2]]
    size: tuple[int, int] | None = None
    exif: bytes | None = None
    profile: dict[int, bytes] = {}
    scans = 0
    for marker, segment in _segments(data):
        if marker in _METADATA:
            body = segment[4:]
            if marker == _APP1 and body.startswith(_EXIF):
                exif = exif or body[len(_EXIF) :]
            elif marker == _APP2 and body.startswith(_ICC) and len(body) > 14:
                profile[body[12]] = body[14:]
            continue
        if marker in _FRAMES:
            if size is not None or len(segment) < 10:
                raise MalformedError(DAMAGED)
            size = (int.from_bytes(segment[7:9]), int.from_bytes(segment[5:7]))
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise MalformedError(DAMAGED)
        lean.append(segment)
    if size is None or not scans:
        raise MalformedError(TRUNCATED)
    icc = b"".join(profile[part] for part in sorted(profile)) or None
    return Container("JPEG", *size, lean=b"".join(lean), exif=exif, icc=icc)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker with its segment, a scan with its entropy data, up to the end of the first picture.

    Without an end marker the decoder is left to say whether the pixels are all there: some writers forget it.
    """
    offset = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, offset)
        if found is None:
            return
        marker, start = found[1][0], found.end() - 2
        if marker == _EOI:
            yield marker, b"\xff\xd9"
            return
        if marker in _BARE:
            offset = found.end()
            continue
        length = int.from_bytes(data[start + 2 : start + 4])
        offset = start + 2 + length
        if length < 2 or offset > len(data):
            raise MalformedError(TRUNCATED)
        if marker == _SOS:
            following = _MARKER_IN_SCAN.search(data, offset)
            offset = following.start() if following else len(data)
        yield marker, data[start:offset]
    raise MalformedError(DAMAGED)
