"""Pack a bundle here; install it, check it and draw with it where there is only loopback.

Knows the commands as an owner types them. Skipped, with the reason, where no such namespace can be made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.offline.test_air_gap import LOOPBACK_UP
from tests.running import ROOT

_ISOLATED = ("unshare", "--map-root-user", "--net", sys.executable, "-S", "-c", LOOPBACK_UP)
_REACHES_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=3)"
_PNG = b"\x89PNG"


class Failed(Exception):
    """What the proof did not show."""


def main() -> int:
    """Run the proof and print its figures. 0: it holds, or is skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.airgap.bundle", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a bundle that this has packed before (--keep)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep the bundle here")
    parser.add_argument("pip_options", nargs="*", help="passed on to darkroom bundle, after --")
    arguments = parser.parse_args()
    lacking = why_not()
    if lacking is not None:
        print(f"skipped: {lacking}")
        return 0
    with tempfile.TemporaryDirectory(prefix="darkroom-airgap-") as folder:
        try:
            prove(Path(folder), arguments.bundle, arguments.keep, arguments.pip_options)
        except Failed as failure:
            print(f"FAILED: {failure}")
            return 1
    return 0


def why_not() -> str | None:
    """Why no namespace with only loopback can be made here; None if one can."""
    try:
        done = subprocess.run([*_ISOLATED, "/bin/true"], capture_output=True, text=True)
    except OSError:
        return "there is no unshare on this machine"
    return None if done.returncode == 0 else f"unshare --map-root-user --net: {done.stderr.strip()[-200:]}"


def prove(folder: Path, bundle: Path | None, keep: Path | None, pip_options: Sequence[str]) -> None:
    """Raises Failed."""
    started = time.monotonic()
    if bundle is None:
        bundle = _pack(folder, pip_options)
        if keep is not None:
            shutil.copy(bundle, keep)
    print(f"bundle: {bundle.stat().st_size / 1e6:.0f} MB, packed in {time.monotonic() - started:.0f} s")
    reached = _run([*_ISOLATED, sys.executable, "-c", _REACHES_OUT], folder, expect=None)
    if reached.returncode == 0:
        raise Failed("the namespace has a network")
    _run(["tar", "xf", str(bundle), "install.py"], folder)
    _install_damaged(folder, bundle)
    started = time.monotonic()
    said = _run([*_ISOLATED, sys.executable, "-I", "install.py", str(bundle), "--into", "there"], folder, expect=None)
    if said.returncode not in (0, 1) or "installed; serve with" not in said.stdout:  # 1: doctor warns of this machine
        raise Failed(f"install.py: {said.stdout[-2000:]}{said.stderr[-2000:]}")
    print(f"installed without a network in {time.monotonic() - started:.0f} s; doctor says {said.returncode}")
    darkroom = str(folder / "there" / "venv" / "bin" / "darkroom")
    models = ["--models", "there/models.yaml"]
    _run([*_ISOLATED, darkroom, "check", "--deep", *models], folder)
    _run([*_ISOLATED, darkroom, "models", *models, "verify", "carried"], folder)
    draw = [darkroom, "generate", "a red apple", "--local", "-m", "carried", "--no-show", "-o", "apple.png"]
    _run([*_ISOLATED, *draw], folder, DARKROOM_MODELS="there/models.yaml", DARKROOM_DEVICE="cpu")
    if not (folder / "apple.png").read_bytes().startswith(_PNG):
        raise Failed("no picture was drawn")
    print("checked every byte, verified the seal and drew a picture without a network")


def _pack(folder: Path, pip_options: Sequence[str]) -> Path:
    shutil.copytree(ROOT / "weights" / "darkroom-mini", folder / "carried")
    (folder / "models.yaml").write_text("default: carried\nmodels:\n  carried: { path: carried }\n")
    server = [sys.executable, "-P", "-m", "server"]
    _run([*server, "models", "--models", "models.yaml", "seal", "carried"], folder, PYTHONPATH=str(ROOT))
    command = [*server, "bundle", "bundle.tar", "carried", "--models", "models.yaml", *pip_options]
    _run(command, folder, PYTHONPATH=str(ROOT))
    return folder / "bundle.tar"


def _install_damaged(folder: Path, bundle: Path) -> None:
    """One byte in the middle has changed on the way: nothing may be installed."""
    damaged = folder / "damaged.tar"
    shutil.copy(bundle, damaged)
    with damaged.open("r+b") as file:
        file.seek(bundle.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    before = sorted(folder.iterdir())
    said = _run([*_ISOLATED, sys.executable, "-I", "install.py", "damaged.tar", "--into", "gone"], folder, expect=1)
    if "is not what the manifest says" not in said.stderr or sorted(folder.iterdir()) != before:
        raise Failed(f"a damaged bundle: {said.stderr[-500:]}")
    damaged.unlink()
    print(f"a damaged bundle is refused: {said.stderr.strip()}")


def _run(
    command: Sequence[str], folder: Path, *, expect: int | None = 0, **more: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=_environment(folder, more), capture_output=True, text=True)
    if expect is not None and done.returncode != expect:
        shown = " ".join(command[len(_ISOLATED) if command[0] == "unshare" else 0 :])
        raise Failed(f"{shown}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """That of a user who has set nothing."""
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(("DARKROOM_", "PYTHON", "HF_"))}
    return {**kept, "DARKROOM_DATA_DIR": str(folder / "data"), **more}


if __name__ == "__main__":
    sys.exit(main())
