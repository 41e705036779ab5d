"""A sealed folder is loaded as it was sealed, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from pipelines.facts.seal import State
from tests.running import ROOT

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A copy of the embedded model, sealed."""
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "weights" / "darkroom-mini", folder)
    (folder / seal.NAME).write_bytes(seal.make(folder, model_folder.files_read(folder), lambda read: None))
    return folder


def flip(path: Path, at: int) -> None:
    """Change one byte of a file, and not its size."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def states(folder: Path) -> dict[str, State]:
    found = seal.read(folder)
    assert found is not None
    verified = dict(seal.verify(folder, found, model_folder.files_read(folder), lambda read: None))
    return {name: state for name, state in verified.items() if state is not State.SAME}


def test_a_seal_names_every_file_that_loading_reads_and_no_other(sealed: Path) -> None:
    found = seal.read(sealed)
    assert found is not None
    assert set(found.files) == set(model_folder.files_read(sealed))
    assert {"model_index.json", WEIGHTS, "tokenizer/tokenizer.json"} < set(found.files)
    assert found.files[WEIGHTS].header_sha256 is not None
    assert found.files["unet/config.json"].header_sha256 is None
    assert found.size == sum((sealed / name).stat().st_size for name in found.files)
    assert states(sealed) == {}
    assert model_folder.inspect(sealed) == model_folder.inspect(sealed, with_seal=False)


def test_what_loading_does_not_read_may_change(sealed: Path) -> None:
    (sealed / "README.md").write_text("changed")
    assert model_folder.problem(sealed) is None
    assert states(sealed) == {}


def test_a_byte_in_the_middle_of_the_weights_is_told_by_verify_alone(sealed: Path) -> None:
    """Loading compares headers: to read every byte would take as long as the disk does."""
    flip(sealed / WEIGHTS, -1)
    assert model_folder.problem(sealed) is None
    assert states(sealed) == {WEIGHTS: State.DIFFERS}


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def other_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"F32"', b'"I32"', 1) if b'"F32"' in data else data.replace(b'"F16"', b'"I16"', 1))


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("unet/config.json", longer, "when it was sealed"),
        ("scheduler/scheduler_config.json", lambda path: flip(path, -2), "has another content than when it was sealed"),
        (WEIGHTS, other_header, "has another header than when it was sealed"),
    ],
)
def test_a_file_that_is_another_is_named_before_anything_is_loaded(
    sealed: Path, name: str, how: Callable[[Path], None], says: str
) -> None:
    how(sealed / name)
    with pytest.raises(LoadRefused) as caught:
        seal.compare(sealed, model_folder.files_read(sealed))
    assert str(caught.value).startswith(f"{name} ")
    assert says in str(caught.value)
    assert states(sealed) == {name: State.DIFFERS}


def test_a_file_that_has_come_and_one_that_has_gone(sealed: Path) -> None:
    (sealed / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(LoadRefused, match=r"chat_template\.jinja is not in the seal, and loading would read it"):
        model_folder.inspect(sealed)
    assert states(sealed) == {"tokenizer/chat_template.jinja": State.ADDED}
    (sealed / "tokenizer" / "chat_template.jinja").unlink()
    (sealed / "text_encoder" / "generation_config.json").unlink(missing_ok=True)
    (sealed / WEIGHTS).unlink()
    with pytest.raises(LoadRefused):
        model_folder.inspect(sealed)
    found = seal.read(sealed)
    assert found is not None
    missing = [name for name, state in seal.verify(sealed, found, (), lambda read: None) if state is State.MISSING]
    assert WEIGHTS in missing


@pytest.mark.parametrize(
    "change",
    [
        lambda value: [],
        lambda value: {"format": 1},
        lambda value: {**value, "files": {"../x": value["files"][WEIGHTS]}},
        lambda value: {**value, "files": {"/x": value["files"][WEIGHTS]}},
        lambda value: {**value, "files": {WEIGHTS: {"size": -1, "sha256": "0" * 64, "header_sha256": None}}},
        lambda value: {**value, "files": {WEIGHTS: {"size": 1, "sha256": "x" * 64, "header_sha256": None}}},
        lambda value: {**value, "files": {WEIGHTS: {"size": 1}}},
        lambda value: {**value, "files": [1]},
    ],
)
def test_a_seal_that_is_damaged_is_no_seal_that_is_kept(sealed: Path, change: Callable[[object], object]) -> None:
    value = json.loads((sealed / seal.NAME).read_bytes())
    (sealed / seal.NAME).write_text(json.dumps(change(value)))
    with pytest.raises(LoadRefused, match=r"darkroom-seal\.json is damaged"):
        model_folder.inspect(sealed)


def test_a_seal_of_a_later_format_is_not_guessed_at(sealed: Path) -> None:
    value = json.loads((sealed / seal.NAME).read_bytes())
    (sealed / seal.NAME).write_text(json.dumps({**value, "format": 2}))
    with pytest.raises(LoadRefused, match="another version"):
        seal.read(sealed)


def test_a_file_that_is_written_to_meanwhile_is_not_sealed(sealed: Path) -> None:
    path = sealed / "unet" / "config.json"

    def write(read: int) -> None:
        path.write_text("{}")

    with pytest.raises(LoadRefused, match=r"unet/config\.json was written to while it was read"):
        seal.make(sealed, ["unet/config.json"], write)


def test_a_header_that_lies_about_its_length_is_not_read(sealed: Path) -> None:
    (sealed / "unet" / "x.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(LoadRefused, match="not a safetensors file"):
        seal.make(sealed, ["unet/x.safetensors"], lambda read: None)
