"""The package, as pip puts it on a machine that has no checkout: what it carries, and that it draws.

The wheel is built from this tree and installed into fresh environments, whose dependencies a .pth file lends from the
environment that runs the tests. Nothing is downloaded. hatchling and editables come with the dev extra, so a missing
one is a fault and no reason to skip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from trove_classifiers import classifiers

from server import __version__
from tests.running import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHERE = "import server, pipelines; print(server.__file__, pipelines.__file__, sep='\\n')"


@dataclass
class Installed:
    """Darkroom in one of these environments."""

    python: Path
    package: Path  # the folder that must be imported from
    command: Path  # the darkroom command
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, cwd: Path) -> str:
        return run(self.python, *arguments, cwd=cwd, **self.environment)

    def darkroom(self, *arguments: str, cwd: Path) -> str:
        # By name of the interpreter: pip writes its own into the first line of what --target installs.
        return self.run(str(self.command), *arguments, cwd=cwd)


def run(program: Path | str, *arguments: str, cwd: Path, **environment: str) -> str:
    """The command's output. Neither settings nor the checkout reach it through the environment."""
    mine = ("DARKROOM_", "PYTHONPATH", "PIP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    done = subprocess.run(
        [program, *arguments], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments, cwd=cwd)


def new_environment(folder: Path) -> Path:
    """A virtual environment with nothing in it, not even pip. Returns its site-packages."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return site


def lend_dependencies(site: Path) -> None:
    """Let an environment import what this one has installed.

    Python reads no .pth files in a folder that a .pth file names, so the editable install of the checkout, which is
    one, is not lent. To be called after installing: pip would take what is lent for installed.
    """
    lent = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Several copies of the weights come to lie here, so it does not outlive these tests."""
    with tempfile.TemporaryDirectory(prefix="darkroom-package-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "wheel", str(ROOT), cwd=folder)
    (built,) = (folder / "wheel").glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["environment", "target"])
def installed(request: pytest.FixtureRequest, folder: Path, wheel: Path) -> Installed:
    """By ``pip install`` into an environment, and by ``pip install --target`` into a folder of its own."""
    home = folder / request.param
    python, packages = home / "bin" / "python", home / "packages"
    site = new_environment(home)
    into = ["install", "--no-deps", "--no-build-isolation", "--no-index"]
    if request.param == "environment":
        pip("--python", str(python), *into, str(wheel), cwd=folder)
        found = Installed(python, site, python.with_name("darkroom"))
    else:
        pip(*into, "--target", str(packages), str(wheel), cwd=folder)
        found = Installed(python, packages, packages / "bin" / "darkroom", {"PYTHONPATH": str(packages)})
    lend_dependencies(site)
    return found


def test_the_wheel_carries_what_ships(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = set(archive.namelist())
        models = archive.read("server/data/models.yaml")
    assert models == (ROOT / "models.yaml").read_bytes()
    weights = [path.relative_to(ROOT) for path in (ROOT / "weights").rglob("*") if path.is_file()]
    assert weights
    assert {f"server/data/{path.as_posix()}" for path in weights} <= carried
    assert {"server/py.typed", "pipelines/py.typed"} <= carried
    architectures = [path for path in (ROOT / "pipelines" / "facts" / "architectures").rglob("*") if path.is_file()]
    assert len(architectures) > 40
    assert {path.relative_to(ROOT).as_posix() for path in architectures} <= carried
    assert {name.split("/")[0] for name in carried} == {"server", "pipelines", f"darkroom-{__version__}.dist-info"}


def test_the_version_is_that_of_the_code(installed: Installed, tmp_path: Path) -> None:
    code = "from importlib.metadata import version; print(version('darkroom'))"
    assert installed.run("-c", code, cwd=tmp_path).strip() == __version__
    assert installed.darkroom("--version", cwd=tmp_path) == f"darkroom {__version__}\n"


def test_the_classifiers_exist() -> None:
    assert set(PYPROJECT["project"]["classifiers"]) <= classifiers


def test_an_installed_package_draws_without_a_checkout(installed: Installed, tmp_path: Path) -> None:
    """It lay in share/ below the environment's prefix, where ``pip install --user`` and ``--target`` do not put it."""
    imported = installed.run("-c", WHERE, cwd=tmp_path).splitlines()
    assert imported == [str(installed.package / name / "__init__.py") for name in ("server", "pipelines")]
    served = installed.package / "server" / "data" / "models.yaml"
    asks = "models" if installed.environment else "check"  # which loads torch for seconds: once is enough
    assert installed.darkroom(asks, cwd=tmp_path).splitlines()[0].partition(": ")[0].strip() == str(served)
    command = ("generate", "a red apple", "--local", "--seed", "7", "--steps", "2", "--out", "apple.png")
    installed.darkroom(*command, cwd=tmp_path)
    with Image.open(tmp_path / "apple.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.getcolors(picture.width * picture.height) or []) > 100  # no blank paper


def test_an_editable_install_serves_the_checkouts_models(folder: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel:editable", "-d", str(folder / "editable"), cwd=ROOT)
    (built,) = (folder / "editable").glob("*.whl")
    python = folder / "checkout" / "bin" / "python"
    site = new_environment(folder / "checkout")
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(built), cwd=folder)
    lend_dependencies(site)
    editable = Installed(python, ROOT, python.with_name("darkroom"))
    assert editable.run("-c", WHERE, cwd=tmp_path).splitlines()[0] == str(ROOT / "server" / "__init__.py")
    assert editable.darkroom("models", cwd=tmp_path).splitlines()[0].strip() == str(ROOT / "models.yaml")
