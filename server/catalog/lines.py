"""A YAML file as nodes with lines: read within bounds, and where in it something is written.

Knows YAML, nodes and lines; knows nothing of models. PyYAML reads nested text by calling itself, and whoever walks its
result walks an alias as often as it is used: so depth and size, with aliases written out, are bounded before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from server.errors import ConfigError

MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 20  # models.yaml has 6 levels
_MAX_NODES = 50_000  # values, with aliases written out


class _Loader(yaml.SafeLoader):
    """Python's own errors for a value that its tag or form does not allow come with the line, like all others."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise yaml.constructor.ConstructorError(
                None, None, f"not a value of {node.tag.rpartition(':')[2]}", node.start_mark
            ) from None


def read(path: Path) -> tuple[yaml.Node, Any]:
    """The root node of a YAML file, and what it says. Raises ConfigError with the line."""
    try:
        with path.open("rb") as file:
            written = file.read(MAX_BYTES + 1)
        text = written.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = written.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not text in UTF-8") from None
    if len(written) > MAX_BYTES:
        raise ConfigError(f"{path}: has more than {MAX_BYTES // 1024} KiB, so it cannot be a models.yaml")
    try:
        _require_bounded(path, text)
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            raise ConfigError(f"{path}: the file is empty")
        _require_plain_keys(path, root)
        return root, yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = path if mark is None else f"{path}, line {mark.line + 1}"
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}, line {line}: not valid YAML: a character that may not be in it") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def find(root: yaml.Node, loc: tuple[str | int, ...]) -> tuple[yaml.Node, tuple[str | int, ...]]:
    """The deepest node that ``loc`` reaches, and the part of ``loc`` that reached it."""
    node, at = root, root
    for depth, part in enumerate(loc):
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return at, loc[:depth]
            at, node = pair
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            at = node = node.value[part]
        else:
            return at, loc[:depth]
    return at, loc


@dataclass
class _Open:
    """A list or mapping whose end has not come."""

    anchor: str | None
    nodes: int = 1


def _require_bounded(path: Path, text: str) -> None:
    """Raise ConfigError for text that is nested too deeply, contains itself, or is too much with all aliases."""
    sizes: dict[str, int] = {}  # by anchor
    opened = [_Open(None, 0)]
    for event in yaml.parse(text, Loader=_Loader):
        line = f"{path}, line {event.start_mark.line + 1}" if event.start_mark is not None else str(path)
        nodes = 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Open(event.anchor))
            if len(opened) > _MAX_DEPTH:
                raise ConfigError(f"{line}: nested deeper than {_MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = opened.pop()
            nodes = closed.nodes
            if closed.anchor is not None:
                sizes[closed.anchor] = nodes
        elif isinstance(event, yaml.ScalarEvent):
            nodes = 1
            if event.anchor is not None:
                sizes[event.anchor] = nodes
        elif isinstance(event, yaml.AliasEvent):
            anchor = event.anchor or ""
            if any(anchor == one.anchor for one in opened):
                raise ConfigError(f"{line}: *{anchor} stands inside what it stands for, which would have no end")
            nodes = sizes.get(anchor, 1)  # an unknown one is refused when it is read
        opened[-1].nodes += nodes
        if opened[-1].nodes > _MAX_NODES:
            raise ConfigError(f"{line}: more than {_MAX_NODES} values up to here, with aliases written out")


def _require_plain_keys(path: Path, node: yaml.Node) -> None:
    """YAML readers keep the last of two equal keys without a word; a typing error would go unseen."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{path}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{line}: a key must be a word, not a list or a mapping")
            if key.value in seen and key.value != "<<":
                raise ConfigError(f"{line}: {key.value}: the key is given twice")
            seen.add(key.value)
            _require_plain_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _require_plain_keys(path, value)
