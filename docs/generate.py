"""Writes the parts of these pages that the code already knows: tables, help texts, the OpenAPI document.

    python docs/generate.py            # bring the pages up to date
    python docs/generate.py --check    # say which are not; 1 if any

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; docs/openapi.json is generated
whole. ``make check`` compares both with the code.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from pydantic import BaseModel
from pydantic.fields import FieldInfo

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from pipelines.facts.families import FAMILIES, Family  # noqa: E402
from pipelines.spec import Task  # noqa: E402
from server.agents.tools import TOOLS  # noqa: E402
from server.api import aliases  # noqa: E402
from server.api.control_fields import ControlFields  # noqa: E402
from server.api.wire import ImageFields, LoraFields  # noqa: E402
from server.app import create_app  # noqa: E402
from server.catalog.entries import ModelEntry, ModelsFile, PresetEntry  # noqa: E402
from server.catalog.loras import LoraEntry  # noqa: E402
from server.cli import build_parser  # noqa: E402
from server.errors import ANSWERS  # noqa: E402
from server.settings import ENV_PREFIX, Settings, read_settings  # noqa: E402

_PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_UNITS = {"_s": "seconds", "_bytes": "bytes", "_pixels": "pixels"}
_DATA_DIR = "`~/.local/share/darkroom`"  # what data_dir's factory makes of an ordinary environment

_REFINER = "`StableDiffusionXLImg2ImgPipeline` where `requires_aesthetics_score` is true"

# Of keys that carry no description in the code.
_PLAINLY = {
    "models": "the IDs that clients may name, and what each stands for",
    "steps": "denoising steps: more cost more time",
    "guidance": "how closely to follow the prompt",
    "scheduler": "sampling method, by the names of scheduler in [api.md](api.md#fields)",
    "spacing": "where the steps lie, as [in requests](api.md#where-the-steps-lie)",
    "step_cache": "steps that are told from others, as [in requests](api.md#steps-that-are-not-drawn)",
    "prompt_suffix": "added to the prompt as it stands",
    "negative_prompt": "what to keep out, where the request names nothing",
}

Rows = Iterable[tuple[str, ...]]


def pages() -> Iterator[tuple[Path, str]]:
    """Every file with generated parts, and the text it should have."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        fresh = _PART.sub(lambda match: f"{match[1]}\n{PARTS[match['name']]()}\n\n{match[3]}", text)
        if _PART.search(text):
            yield path, fresh
    yield DOCS / "openapi.json", openapi()


def openapi() -> str:
    """The OpenAPI document of a server with the settings and models that ship."""
    with tempfile.TemporaryDirectory() as folder, _plain_environment():
        app = create_app(Settings(data_dir=Path(folder), models=ROOT / "models.yaml"))
        return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def settings() -> str:
    """Every setting, under the headings of the code."""
    parts = []
    for heading, names in _groups():
        rows = [_setting(name, Settings.model_fields[name]) for name in names]
        parts.append(f"### {heading}\n\n{_table(('setting', 'flag', 'default', 'meaning'), rows)}")
    return "\n\n".join(parts)


def _setting(name: str, field: FieldInfo) -> tuple[str, ...]:
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    default = _DATA_DIR if name == "data_dir" else _value(field.default)
    choices = _type(field.annotation) if get_origin(field.annotation) is Literal else ""
    facts = "; ".join(filter(None, (choices, unit, _bounds(field))))
    flag = f"`--{name.replace('_', '-')}`"
    return f"`{ENV_PREFIX}{name.upper()}`", flag, default, _sentence(field, facts)


def _groups() -> Iterator[tuple[str, list[str]]]:
    """The comment lines of the Settings class, each with the fields below it."""
    heading, names = "", list[str]()
    for line in inspect.getsource(Settings).splitlines():
        if comment := re.fullmatch(r" {4}# (.+)", line):
            if names:
                yield heading, names
            heading, names = comment[1], []
        elif (field := re.match(r" {4}(\w+):", line)) and field[1] in Settings.model_fields:
            names.append(field[1])
    yield heading, names


def request_fields() -> str:
    return _fields(ImageFields)


def field_aliases() -> str:
    """The names that other servers' clients use, beside ours; in snake_case, which stands for camelCase too."""
    rows = [
        (f"`{ours}`", ", ".join(f"`{name}`" for name in names))
        for ours, names in (aliases.ALIASES | aliases.PARTS).items()
        if names
    ]
    return _table(("field", "other names"), rows)


def model_keys() -> str:
    return _fields(ModelEntry)


def preset_keys() -> str:
    return _fields(PresetEntry)


def lora_keys() -> str:
    return _fields(LoraEntry)


def file_keys() -> str:
    return _fields(ModelsFile)


def _fields(model: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", _type(field.annotation), _default(field), _sentence(field, _bounds(field), name))
        for name, field in model.model_fields.items()
    ]
    return _table(("key" if model is not ImageFields else "field", "type", "default", "meaning"), rows)


def families() -> str:
    rows = [
        (f"`{f.name}`", ", ".join(f"`{name}`" for name in f.classes) or _REFINER, _tasks(f), f"{f.native}x{f.native}")
        for f in FAMILIES
    ]
    return _table(("family", "pipeline classes", "edits?", "native size"), rows)


