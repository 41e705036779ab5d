"""Wheels for a machine: Darkroom's own, those that it needs, and the pip that installs them.

Knows pip's command line. Fetches from the index that pip is set to use, or the one that is named: which build of torch
comes is the index's.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.commands.failure import CommandFailed

_ROOT = Path(__file__).resolve().parents[3]  # of a checkout
# A machine that is named in short, with the oldest C library that it may have (2.28: Debian 10, RHEL 8).
_LINUX = re.compile(r"linux-(x86_64|aarch64)", re.ASCII)
_TAG = re.compile(r"(manylinux\w+|linux|macosx_\d+_\d+|win)_(x86_64|aarch64|arm64|universal2|amd64)", re.ASCII)
_SYSTEMS = {"linux": "Linux", "manylinux": "Linux", "macosx": "Darwin", "win": "Windows"}


@dataclass(frozen=True)
class Target:
    """The machine that a bundle is for."""

    platforms: tuple[str, ...] = ()  # pip's tags; none: this machine
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    system: str = field(default_factory=platform.system)  # as that machine names itself
    machine: str = field(default_factory=platform.machine)

    @property
    def is_this(self) -> bool:
        """Is it of the kind of this one, so that pip needs no tags?"""
        return not self.platforms and self.python == f"{sys.version_info.major}.{sys.version_info.minor}"


def target(platforms: Sequence[str], python: str | None) -> Target:
    """The machine that flags name. Raises CommandFailed."""
    here = Target()
    wanted = here.python if python is None else python
    if not re.fullmatch(r"3\.\d{1,2}", wanted, re.ASCII) or int(wanted[2:]) < 11:
        raise CommandFailed(f"--python-version {wanted}: must be 3.11 or newer, as 3.12")
    tags: list[str] = []
    for each in platforms:
        if linux := _LINUX.fullmatch(each):
            older = [f"manylinux_2_{minor}_{linux[1]}" for minor in range(28, 16, -1)]
            tags += [*older, f"manylinux2014_{linux[1]}", f"linux_{linux[1]}"]
        elif _TAG.fullmatch(each):
            tags.append(each)
        else:
            raise CommandFailed(f"--platform {each}: must be linux-x86_64, linux-aarch64 or a tag of pip's")
    if not tags:
        return Target(python=wanted, system=here.system, machine=here.machine)
    first = _TAG.fullmatch(tags[-1])
    assert first is not None
    system = next(name for start, name in reversed(_SYSTEMS.items()) if tags[-1].startswith(start))
    return Target(tuple(tags), wanted, system, here.machine if first[2] == "universal2" else first[2])


def fetch(folder: Path, wheel: Path | None, extras: str, target: Target, pip_options: Sequence[str]) -> None:
    """Fetch every wheel into a folder. Raises CommandFailed."""
    own = _own_wheel(folder) if wheel is None else wheel
    if not own.is_file() or own.suffix != ".whl":
        raise CommandFailed(f"{own}: no wheel (--wheel)")
    tags = [] if target.is_this else ["--python-version", target.python, "--implementation", "cp"]
    tags += [option for tag in target.platforms for option in ("--platform", tag)]
    command = ["download", "--dest", str(folder), "--only-binary=:all:", *tags, *pip_options]
    _pip([*command, f"{own.absolute()}{extras}", "pip"], "the wheels could not be fetched")


def _own_wheel(folder: Path) -> Path:
    """Darkroom's own wheel, built from the checkout that this runs in."""
    if not (_ROOT / "pyproject.toml").is_file():
        raise CommandFailed("this Darkroom is no checkout that a wheel could be built of: name its wheel with --wheel")
    built = folder / "own"
    # Apart: the build must not take what lies in the folder for packages of its own.
    _pip(["wheel", "--no-deps", "--wheel-dir", str(built), str(_ROOT)], "Darkroom's own wheel could not be built")
    [wheel] = built.glob("darkroom-*.whl")
    moved = wheel.rename(folder / wheel.name)
    built.rmdir()
    return moved


def _pip(arguments: Sequence[str], failure: str) -> None:
    command = [sys.executable, "-P", "-m", "pip", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:  # noqa: S603
        raise CommandFailed(f"{failure}; pip says why")
