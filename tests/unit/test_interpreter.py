"""Processes of ours run our packages, and nothing that lies in the folder where somebody happened to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server import interpreter
from tests.running import ROOT

NAMES = ("server", "pipelines", "torch", "json", "socket", "numpy", "diffusers", "msgspec", "sitecustomize")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder in which every module that is imported first leaves a trace."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text("from pathlib import Path\n(Path(__file__).parent / 'executed').touch()\n")
    return folder


@pytest.mark.parametrize("paths", ["", os.pathsep, f"{os.pathsep}/nowhere", f"/nowhere{os.pathsep}"])
def test_no_module_is_looked_for_in_the_working_folder(trap: Path, paths: str) -> None:
    """An empty entry of PYTHONPATH, as PYTHONPATH=$PYTHONPATH:/more makes one, means that folder, too."""
    executable, *flags, module, _ = interpreter.python("server.worker.child")
    assert module == "-m"
    code = f"from importlib.util import find_spec; print(*(getattr(find_spec(n), 'origin', '') for n in {NAMES}))"
    environment = interpreter.environment({"PATH": os.environ["PATH"], "PYTHONPATH": paths})
    done = subprocess.run(
        [executable, *flags, "-c", code], cwd=trap, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= len(NAMES) - 1, "all are found; there need be no sitecustomize"
    assert str(trap) not in done.stdout
    assert not (trap / "executed").exists()


def test_nothing_of_the_working_folder_is_run(trap: Path) -> None:
    """`python -m` put the working folder first: its server.py or torch.py was executed by the worker."""
    command = interpreter.python("server.worker.child")
    environment = interpreter.environment({"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep})
    done = subprocess.run([*command, "--help"], cwd=trap, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout
    assert not (trap / "executed").exists()


def test_children_of_such_a_process_leave_it_out_too(trap: Path) -> None:
    """Compilers of torch start Python processes of their own."""
    environment = interpreter.environment({"PATH": os.environ["PATH"]})
    code = "import json, sys; print(json.__file__, server.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", f"import server; {code}"], cwd=trap, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(trap) not in done.stdout
    assert str(ROOT) in done.stdout


def test_a_child_has_the_packages_of_this_process_and_the_named_paths(tmp_path: Path) -> None:
    named = os.pathsep.join(["relative", "", str(tmp_path)])
    paths = interpreter.environment({"PYTHONPATH": named})["PYTHONPATH"].split(os.pathsep)
    assert paths[-2:] == [str(Path("relative").absolute()), str(tmp_path)]
    assert "" not in paths
    command = [sys.executable, "-P", "-c", "import server; print(server.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, env=interpreter.environment({}), capture_output=True, text=True)
    assert Path(done.stdout.strip()).parent == ROOT / "server"


def test_an_installed_package_is_not_put_before_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is site-packages, and what PYTHONPATH names comes first of all."""
    monkeypatch.setattr("site.getsitepackages", lambda: [str(ROOT)])
    assert interpreter.environment({})["PYTHONPATH"] == ""


def test_every_python_process_is_started_that_way() -> None:
    """Whoever writes sys.executable anew has to say here why the working folder may be run."""
    users = [
        file.relative_to(ROOT).as_posix()
        for folder in ("server", "pipelines")
        for file in (ROOT / folder).rglob("*.py")
        if "sys.executable" in file.read_text(encoding="utf-8")
    ]
    # The doctor's code is its own, on the command line with -P: it imports torch alone, and dies by intent. A bundle's
    # install.py stands alone, and runs pip in isolation (-I), as packing does.
    assert sorted(users) == [
        "pipelines/doctor/device_sections.py",
        "server/commands/bundle/install.py",
        "server/commands/bundle/wheels.py",
        "server/interpreter.py",
    ]
