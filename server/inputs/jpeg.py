"""Reads a JPEG's segments.

Knows markers, the frame header and which segments draw pixels; decodes none. A phone's second picture (a
gain map or depth map behind the first) is not animation: the first picture is the photograph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from server.inputs.container import DAMAGED, MAX_PARTS, TRUNCATED, Container, MalformedError

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
MAX_SCANS = 100  # each scan of a progressive picture passes over every pixel; encoders write about ten
MAX_SCANNED_PIXELS = 1_000_000_000  # by all scans together
MIN_SCANS = 20  # allowed at any size

_WINDOW = 1024 * 1024  # bytes
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
_BARE = {0x01, _SOI, *range(0xD0, 0xD8)}  # markers without a length
_METADATA = {*range(_APP0, _APP15 + 1), _COMMENT} - {_APP0, _APP14}  # JFIF and Adobe decide the colours
_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
# The last ff before a marker's code. Any number may fill the place before it: to match them all takes the square of it.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # entropy data holds only ff00 and restarts


def read(data: bytes) -> Container:
    lean = [data[:2]]
    size: tuple[int, int] | None = None
    exif: bytes | None = None
    profile: dict[int, bytes] = {}
    frame = b""
    scans: list[bytes] = []
    ended = False
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
            frame = segment
        if marker == _SOS:
            scans.append(segment[: 2 + int.from_bytes(segment[2:4])])
            _check_scans(len(scans), size)
        ended = marker == _EOI
        lean.append(_without_fill(segment) if marker == _SOS else segment)
    if size is None or not scans:
        raise MalformedError(TRUNCATED)
    if not ended and not _is_whole(frame, scans):
        raise MalformedError(TRUNCATED)
    icc = b"".join(profile[part] for part in sorted(profile)) or None
    return Container("JPEG", *size, lean=b"".join(lean), exif=exif, icc=icc, ended=ended)


def _without_fill(scan: bytes) -> bytes:
    """A scan with no fill bytes, which may stand before any marker: a decoder begins on a long run again and again."""
    while b"\xff\xff" in scan:
        scan = scan.replace(b"\xff\xff", b"\xff")
    return scan


def _check_scans(count: int, size: tuple[int, int] | None) -> None:
    if size is None:
        raise MalformedError(DAMAGED)
    if count > MAX_SCANS or (count > MIN_SCANS and count * size[0] * size[1] > MAX_SCANNED_PIXELS):
        raise MalformedError("has more scans than its size allows; save it as a baseline JPEG")


def _is_whole(frame: bytes, scans: list[bytes]) -> bool:
    """Do the scans bring every coefficient of every component in full? A file may be cut off between two."""
    missing = {frame[at]: set(range(64)) for at in range(10, len(frame) - 2, 3)}
    for scan in scans:
        last = 5 + 2 * scan[4]
        if len(scan) < last + 3:
            return False
        first, end, precision = scan[last], scan[last + 1], scan[last + 2] & 15
        if precision == 0:
            for at in range(5, last, 2):
                missing.get(scan[at], set()).difference_update(range(first, end + 1))
    return not any(missing.values())


def _search(marker: re.Pattern[bytes], data: bytes, offset: int) -> re.Match[bytes] | None:
    """The first marker from there on, looked for in windows: one search would hold up all other threads."""
    for start in range(offset, len(data), _WINDOW):
        found = marker.search(data, start, start + _WINDOW + 1)  # the last ff may stand at the window's end
        if found is not None:
            return found
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker with its segment, a scan with its entropy data, up to the end of the first picture.

    Without an end marker, decode.py finds out whether the pixels are all there: some writers forget it.
    """
    offset = 2
    for _ in range(MAX_PARTS):
        found = _search(_MARKER, data, offset)
        if found is None:
            return
        marker, start = found[1][0], found.end() - 2
        if marker == _EOI:
            yield marker, END
            return
        if marker in _BARE:
            offset = found.end()
            continue
        length = int.from_bytes(data[start + 2 : start + 4])
        offset = start + 2 + length
        if length < 2 or offset > len(data):
            raise MalformedError(TRUNCATED)
        if marker == _SOS:
            following = _search(_MARKER_IN_SCAN, data, offset)
            offset = following.start() if following else len(data)
            if following is None:
                yield marker, data[start:].rstrip(b"\xff")  # half an end marker
                return
        yield marker, data[start:offset]
    raise MalformedError(DAMAGED)
