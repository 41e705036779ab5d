"""The pages and the code say the same. When one of these fails after a change to the code, this mends it:

python docs/generate.py
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from server.api import accounts, admin, files, hub, images, jobs, mcp, models, ops, upscale
from server.api.prefixes import PREFIXES, SHOWN
from server.api.wire import ImageFields
from server.app import create_app
from server.catalog.entries import ModelEntry, ModelsFile, PresetEntry
from server.catalog.loras import LoraEntry
from server.cli import build_parser
from server.errors import ANSWERS
from server.settings import API_KEY_VARIABLE, ENV_PREFIX, URL_VARIABLE, Settings
from server.web import docs as docs_page
from server.web import page as web_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Ours: not the model cards and licences of others, not what a virtual environment brings.
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
TEXTS = [
    *PAGES,
    ROOT / "training" / "README.md",
    ROOT / "training" / "data" / "model_card.md",
    ROOT / "weights" / "darkroom-mini" / "README.md",
    ROOT / "server" / "web" / "static" / "docs" / "README.md",
]
SOURCE_FOLDERS = ("server", "pipelines")
CODE = (*SOURCE_FOLDERS, "training", "bench", "tests", "docs")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generator()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("data"), models=ROOT / "models.yaml"))


def _text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def _part(page: str, name: str) -> str:
    """The generated part of a page."""
    match = re.search(rf"<!-- generated: {name} -->\n(.*?)<!-- end -->", _text(page), re.DOTALL)
    assert match is not None, f"docs/{page} has no part {name}"
    return match[1]


def _first_cells(table: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def _same(written: str, generated: str) -> bool:
    """Alike but for line breaks: releases of Python wrap help texts differently."""
    return written.split() == generated.split()


def test_generated_parts_are_up_to_date() -> None:
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, fresh in GENERATE.pages()
        if not path.exists() or not _same(path.read_text(encoding="utf-8"), fresh)
    ]
    assert not stale, f"run `python docs/generate.py`: {', '.join(stale)}"


def test_every_generated_part_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"<!-- generated: ([a-z-]+) -->", text)) == set(GENERATE.PARTS)


def test_settings_are_documented() -> None:
    shown = _first_cells(_part("settings.md", "settings"))
    assert shown == [ENV_PREFIX + name.upper() for name in Settings.model_fields]


def test_docs_name_no_setting_that_does_not_exist() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {URL_VARIABLE, API_KEY_VARIABLE}
    for page in PAGES:
        named = set(re.findall(rf"\b{ENV_PREFIX}[A-Z0-9_]+\b", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name}: {named - known}"


@pytest.mark.parametrize(
    ("page", "name", "shape"),
    [
        ("models.md", "file-keys", ModelsFile),
        ("models.md", "model-keys", ModelEntry),
        ("models.md", "preset-keys", PresetEntry),
        ("models.md", "lora-keys", LoraEntry),
        ("api.md", "request-fields", ImageFields),
    ],
)
def test_keys_and_fields_are_documented(page: str, name: str, shape: type[BaseModel]) -> None:
    assert _first_cells(_part(page, name)) == list(shape.model_fields)


def test_errors_are_documented() -> None:
    rows = re.findall(
        r"^\| (\d{3}) \| `(\w+)` \| `(\w+)` \| (yes|no) \| .+ \|$", _part("api.md", "errors"), re.MULTILINE
    )
    assert rows == [(str(a.status), a.code, a.type, "yes" if a.retry else "no") for a in ANSWERS.values()]


def test_every_command_is_documented() -> None:
    text = _text("cli.md")
    for name in _commands(build_parser()):
        assert f"## {name}\n" in text


def _commands(parser: Any) -> list[str]:
    found = [parser.prog]
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found += [name for child in action.choices.values() for name in _commands(child)]
    return found


def test_documented_darkroom_commands_exist() -> None:
    known = set(_commands(build_parser()))
    for page in PAGES:
        for command in re.findall(r"\bdarkroom ([a-z]+)", " ".join(_code(page.read_text(encoding="utf-8")))):
            assert f"darkroom {command}" in known, f"{page.name}: darkroom {command}"


def _code(text: str) -> list[str]:
    """What a page shows as shell commands, in blocks and in running text."""
    blocks = [body for language, body in _FENCE.findall(text) if language == "sh"]
    # `docker run … darkroom check` counts: what follows the image's name is the command.
    commands = [re.sub(r"#.*|docker (build|save|stop).*|-t darkroom .*|--name darkroom\b", "", body) for body in blocks]
    return commands + re.findall(r"`(darkroom [a-z]+[^`]*)`", _FENCE.sub("", text))


def test_documented_routes_exist_and_every_route_is_documented(app: FastAPI) -> None:
    documented = set(re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", _text("api.md").split("## Make pictures")[0]))
    assert documented == _routes(app)


def test_openapi_shows_documented_routes_only(app: FastAPI) -> None:
    shown = {(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs}
    assert shown <= _routes(app)


def test_openapi_shows_what_has_two_prefixes_under_one(app: FastAPI) -> None:
    paths = {path for _, path in _routes(app)}
    both = {path.removeprefix(SHOWN) for path in paths if all(p + path.removeprefix(SHOWN) in paths for p in PREFIXES)}
    assert {"/images/generations", "/images/jobs", "/models"} <= both
    shown = set(app.openapi()["paths"])
    assert {path for path in shown if path.startswith(SHOWN)} == {SHOWN + path for path in both}
    assert not shown & {prefix + path for prefix in PREFIXES if prefix != SHOWN for path in both}


def _routes(app: FastAPI) -> set[tuple[str, str]]:
    services = app.state.services
    routers = [
        module.router(services) for module in (images, hub, jobs, files, models, admin, accounts, ops, mcp, upscale)
    ]
    routes = [route for router in [*routers, docs_page.router(), web_page.router()] for route in router.routes]
    assert all(isinstance(route, APIRoute) for route in routes)
    found = {
        (method, route.path_format) for route in routes if isinstance(route, APIRoute) for method in route.methods or ()
    }
    assert app.openapi_url is not None
    return {pair for pair in found if pair[0] != "HEAD"} | {("GET", app.openapi_url)}


def test_every_operation_says_what_it_is(app: FastAPI) -> None:
    document = app.openapi()
    tags = {tag["name"] for tag in document["tags"]}
    operations = [operation for verbs in document["paths"].values() for operation in verbs.values()]
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= tags
        assert "422" not in operation["responses"]  # FastAPI's own; ours is 400
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)


def test_the_docs_page_can_send_a_key(app: FastAPI) -> None:
    document = app.openapi()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    closed = {path for path, verbs in document["paths"].items() if all("security" in verb for verb in verbs.values())}
    assert {path for path in document["paths"] if path not in closed} == {
        "/__blocklet__.js",
        "/files/{name}",
        "/livez",
        "/readyz",
    }


def test_readme_commands_are_makefile_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for page in PAGES:
        shown = set(re.findall(r"(?:^|`|&& )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert shown <= targets, f"{page.name}: {shown - targets}"
    assert {"demo", "test", "serve", "check"} <= set(re.findall(r"make ([a-z]+)", README))


def test_the_two_commands_come_first() -> None:
    language, body = _FENCE.findall(README)[0]
    assert language == "sh"
    assert [line.split("#")[0].strip() for line in body.strip().splitlines()] == ["make demo", "make test"]


def test_ci_runs_the_gates_and_then_the_readmes_test_command() -> None:
    """tests/unit/test_ci.py runs the script."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make check", "make test"]


