"""What a worker does not import before it draws."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.running import ROOT


def test_nothing_imports_every_family_of_pipelines_at_the_start() -> None:
    """The classes that find a task's pipeline import all that diffusers has: a seventh of what a worker imported, for
    tasks that few requests have."""
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("pipelines", "server")
        for path in (ROOT / folder).rglob("*.py")
        for name in _imported(path)
        if name.startswith("AutoPipeline")
    ]
    assert found == []


def _imported(path: Path) -> Iterator[str]:
    """The names that a module takes from others at its top."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
