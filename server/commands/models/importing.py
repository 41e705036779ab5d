"""``darkroom models import``: what a single file is, and its entry in models.yaml.

Knows what a header tells, and where in models.yaml an entry goes; loads nothing. A file that is no model by itself is
told with what to do with it. Copying into a folder stands in ``copying``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, upscaler
from pipelines.facts.checkpoint import BASES, Kind, Told
from server.catalog.entries import ID
from server.commands.failure import CommandFailed
from server.commands.models import copying
from server.commands.models.copying import Keys
from server.errors import ConfigError
from server.storage import atomic

if TYPE_CHECKING:
    from server.settings import Settings

_PARTS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
_NO_ID = re.compile(r"[^A-Za-z0-9._:-]+")
_MAX_ID = 100
_MODELS = (Kind.CHECKPOINT, Kind.ALL_IN_ONE)
# The key of an entry under which a file of this kind stands, beside the folder's path.
_BESIDE = {Kind.TRANSFORMER: "transformer", Kind.ALL_IN_ONE: "transformer", Kind.VAE: "vae"}


@dataclass(frozen=True)
class Wanted:
    """What is to be done with a file."""

    file: Path
    beside: Mapping[str, Path]  # the keys of an entry that name further files
    text_encoders: tuple[Path, ...] = ()
    name: str | None = None  # the ID
    into: str | None = None
    writes: bool = False  # the entry into models.yaml
    copies: bool = False  # the model into a folder

    @property
    def keys(self) -> dict[str, str | list[str]]:
        """The keys of an entry for what stands beside the file."""
        found: dict[str, str | list[str]] = {key: str(path.absolute()) for key, path in self.beside.items()}
        if self.text_encoders:
            found["text_encoders"] = [str(path.absolute()) for path in self.text_encoders]
        return found


def import_file(settings: Settings, wanted: Wanted) -> None:
    """Say what a file is, and print its entry, or add it to models.yaml; first copy it into a folder, if that is
    wanted. Raises CommandFailed for a file that cannot be served, saying what to do with it; OSError."""
    path = wanted.file.absolute()
    try:
        told = checkpoint.tell(path)
    except LoadRefused as refusal:
        raise CommandFailed(str(refusal)) from None
    print(f"{path.name}: {_about(told)}")
    leads = told.kind is Kind.TRANSFORMER and bool(wanted.keys)
    if told.kind not in _MODELS and not leads:
        if wanted.copies:
            raise CommandFailed(f"--copy is for whole models: {told.problem or f'{path.name} is {told.kind}'}")
        print(_beside(told, wanted.into))
        return
    if told.problem is not None and not leads and "config" not in wanted.beside:
        if told.kind is Kind.ALL_IN_ONE and not wanted.copies:
            print(_beside(told, wanted.into))
            return
        raise CommandFailed(told.problem)
    if wanted.into is not None and not wanted.copies:
        raise CommandFailed("--into is for transformers, VAEs and LoRAs: a checkpoint is a model of its own")
    key = wanted.name or _id_of(path)
    if not ID.fullmatch(key):
        raise CommandFailed(f"{key!r} cannot be an ID: letters, digits and . _ : - alone, at most {_MAX_ID}")
    keys = {"checkpoint" if told.kind in _MODELS else "transformer": str(path), **wanted.keys}
    if wanted.copies:
        keys = {"path": str(copying.copy(key, keys, path, wanted.into))}
    _offer(settings, key, keys, told, writes=wanted.writes)


def _offer(settings: Settings, key: str, keys: Keys, told: Told, *, writes: bool) -> None:
    """Print an entry, or add it to models.yaml, and say what it lacks."""
    if writes:
        written = _write(settings, key, keys)
        print(f"{written}: {key} added; a running server takes it within 3 s, and `darkroom check` tries it")
        return
    print(f"its entry, under models in models.yaml (--write adds it):\n\n{_entry(key, keys, '  ')}", end="")
    if told.base is None and not {"config", "path"} & keys.keys():
        print(f"none of {', '.join(BASES)} fits: name a folder with its configurations there, under config")
    elif told.kind is not Kind.CHECKPOINT and (lacking := copying.model(key, keys).problem()) is not None:
        print(f"before it can be served: {lacking}")


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
    name = _scalar(_id_of(told.path).replace(":", "-"))  # which names of adapters and upscalers do not have
    if told.kind is Kind.LORA:
        return f"list it in {where}:\n\n    loras:\n      {name}: {{ path: {path} }}"
    if told.kind is Kind.EMBEDDING:
        token = _scalar(f"<{_id_of(told.path)}>")
        return f"list it in {where}, by the word that prompts shall say:\n\n    embeddings:\n      {token}: {path}"
    if told.kind is Kind.UPSCALER:
        problem = upscaler.problem(told.path)
        if problem is not None:
            raise CommandFailed(problem)
        return f"list it in models.yaml, beside models:\n\nupscalers:\n  {name}: {path}"
    if told.kind in _BESIDE:
        return f"name it in {where}, beside the path of a diffusers folder:\n\n    {_BESIDE[told.kind]}: {path}"
    raise CommandFailed(told.problem or f"{told.path.name} is {told.kind}")


def _id_of(path: Path) -> str:
    return _NO_ID.sub("-", path.stem).strip("-._:")[:_MAX_ID] or "model"


def _entry(key: str, keys: Keys, indent: str) -> str:
    lines = [f"{indent}{_scalar(key)}:\n"]
    for name, value in keys.items():
        shown = _scalar(value) if isinstance(value, str) else f"[{', '.join(map(_scalar, value))}]"
        lines.append(f"{indent * 2}{name}: {shown}\n")
    return "".join(lines)


def _scalar(text: str) -> str:
    """As YAML writes it, quoted where it must be, also in a list."""
    return yaml.safe_dump([text], width=10_000, allow_unicode=True, default_flow_style=True).strip()[1:-1]


def _write(settings: Settings, key: str, keys: Keys) -> Path:
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
    text = file.read_bytes().decode("utf-8")  # with the ends of its lines as they are
    with atomic.replacement(file, _with_entry(text, key, keys, file).encode()) as temporary:
        try:
            added = load_catalog(temporary)
        except ConfigError as error:
            raise CommandFailed(f"not added: {str(error).replace(str(temporary), str(file))}") from None
        problem = added.models[key].problem()
        if problem is not None:
            raise CommandFailed(f"not added: {problem}")
    return file


def _with_entry(text: str, key: str, keys: Keys, file: Path) -> str:
    """The text with an entry behind the last one, indented as the others are."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    models = next((value for name, value in pairs if name.value == "models"), None)
    if not isinstance(models, yaml.MappingNode) or models.flow_style or not models.value:
        raise CommandFailed(f"{file}: models has no lines of its own to add one to; write the entry by hand")
    lines = text.splitlines(keepends=True)
    at = _last_line(models) + 1
    if at and not lines[at - 1].endswith(("\n", "\r")):
        lines[at - 1] += "\n"
    indent = " " * models.value[0][0].start_mark.column
    entry = f"\n{_entry(key, keys, indent)}".replace("\n", "\r\n" if "\r\n" in text else "\n")
    return "".join((*lines[:at], entry, *lines[at:]))


def _last_line(node: yaml.Node) -> int:
    """The number of a node's last line that says something: a mapping's own end is where the next key begins."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1])
    end: yaml.Mark = node.end_mark
    return int(end.line - (end.column == 0 and end.line > node.start_mark.line))
