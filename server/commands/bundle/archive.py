"""One archive of files, their manifest first: as install.py reads it, and as any tar does.

Knows plain files, ustar headers and SHA-256; knows nothing of what the files are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from server.commands.bundle.install import BLOCK, FORMAT, MANIFEST, SIGNATURE, refuse_name
from server.commands.failure import CommandFailed

_CHUNK_BYTES = 1024 * 1024
_MAX_OCTAL = 8**11  # a size from here on is written in binary, as every tar of today reads it

Report = Callable[[int], None]  # of bytes that were read


def write(
    out: Path,
    files: Mapping[str, Path],
    facts: Mapping[str, Any],
    known: Mapping[str, str],
    *,
    sign: Callable[[Path, Path], None] | None,
    report: Report,
) -> None:
    """Write files under their names. ``facts`` go into the manifest; ``known`` are SHA-256 that files must have, by
    name. Raises CommandFailed, OSError; no half of an archive stays."""
    partial = out.with_name(f".{out.name}.part")
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(partial.open("wb"))
            zipped = out.suffix in (".gz", ".tgz")
            # The lightest: nearly all of it is compressed already, or does not compress.
            file: Any = stack.enter_context(gzip.GzipFile("", "wb", 1, raw, mtime=0)) if zipped else raw
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            entries = {name: _entry(name, path, known, report) for name, path in sorted(files.items())}
            manifest = folder / MANIFEST
            manifest.write_text(json.dumps({"format": FORMAT, **facts, "files": entries}, indent=1), encoding="utf-8")
            head = {MANIFEST: manifest}
            if sign is not None:
                head[SIGNATURE] = folder / SIGNATURE
                sign(manifest, head[SIGNATURE])
            for name, path in head.items():
                _put(file, name, path, path.stat().st_size, lambda read: None)
            for name, entry in entries.items():
                if _put(file, name, files[name], entry["size"], report) != entry["sha256"]:
                    reason = "is not what was sealed" if name in known else "has changed while it was packed"
                    raise CommandFailed(f"{files[name]} {reason}")
            file.write(bytes(2 * BLOCK))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _entry(name: str, path: Path, known: Mapping[str, str], report: Report) -> dict[str, Any]:
    if name in known:  # it is compared when it is written
        return {"size": path.stat().st_size, "sha256": known[name]}
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def _put(out: BinaryIO, name: str, path: Path, size: int, report: Report) -> str:
    """Write one file, and return the SHA-256 of what was written."""
    out.write(_header(name, size))
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            out.write(chunk)
            digest.update(chunk)
            left -= len(chunk)
            report(len(chunk))
    if left:
        raise CommandFailed(f"{path} has changed while it was packed")
    out.write(bytes(-size % BLOCK))
    return digest.hexdigest()


def _header(name: str, size: int) -> bytes:
    """The header of a plain file. The same whenever and by whomever it is packed."""
    refuse_name(name)
    encoded = name.encode()
    if len(encoded) <= 100:
        return _block(encoded, size, b"0")
    record = b" path=" + encoded + b"\n"
    length = len(record) + 3  # which counts its own three digits
    data = b"%d" % length + record
    if len(data) != length or length > BLOCK:
        raise CommandFailed(f"{name} is too long a name for an archive")
    return _block(b"path", length, b"x") + data.ljust(BLOCK, b"\0") + _block(b"long", size, b"0")


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    length = b"%011o\0" % size if size < _MAX_OCTAL else b"\x80" + size.to_bytes(11, "big")
    fields = (
        *(name.ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", length, b"00000000000\0"),
        *(b" " * 8, kind, bytes(100), b"ustar\x0000", bytes(32), bytes(32), b"0000000\0", b"0000000\0"),
        bytes(167),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def signer(key: Path) -> Callable[[Path, Path], None]:
    """What signs a manifest with minisign, which asks for the key's password itself. Raises CommandFailed."""
    import shutil

    program = shutil.which("minisign")
    if program is None:
        raise CommandFailed("--sign needs the program minisign, which is not on this machine")
    if not key.is_file():
        raise CommandFailed(f"{key}: no such file (--sign)")

    def sign(manifest: Path, signature: Path) -> None:
        command = [program, "-S", "-s", str(key), "-m", str(manifest), "-x", str(signature), "-t", "Darkroom's bundle"]
        if subprocess.run(command).returncode != 0 or not signature.is_file():  # noqa: S603
            raise CommandFailed("minisign could not sign the manifest")

    return sign
