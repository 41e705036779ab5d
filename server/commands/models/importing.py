"""``darkroom models import``: what a single file is, and its entry in models.yaml.

Knows what a header tells, and where in models.yaml an entry goes; loads nothing. A file of another kind than a
checkpoint is told with what to do with it.
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint
from pipelines.facts.checkpoint import BASES, Kind, Told
from server.catalog.entries import ID
from server.commands.failure import CommandFailed
from server.errors import ConfigError

if TYPE_CHECKING:
    from server.settings import Settings

_PARTS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
_NO_ID = re.compile(r"[^A-Za-z0-9._:-]+")
_MAX_ID = 100
# The key of an entry under which a file of this kind stands, beside the folder's path.
_BESIDE = {Kind.TRANSFORMER: "transformer", Kind.ALL_IN_ONE: "transformer", Kind.VAE: "vae"}


def import_file(settings: Settings, file: Path, *, name: str | None, into: str | None, write: bool) -> None:
    """Say what a file is, and print its entry, or with ``write`` add it to models.yaml. Raises CommandFailed for a file
    that cannot be served, saying what to do with it; OSError."""
    path = file.absolute()
    try:
        told = checkpoint.tell(path)
    except LoadRefused as refusal:
        raise CommandFailed(str(refusal)) from None
    print(f"{path.name}: {_about(told)}")
    if told.kind is not Kind.CHECKPOINT:
        print(_beside(told, into))
        return
    if told.problem is not None:
        raise CommandFailed(told.problem)
    if into is not None:
        raise CommandFailed("--into is for transformers, VAEs and LoRAs: a checkpoint is a model of its own")
    key = name or _id_of(path)
    if not ID.fullmatch(key):
        raise CommandFailed(f"{key!r} cannot be an ID: letters, digits and . _ : - alone, at most {_MAX_ID}")
    if write:
        written = _write(settings, key, path)
        print(f"{written}: {key} added; a running server takes it within 3 s, and `darkroom check` tries it")
    else:
        print(f"its entry, under models in models.yaml (--write adds it):\n\n{_entry(key, path, '  ')}", end="")
    if told.base is None:
        print(f"none of {', '.join(BASES)} fits: name a folder with its configurations there, under config")


def _about(told: Told) -> str:
    """The kind, the base, the parts with the types that they are stored in, and what it predicts."""
    said = [f"{told.kind}{f' of {told.base}' if told.base else ''}"]
    said += [f"{_PARTS.get(part, part)} in {' and '.join(types)}" for part, types in told.dtypes.items()]
    if told.prediction is not None:
        said.append({"v": "v-prediction", "epsilon": "predicts noise"}[told.prediction])
    if told.zero_snr:
        said.append("zero terminal SNR")
    return ", ".join(said)


def _beside(told: Told, into: str | None) -> str:
    """The lines for a file that belongs into another model's entry. Raises CommandFailed for one that is served under
    no key."""
    where = f"models.{into}" if into is not None else "the model that it belongs to (--into ID)"
    path = _scalar(str(told.path))
    if told.kind is Kind.LORA:
        return f"list it in {where}:\n\n    loras:\n      {_id_of(told.path)}: {{ path: {path} }}"
    if told.kind is Kind.EMBEDDING:
        token = _scalar(f"<{_id_of(told.path)}>")
        return f"list it in {where}, by the word that prompts shall say:\n\n    embeddings:\n      {token}: {path}"
    if told.kind in _BESIDE:
        return f"name it in {where}, beside the path of a diffusers folder:\n\n    {_BESIDE[told.kind]}: {path}"
    raise CommandFailed(told.problem or f"{told.path.name} is {told.kind}")


def _id_of(path: Path) -> str:
    return _NO_ID.sub("-", path.stem).strip("-._:")[:_MAX_ID] or "model"


def _entry(key: str, path: Path, indent: str) -> str:
    return f"{indent}{_scalar(key)}:\n{indent * 2}checkpoint: {_scalar(str(path))}\n"


def _scalar(text: str) -> str:
    """As YAML writes it, quoted where it must be."""
    return yaml.safe_dump(text, width=10_000, allow_unicode=True).splitlines()[0]


def _write(settings: Settings, key: str, path: Path) -> Path:
    """Add an entry behind the last of models.yaml, whose other lines stay as they are, if the result can be served.
    The file."""
    from server.catalog.load import find_models_file, load_catalog
    from server.catalog.shipped import shipped_models_file

    found = find_models_file(settings.models)
    shipped = shipped_models_file()
    if shipped is not None and found.resolve() == shipped.resolve():
        raise CommandFailed(f"{found} ships with Darkroom: copy it, and name the copy with --models")
    file = found.resolve()
    catalog = load_catalog(file)
    if any(key in (model.id, *model.entry.aliases) for model in catalog):
        raise CommandFailed(f"{file} has a model {key} already; give this one another name with --as")
    text = file.read_text(encoding="utf-8")
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        temporary.write_text(_with_entry(text, key, path, file), encoding="utf-8")
        shutil.copymode(file, temporary)
        try:
            added = load_catalog(temporary)
        except ConfigError as error:
            raise CommandFailed(f"not added: {str(error).replace(str(temporary), str(file))}") from None
        problem = added.models[key].problem()
        if problem is not None:
            raise CommandFailed(f"not added: {problem}")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _with_entry(text: str, key: str, path: Path, file: Path) -> str:
    """The text with an entry behind the last one, indented as the others are."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    models = next((value for name, value in pairs if name.value == "models"), None)
    if not isinstance(models, yaml.MappingNode) or models.flow_style or not models.value:
        raise CommandFailed(f"{file}: models has no lines of its own to add one to; write the entry by hand")
    lines = text.splitlines(keepends=True)
    at = _last_line(models) + 1
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += "\n"
    indent = " " * models.value[0][0].start_mark.column
    return "".join((*lines[:at], "\n", _entry(key, path, indent), *lines[at:]))


def _last_line(node: yaml.Node) -> int:
    """The number of a node's last line that says something: a mapping's own end is where the next key begins."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1])
    end: yaml.Mark = node.end_mark
    return int(end.line - (end.column == 0 and end.line > node.start_mark.line))
