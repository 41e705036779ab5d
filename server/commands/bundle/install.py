"""Install Darkroom from a bundle, on a machine without a network. Needs nothing but Python 3.11 or newer.

    python3 install.py BUNDLE [--into FOLDER] [--public-key KEY]

Knows the bundle's format and pip; it lies in every bundle, and imports nothing of Darkroom. Nothing in a bundle is
trusted before its size and its SHA-256 are those of the manifest, which comes first in it: files are unpacked into a
folder of their own, and installed once all of them are there. The archive is read by the few lines below, which know
plain files and nothing else: links, devices, folders and extended headers are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

MANIFEST = "MANIFEST.json"
SIGNATURE = "MANIFEST.json.minisig"
FORMAT = 1
BLOCK = 512  # bytes of a tar
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_SIGNATURE_BYTES = 4096
_MAX_END_BYTES = 1024 * 1024  # of zeros behind the last file
_CHUNK_BYTES = 1024 * 1024
_REQUIREMENT = re.compile(r"darkroom(\[[a-z]+(,[a-z]+)*\])?==[0-9][0-9A-Za-z.+!]*", re.ASCII)  # nothing of a URL


class Refused(Exception):
    """What is wrong with a bundle, or with this machine for it."""


def main() -> int:
    """The command line of a bundle's install.py."""
    parser = argparse.ArgumentParser(description="Install Darkroom from a bundle; nothing is fetched.")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the archive")
    add_options(parser)
    arguments = parser.parse_args()
    try:
        return install(arguments.bundle, arguments.into, arguments.public_key)
    except Refused as refusal:
        print(f"install.py: {refusal}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"install.py: {error.filename or arguments.bundle}: {error.strerror or error}", file=sys.stderr)
    return 1


def add_options(parser: Any) -> None:
    """The flags of an installation."""
    parser.add_argument("--into", metavar="FOLDER", type=Path, default=Path("darkroom"), help="a new folder (darkroom)")
    parser.add_argument("--public-key", metavar="KEY", help="the owner's, of minisign: the text of it, or its file")


def install(bundle: Path, into: Path, public_key: str | None = None) -> int:
    """Verify a bundle, install it into a new folder and run ``darkroom doctor`` there. Returns the doctor's exit code.

    Raises Refused, OSError; nothing of it stays then.
    """
    into = into.absolute()
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Refused(f"{into} is not empty: name a new folder with --into")
    into.parent.mkdir(parents=True, exist_ok=True)
    unpacked = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    try:
        manifest = unpack(bundle, unpacked, public_key)
        unpacked.chmod(0o755)
        unpacked.replace(into)
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise
    try:
        _install_wheels(into, manifest)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return _run_doctor(into)


def unpack(bundle: Path, folder: Path, public_key: str | None = None) -> dict[str, Any]:
    """Unpack a bundle into a folder, every byte of it verified, and return its manifest. Raises Refused, OSError."""
    with _opened(bundle) as file:
        members = _members(file)
        manifest, signature, first = _read_head(members, folder)
        _say_signature(folder, signature, public_key)
        _refuse_other_machine(manifest)
        files = manifest["files"]
        needed, free = sum(entry["size"] for entry in files.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise Refused(f"it unpacks to {needed / 1e9:.1f} GB, and {folder.parent} has {free / 1e9:.1f} GB free")
        missing = set(files)
        while first is not None:
            name, size, chunks = first
            if name not in missing:
                raise Refused(f"{_shown(name)} {'is in it twice' if name in files else 'is not in its manifest'}")
            missing.remove(name)
            _unpack_file(folder / name, name, size, chunks, files[name])
            first = next(members, None)
        if missing:
            raise Refused(f"{_shown(min(missing))} is missing from it, and {len(missing) - 1} others")
        print(f"verified {len(files)} files, {needed / 1e6:.0f} MB, by their SHA-256")
        return manifest


@contextlib.contextmanager
def _opened(bundle: Path) -> Iterator[BinaryIO]:
    try:
        with bundle.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as file:
                yield file  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile) as error:
        raise Refused("it is truncated or damaged") from error
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__ == "zlib":
            raise Refused("it is damaged") from error
        raise


Member = tuple[str, int, Iterator[bytes]]


def _members(file: BinaryIO) -> Iterator[Member]:
    """The files of a tar one after the other: name, size and content, which is read to its end before the next."""
    while True:
        header = _read(file, BLOCK)
        if header == bytes(BLOCK):
            break
        kind, name, size = _parse(header)
        if kind == b"x":  # a name that is too long for a header's field comes in a file of its own, before its header
            name = _long_name(file, size)
            kind, _, size = _parse(_read(file, BLOCK))
        if kind not in (b"0", b"\0"):
            raise Refused("it holds something else than plain files: a link, a device, a folder or the like")
        refuse_name(name)
        left = [size]
        yield name, size, _content(file, left)
        while left[0]:
            next(_content(file, left))
        _read(file, -size % BLOCK)
    end = file.read(_MAX_END_BYTES)
    if end.strip(b"\0") or file.read(1):
        raise Refused("something follows the end of the archive")


def _content(file: BinaryIO, left: list[int]) -> Iterator[bytes]:
    while left[0]:
        chunk = _read(file, min(left[0], _CHUNK_BYTES))
        left[0] -= len(chunk)
        yield chunk


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise Refused("it is truncated")
    return data


def _long_name(file: BinaryIO, size: int) -> str:
    """The name in an extended header, which may hold nothing else."""
    if size > BLOCK:
        raise Refused("it holds an extended header that is no name")
    record = _read(file, BLOCK)[:size]
    length, _, rest = record.partition(b" ")
    if not length.isdigit() or int(length) != size or not (rest.startswith(b"path=") and rest.endswith(b"\n")):
        raise Refused("it holds an extended header that is no name")
    return _text(rest[5:-1])


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except ValueError:
        raise Refused("a name in it is no text") from None


def _parse(header: bytes) -> tuple[bytes, str, int]:
    """Kind, name and size of a file. Raises Refused for a header that is damaged, or of another make of archive."""
    said = header[148:156].strip(b" \0")
    if not said.isdigit() or int(said, 8) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise Refused("it is no bundle, or is damaged: a header of the archive does not add up")
    if header[257:263] != b"ustar\0":
        raise Refused("it is no bundle: its headers are not those that Darkroom writes")
    parts = (header[345:500], header[:100])
    kind, name = header[156:157], _text(b"/".join(part.split(b"\0", 1)[0] for part in parts if part[0]))
    if header[124] == 0x80:  # a size that eleven octal digits do not hold
        return kind, name, int.from_bytes(header[125:136], "big")
    octal = header[124:136].strip(b" \0")
    if not octal or not set(octal) <= set(b"01234567"):
        raise Refused(f"{_shown(name)} has no size")
    return kind, name, int(octal, 8)


def refuse_name(name: str) -> None:
    """Raise Refused for a name that leads out of a folder, or is not the plain name of a file in it."""
    parts = name.split("/")
    is_plain = all(part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts)
    if not is_plain or PurePosixPath(name).is_absolute() or len(name) > 255 or ":" in parts[0]:
        raise Refused(f"it holds a file that would lie elsewhere: {_shown(name)}")


def _shown(name: str) -> str:
    return ascii(name[:120])[1:-1]


def _read_head(members: Iterator[Member], folder: Path) -> tuple[dict[str, Any], bool, Member | None]:
    """The manifest, whether a signature is there, and the first file behind them."""
    member = next(members, None)
    if member is None or member[0] != MANIFEST:
        raise Refused(f"it is no bundle: {MANIFEST} does not come first in it")
    data = _small(member, MAX_MANIFEST_BYTES)
    (folder / MANIFEST).write_bytes(data)
    member = next(members, None)
    signed = member is not None and member[0] == SIGNATURE
    if member is not None and signed:
        (folder / SIGNATURE).write_bytes(_small(member, MAX_SIGNATURE_BYTES))
        member = next(members, None)
    return _manifest(data), signed, member


def _small(member: Member, limit: int) -> bytes:
    name, size, chunks = member
    if size > limit:
        raise Refused(f"{name} is too large")
    return b"".join(chunks)


def _manifest(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
        files, made_by = value["files"], value["format"]
        sound = all(
            type(entry["size"]) is int and entry["size"] >= 0 and len(bytes.fromhex(entry["sha256"])) == 32
            for entry in files.values()
        )
        texts = [value["python"], value["system"], value["machine"]]
        sound = sound and all(isinstance(text, str) for text in texts)
        sound = sound and bool(_REQUIREMENT.fullmatch(f"darkroom{value['extras']}=={value['darkroom']}"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused(f"{MANIFEST} is damaged") from None
    if not sound:
        raise Refused(f"{MANIFEST} is damaged")
    if made_by != FORMAT:
        raise Refused("it was made by another version of Darkroom; install it with the install.py that is in it")
    for name in files:
        refuse_name(name)
        if name in (MANIFEST, SIGNATURE) or name.split("/")[0] == "venv":
            raise Refused(f"it holds a file that would lie where something else does: {_shown(name)}")
    return dict(value)


def _unpack_file(path: Path, name: str, size: int, chunks: Iterator[bytes], entry: Mapping[str, Any]) -> None:
    if size != entry["size"]:
        raise Refused(f"{_shown(name)} has {size} bytes, and {entry['size']} in the manifest")
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        for chunk in chunks:
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != entry["sha256"]:
        raise Refused(f"{_shown(name)} is not what the manifest says (SHA-256)")


def _say_signature(folder: Path, signed: bool, public_key: str | None) -> None:
    """Check the signature where that can be done, and say so where it cannot. Raises Refused for a wrong one."""
    if public_key is not None and not signed:
        raise Refused("it is not signed, and --public-key says that it should be")
    if not signed:
        print("it is not signed: its files are those of its manifest, and nobody says whose that is")
        return
    program = shutil.which("minisign")
    if public_key is None:
        print("its signature is NOT CHECKED: name the owner's key with --public-key")
        return
    if program is None:
        print("its signature is NOT CHECKED: there is no minisign on this machine")
        return
    key = ["-p", public_key] if Path(public_key).is_file() else ["-P", public_key]
    command = [program, "-V", *key, "-m", str(folder / MANIFEST), "-x", str(folder / SIGNATURE)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603
    if done.returncode != 0:
        raise Refused(f"its signature is not that of this key: {(done.stderr or done.stdout).strip()[:300]}")
    print("its signature is that of the key")


def _refuse_other_machine(manifest: Mapping[str, Any]) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest["python"] != here:
        raise Refused(f"it is for Python {manifest['python']}, and this is {here}: run it with that Python")
    wanted = (manifest["system"], manifest["machine"].lower())
    this = (platform.system(), platform.machine().lower())
    if wanted != this:
        raise Refused(f"it is for {' '.join(wanted)}, and this machine is {' '.join(this)}")


def _install_wheels(into: Path, manifest: Mapping[str, Any]) -> None:
    """Make an environment, and install into it from the bundle alone. The pip that does it is in the bundle too."""
    wheels = into / "wheels"
    pips = sorted(wheels.glob("pip-*.whl"))
    if not pips:
        raise Refused("it holds no pip")
    print(f"installing into {into / 'venv'}", flush=True)
    # Without pip: some systems have Python without ensurepip.
    _call([sys.executable, "-I", "-m", "venv", "--without-pip", str(into / "venv")], into, dict(os.environ))
    python = into / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Not what this machine says of indices, proxies and constraints.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": str(pips[-1])}
    wanted = [f"darkroom{manifest['extras']}=={manifest['darkroom']}", "pip"]
    pip = [str(python), "-P", "-m", "pip", "install", "--no-index", "--find-links", str(wheels), "--quiet", *wanted]
    _call(pip, into, environment)
    shutil.rmtree(wheels)


def _call(command: list[str], into: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=into, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603
    if done.returncode != 0:
        raise Refused(f"{' '.join(command[2:5])} failed ({done.returncode}): nothing is installed")


def _run_doctor(into: Path) -> int:
    darkroom = into / "venv" / ("Scripts" if os.name == "nt" else "bin") / "darkroom"
    models = into / "models.yaml"
    named = ["--models", str(models)] if models.is_file() else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    print(f"installed; serve with: {' '.join([str(darkroom), 'serve', *named])}", flush=True)
    return subprocess.run([str(darkroom), "doctor", *named], env=environment).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
