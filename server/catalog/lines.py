"""Where in a YAML file something is written.

Knows nodes and lines; knows nothing of models.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from server.errors import ConfigError


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


def refuse_duplicates(path: Path, node: yaml.Node) -> None:
    """YAML readers keep the last of two equal keys without a word; a typing error would go unseen."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen and key.value != "<<":
                raise ConfigError(f"{path}, line {key.start_mark.line + 1}: {key.value}: the key is given twice")
            seen.add(key.value)
            refuse_duplicates(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            refuse_duplicates(path, value)
