"""Bundles that lie, and one that does not: what is unpacked is what the manifest says, and nothing else is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from server.commands.bundle import archive, install
from server.commands.bundle.install import MANIFEST, Refused, unpack
from server.commands.failure import CommandFailed
from tests.unit.commands.bundle.stand_ins import facts

LONG = f"wheels/{'x' * 180}.whl"
FILES = {"install.py": b"code", "models/a/unet/w.safetensors": b"w" * 3000, LONG: b"", "docs/ö.md": b"x" * 512}


def written(folder: Path, out: str = "bundle.tar", **options: Any) -> Path:
    """A bundle of FILES."""
    paths = {}
    for number, (name, data) in enumerate(FILES.items()):
        paths[name] = folder / f"source{number}"
        paths[name].write_bytes(data)
    chosen: dict[str, Any] = {"sign": None, "report": lambda read: None, "known": {}, **options}
    archive.write(folder / out, paths, facts(), chosen.pop("known"), **chosen)
    return folder / out


def files(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != MANIFEST}


@pytest.mark.parametrize("out", ["bundle.tar", "bundle.tar.gz", "bundle.tgz"])
def test_what_is_packed_is_unpacked(tmp_path: Path, out: str) -> None:
    bundle = written(tmp_path, out)
    (tmp_path / "to").mkdir()
    manifest = unpack(bundle, tmp_path / "to")
    assert files(tmp_path / "to") == FILES
    assert manifest["files"]["install.py"] == {"size": 4, "sha256": hashlib.sha256(b"code").hexdigest()}


@pytest.mark.parametrize("out", ["bundle.tar", "bundle.tar.gz"])
def test_any_tar_can_read_it(tmp_path: Path, out: str) -> None:
    bundle = written(tmp_path, out)
    with tarfile.open(bundle) as opened:
        assert opened.getnames()[:2] == [MANIFEST, "docs/ö.md"]
        assert set(opened.getnames()) == {MANIFEST, *FILES}
        assert opened.extractfile(LONG) is not None
    said = subprocess.run(["tar", "tf", bundle], capture_output=True, text=True, check=True).stdout
    assert LONG in said
    assert "install.py\n" in said


def test_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path, "bundle.tar.gz").read_bytes()
    assert written(tmp_path, "bundle.tar.gz").read_bytes() == first


def test_a_file_that_is_not_what_was_sealed_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="is not what was sealed"):
        written(tmp_path, known={"install.py": "0" * 64})
    assert [path.name for path in tmp_path.iterdir() if "bundle" in path.name] == []


def test_sizes_beyond_eight_gibibytes_have_a_header() -> None:
    """A shard of weights may have ten: eleven octal digits end at 8 GiB."""
    for size in (0, 8**11 - 1, 8**11, 2**40):
        header = archive._block(b"name", size, b"0")
        assert install._parse(header) == (b"0", "name", size)
        assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == size


Members = list[tuple[tarfile.TarInfo, bytes]]


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def entries(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}


def manifest_of(files: Mapping[str, bytes], **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    said = {"format": 1, **facts(), "files": entries(files), **changes}
    return member(MANIFEST, json.dumps(said).encode())


def packed(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as opened:
        for info, data in members:
            opened.addfile(info, io.BytesIO(data))
    return path


def refused(tmp_path: Path, bundle: Path) -> str:
    """Why a bundle is refused; nothing may lie outside of the folder then."""
    (tmp_path / "to").mkdir()
    before = sorted(path for path in tmp_path.rglob("*") if tmp_path / "to" not in path.parents)
    with pytest.raises(Refused) as caught:
        unpack(bundle, tmp_path / "to")
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "to" not in path.parents) == before
    return str(caught.value)


OUTSIDE = (
    "../x",
    "/tmp/x",
    "a/../../x",
    "./x",
    "a//b",
    "a/",
    "..",
    "C:/x",
    "a\\..\\x",
    "a\nb",
    "venv/bin/darkroom",
    MANIFEST,
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    listed = packed(tmp_path / "b.tar", [manifest_of({name: b"x"}), member(name, b"x")])
    assert "would lie" in refused(tmp_path, listed)


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name.isprintable() and name not in ("a/", MANIFEST)])
def test_a_name_that_leads_elsewhere_and_is_not_in_the_manifest(tmp_path: Path, name: str) -> None:
    said = refused(tmp_path, packed(tmp_path / "b.tar", [manifest_of({"a": b"x"}), member(name, b"x")]))
    assert "would lie elsewhere" in said or "is not in its manifest" in said


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"S", b"g"],
)
def test_whatever_is_no_plain_file(tmp_path: Path, kind: bytes) -> None:
    special = member("a", type=kind, linkname="/etc/passwd")
    said = refused(tmp_path, packed(tmp_path / "b.tar", [manifest_of({"a": b""}), special]))
    assert "something else than plain files" in said


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extended_headers_of_other_makes(tmp_path: Path, form: int) -> None:
    name = "x" * 200
    long = member(name, b"x", mtime=0.5, uname="ö" * 40)
    assert refused(tmp_path, packed(tmp_path / "b.tar", [manifest_of({name: b"x"}), long], form))


def change_manifest(how: Callable[[dict[str, Any]], Any]) -> tuple[tarfile.TarInfo, bytes]:
    return member(MANIFEST, json.dumps(how({"format": 1, **facts(), "files": entries({"a": b"x"})})).encode())


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ([], "does not come first"),
        ([member("a", b"x")], "does not come first"),
        ([member(MANIFEST, b"{")], "is damaged"),
        ([member(MANIFEST, b"[" * 100_000)], "is damaged"),
        ([change_manifest(lambda value: [])], "is damaged"),
        ([change_manifest(lambda value: {**value, "files": {"a": {"size": -1, "sha256": "0" * 64}}})], "is damaged"),
        ([change_manifest(lambda value: {**value, "files": {"a": {"size": 1, "sha256": "0"}}})], "is damaged"),
        ([change_manifest(lambda value: {**value, "darkroom": "1 @ https://192.0.2.1/x"})], "is damaged"),
        ([change_manifest(lambda value: {**value, "extras": "@file:///x"})], "is damaged"),
        ([change_manifest(lambda value: {**value, "format": 2})], "another version"),
        ([change_manifest(lambda value: {**value, "python": "3.9"})], "it is for Python 3.9"),
        ([change_manifest(lambda value: {**value, "machine": "vax"})], "and this machine is"),
        ([change_manifest(lambda value: value)], "a is missing from it"),
        ([manifest_of({"a": b"x"}), member("a", b"y")], "is not what the manifest says"),
        ([manifest_of({"a": b"x"}), member("a", b"xx")], "has 2 bytes, and 1 in the manifest"),
        ([manifest_of({"a": b"x"}), member("a", b"x"), member("a", b"x")], "a is in it twice"),
        ([manifest_of({"a": b"x"}), member("a", b"x"), member("b", b"x")], "b is not in its manifest"),
        ([manifest_of({"a": b"x"}), manifest_of({"a": b"x"})], "is not in its manifest"),
        ([manifest_of({"a": b"x"}), member(install.SIGNATURE, b"x" * 5000)], "is too large"),
        (
            [change_manifest(lambda value: {**value, "files": {"a": {"size": 2**60, "sha256": "0" * 64}}})],
            "GB free",
        ),
    ],
)
def test_a_bundle_that_is_not_what_it_says(tmp_path: Path, head: Members, says: str) -> None:
    assert says in refused(tmp_path, packed(tmp_path / "b.tar", head))


def test_a_bundle_that_was_cut_short(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    for length in (0, 100, 512, len(whole) // 2, len(whole) - 1100):
        (tmp_path / "b.tar").write_bytes(whole[:length])
        (tmp_path / f"to{length}").mkdir()
        with pytest.raises(Refused):
            unpack(tmp_path / "b.tar", tmp_path / f"to{length}")
    zipped = written(tmp_path, "bundle.tar.gz").read_bytes()
    (tmp_path / "b.tar").write_bytes(zipped[:-20])
    assert "truncated" in refused(tmp_path, tmp_path / "b.tar")


@pytest.mark.parametrize("out", ["bundle.tar", "bundle.tar.gz"])
def test_one_byte_that_has_changed_is_found_wherever_it_is(tmp_path: Path, out: str) -> None:
    whole = bytearray(written(tmp_path, out).read_bytes())
    for at in range(11 if out.endswith("gz") else 0, len(whole), 37):
        data = bytearray(whole)
        data[at] ^= 0x55
        (tmp_path / "b").write_bytes(data)
        folder = tmp_path / f"to{at}"
        folder.mkdir()
        try:
            unpack(tmp_path / "b", folder)
        except Refused:
            continue
        assert files(folder) == FILES, f"byte {at}"  # it was in padding


def test_something_behind_the_end(tmp_path: Path) -> None:
    bundle = written(tmp_path)
    bundle.write_bytes(bundle.read_bytes() + b"\0" * 100 + b"x")
    assert "something follows the end" in refused(tmp_path, bundle)


def test_a_bomb_is_never_unpacked(tmp_path: Path) -> None:
    """A megabyte of gzip is a gigabyte of zeros: a member is as large as the manifest says, or nothing of it is
    written."""
    with gzip.open(tmp_path / "b.tar.gz", "wb", 1) as out:
        for name, size, data in ((MANIFEST, 2**30, b""), ("", 0, bytes(2**20) * 64)):
            out.write(archive._block(name.encode(), size, b"0") if name else data)
    assert "is too large" in refused(tmp_path, tmp_path / "b.tar.gz")
    assert files(tmp_path / "to") == {}
    manifest = manifest_of({"a": b"x"})[1]
    with gzip.open(tmp_path / "c.tar.gz", "wb", 1) as out:
        out.write(archive._block(MANIFEST.encode(), len(manifest), b"0") + manifest + bytes(-len(manifest) % 512))
        out.write(archive._block(b"a", 2**33, b"0") + bytes(2**20) * 64)
    (tmp_path / "to" / MANIFEST).unlink(missing_ok=True)
    with pytest.raises(Refused, match=f"has {2**33} bytes, and 1 in the manifest"):
        unpack(tmp_path / "c.tar.gz", tmp_path / "to")
    assert files(tmp_path / "to") == {}


def test_an_extended_header_is_a_name_or_nothing(tmp_path: Path) -> None:
    manifest = manifest_of({"a": b"x"})[1]
    head = archive._block(MANIFEST.encode(), len(manifest), b"0") + manifest + bytes(-len(manifest) % 512)
    for record, size in (
        (b"18 path=../../../x\n", 19),
        (b"19 path=../../../x\n", 19),
        (b"12 size=999\n", 12),
        (b"9 path=a\n", 9),
        (b"", 0),
        (b"x" * 512, 2**40),
    ):
        data = head + archive._block(b"p", size, b"x") + record.ljust(512, b"\0") + archive._block(b"a", 1, b"0")
        (tmp_path / "b.tar").write_bytes(data + b"x".ljust(512, b"\0") + bytes(1024))
        if record == b"9 path=a\n":
            unpack(tmp_path / "b.tar", tmp_path)
            (tmp_path / "a").unlink()
            continue
        with pytest.raises(Refused):
            unpack(tmp_path / "b.tar", tmp_path)
    assert not (tmp_path.parent / "x").exists()


def fake_minisign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name: it signs with the key's text, and verifies by comparing."""
    folder.mkdir()
    program = folder / "minisign"
    program.write_text(
        "#!/bin/sh\n"
        'while [ $# -gt 0 ]; do case "$1" in\n'
        '-S|-V) mode=$1; shift;; -s|-p) key=$(cat "$2"); shift 2;; -P) key=$2; shift 2;;\n'
        "-m) file=$2; shift 2;; -x) sig=$2; shift 2;; *) shift 2;; esac; done\n"
        'said="$key $(sha256sum < "$file")"\n'
        'if [ "$mode" = -S ]; then echo "$said" > "$sig"\n'
        'else [ "$said" = "$(cat "$sig")" ] || { echo bad >&2; exit 1; }; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return program


def test_a_signature_is_checked_where_minisign_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = fake_minisign(tmp_path / "bin", monkeypatch)
    (tmp_path / "key").write_text("RWQkey")
    bundle = written(tmp_path, sign=archive.signer(tmp_path / "key"))

    def unpacked(name: str, key: str | None) -> str:
        (tmp_path / name).mkdir()
        unpack(bundle, tmp_path / name, key)
        assert (tmp_path / name / install.SIGNATURE).is_file()
        return capsys.readouterr().out

    assert "its signature is that of the key" in unpacked("a", "RWQkey")
    assert "its signature is that of the key" in unpacked("b", str(tmp_path / "key"))
    assert "NOT CHECKED: name the owner's key" in unpacked("c", None)
    (tmp_path / "d").mkdir()
    with pytest.raises(Refused, match="its signature is not that of this key: bad"):
        unpack(bundle, tmp_path / "d", "RWQother")
    program.unlink()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "NOT CHECKED: there is no minisign" in unpacked("e", "RWQkey")
    with pytest.raises(CommandFailed, match="--sign needs the program minisign"):
        archive.signer(tmp_path / "key")


def test_a_bundle_without_a_signature_is_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    """Whoever takes the signature away could change all the rest."""
    (tmp_path / "to").mkdir()
    with pytest.raises(Refused, match="it is not signed, and --public-key says that it should be"):
        unpack(written(tmp_path), tmp_path / "to", "RWQkey")
    assert files(tmp_path / "to") == {}