def test_a_commit_runs_the_same_gates() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for repository in hooks for hook in repository["hooks"]] == ["make check"]


def _tree() -> list[str]:
    """The paths of the tree in README.md, as its indentation nests them."""
    block = re.search(r"^## What is where\n+```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    found, folder = [], ""
    for line in block[1].splitlines():
        match = re.match(r"( *)(\S+(?:  ?\S+\.\w+)*)", line)
        assert match is not None, line
        if not match[1]:
            folder = match[2] if match[2].endswith("/") else ""
        found += [(folder if match[1] else "") + name for name in match[2].split()]
    return found


def test_the_tree_in_the_readme_exists() -> None:
    missing = [path for path in _tree() if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("folder", SOURCE_FOLDERS)
def test_the_tree_in_the_readme_is_whole(folder: str) -> None:
    there = {path for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    named = {(ROOT / path) for path in _tree()}
    assert {path.name for path in there - named} <= {"__init__.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = _HEADING.findall(_FENCE.sub("", target.read_text(encoding="utf-8")))
            assert anchor in [_anchor(heading) for heading in headings], f"{page.name}: {link}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.relative_to(ROOT).as_posix())
def test_lines_of_prose_have_at_most_120_columns(text: Path) -> None:
    prose = _FENCE.sub("", _GENERATED.sub("", text.read_text(encoding="utf-8")))
    lines = [re.sub(r"https?://\S+", "", line) for line in prose.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 120] == []


def test_the_model_card_is_the_one_that_ships() -> None:
    """training/export.py puts it there."""
    card = (ROOT / "training" / "data" / "model_card.md").read_text(encoding="utf-8")
    assert (ROOT / "weights" / "darkroom-mini" / "README.md").read_text(encoding="utf-8") == card
    (folder,) = re.findall(r'from_pretrained\("([^"]+)"', card)
    assert (ROOT / folder / "model_index.json").is_file()


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(text: Path) -> None:
    """A file may be named without its folder (`collate.py`); a path is one from the root."""
    code = [path.relative_to(ROOT).as_posix() for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    page = text.read_text(encoding="utf-8")
    files = set(re.findall(r"(?<![\w/.])((?:[\w-]+/)*\w+\.py)\b", page))
    assert [name for name in files if not any(f"/{path}".endswith(f"/{name}") for path in code)] == []
    paths = set(re.findall(rf"(?<![\w/.-])((?:{'|'.join(CODE)})/[\w./-]*\w)", page)) - {"bench/out"}  # made by benches
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_picture_in_the_readme_is_small() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", README)
    assert (ROOT / picture).stat().st_size < 300_000


def test_the_example_of_models_yaml_can_be_read(tmp_path: Path) -> None:
    from server.catalog.load import load_catalog

    for name, text in (("README.md", README), ("models.md", _text("models.md"))):
        (example,) = (body for language, body in _FENCE.findall(text) if language == "yaml")
        path = tmp_path / f"{name}.yaml"
        path.write_text(example, encoding="utf-8")
        assert load_catalog(path).resolve("openai/dall-e-3").id == "dall-e-3"


def test_nothing_ignored_is_linked_to() -> None:
    """A link to what git ignores works for its author only."""
    links = {
        (page.parent / link.partition("#")[0]).resolve().relative_to(ROOT).as_posix()
        for page in PAGES
        for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
        if link.partition("#")[0]
    }
    result = subprocess.run(
        ["git", "check-ignore", "--stdin"], input="\n".join(links), capture_output=True, text=True, cwd=ROOT
    )
    assert result.stdout == ""


def test_every_licence_that_the_package_and_notice_name_is_there() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license-files"]
    assert [pattern for pattern in named if not list(ROOT.glob(pattern))] == []
    paths = re.findall(r"\b(?:weights|server)/[\w./-]*[\w/-]", (ROOT / "NOTICE").read_text(encoding="utf-8"))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