def _tasks(family: Family) -> str:
    if Task.IMAGE_TO_IMAGE not in family.tasks:
        return "no"
    words = ["yes" if Task.TEXT_TO_IMAGE in family.tasks else "only edits"]
    words += ["by instruction"] if family.by_instruction else []
    words += ["with a mask"] if Task.INPAINTING in family.tasks else []
    words += [f"up to {family.references} pictures"] if family.references > 1 else []
    return ", ".join(words)


def mcp_tools() -> str:
    """What agents are offered. Arguments of files are those of `darkroom mcp` alone."""
    rows = [
        (
            f"`{tool.name}`",
            ", ".join(_argument(name, tool.required) for name in tool.arguments(files=True)) or "none",
            tool.description,
        )
        for tool in TOOLS
    ]
    return _table(("tool", "arguments (bold: required)", "what it does"), rows)


def _argument(name: str, required: tuple[str, ...]) -> str:
    return f"**`{name}`**" if name in required else f"`{name}`"


def errors() -> str:
    rows = [
        (
            str(a.status),
            f"`{a.code}`",
            f"`{a.type}`",
            "yes" if a.retry else "no",
            _MEANINGS[kind.__name__].replace("``", "`"),
        )
        for kind, a in ANSWERS.items()
    ]
    return _table(("status", "code", "type", "repeat?", "when"), rows)


def _meanings() -> dict[str, str]:
    """From the drawing in server.errors: what each class stands for."""
    drawn = sys.modules["server.errors"].__doc__ or ""
    return dict(re.findall(r"[├└]── (\w+) +\d{3}  (.+)", drawn))


_MEANINGS = _meanings()


def command_line() -> str:
    """The help of every command."""
    parser = build_parser()
    helps = [("darkroom", parser.format_help), ("darkroom serve", _serve_help)]
    helps += [(p.prog, p.format_help) for p in _subparsers(parser) if p.prog != "darkroom serve"]
    with _plain_environment():
        return "\n\n".join(f"## {name}\n\n```text\n{render().rstrip()}\n```" for name, render in helps)


def _subparsers(parser: Any) -> Iterator[Any]:
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for child in action.choices.values():
                yield child
                yield from _subparsers(child)


def _serve_help() -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        read_settings(["--help"])
    return out.getvalue()


@contextlib.contextmanager
def _plain_environment() -> Iterator[None]:
    """None of our settings, and a terminal of 80 columns without colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    with mock.patch.dict(os.environ, kept | {"COLUMNS": "80", "NO_COLOR": "1"}, clear=True):
        yield


def _table(head: tuple[str, ...], rows: Rows) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)


def _sentence(field: FieldInfo, facts: str, name: str = "") -> str:
    text = field.description or _PLAINLY[name]
    return f"{text} ({facts})" if facts and facts not in text else text


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _value(field.get_default(call_default_factory=True))


def _value(value: object) -> str:
    if value in (None, [], {}, (), ""):
        return ""
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    """The limits that pydantic checks, in words."""
    found: dict[str, Any] = {}
    for rule in _rules(field):
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if getattr(rule, name, None) is not None:
                found[name] = getattr(rule, name)
    words = []
    if "ge" in found and "le" in found:
        words.append(f"{found['ge']} to {_number(found['le'])}")
    else:
        words += [f"{found['ge']} or more"] if "ge" in found else []
        words += [f"more than {found['gt']}"] if "gt" in found else []
        words += [f"at most {_number(found['le'])}"] if "le" in found else []
    forms = [get_origin(part) for part in (field.annotation, *get_args(field.annotation))]
    counted = "entries" if dict in forms else "items" if list in forms or tuple in forms else "characters"
    words += [f"at most {found['max_length']} {counted}"] if "max_length" in found else []
    return ", ".join(words)


def _rules(field: FieldInfo) -> Iterator[Any]:
    """What constrains a field: its own rules, and those inside an Annotated type."""
    yield from field.metadata
    for part in (field.annotation, *get_args(field.annotation)):
        for rule in getattr(part, "__metadata__", ()):
            yield from getattr(rule, "metadata", None) or (rule,)


def _number(value: Any) -> str:
    return "2⁶³ - 1" if value == 2**63 - 1 else str(value)


def _type(annotation: Any) -> str:
    """A type, in the words of the file's reader."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}s"
    if origin is list:
        return f"list of {_type(arguments[0])}s"
    if origin is dict:
        return f"map: {_type(arguments[0])} → {_type(arguments[1])}"
    if arguments and hasattr(annotation, "__metadata__"):  # Annotated[str, a check]
        return _type(arguments[0])
    if arguments:  # a union
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    names: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false"}
    names |= {ModelEntry: "a model (below)", PresetEntry: "a preset (below)", LoraEntry: "an adapter (below)"}
    names |= {LoraFields: "object", ControlFields: "object"}
    return names.get(annotation, str(annotation))


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "request-fields": request_fields,
    "field-aliases": field_aliases,
    "file-keys": file_keys,
    "model-keys": model_keys,
    "preset-keys": preset_keys,
    "lora-keys": lora_keys,
    "families": families,
    "errors": errors,
    "mcp-tools": mcp_tools,
    "command-line": command_line,
}


def main() -> None:
    stale = [(path, text) for path, text in pages() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
