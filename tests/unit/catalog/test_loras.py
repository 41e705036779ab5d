"""The adapters of models.yaml: what a typing error is told, who shares them, which files are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.catalog import watch
from server.catalog.load import load_catalog
from server.commands import child
from server.commands.check import check
from server.errors import ConfigError
from server.settings import Settings
from tests.running import ROOT
from tests.unit.catalog.models_files import GOOD, WITH_LORAS, catalog, write
from tests.unit.commands.near_child import NearChild
from tests.unit.pipelines.facts.test_folder import weights


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("weight: 0.5", "weight: 5", 14, ["models.mini.loras.pixel.weight = 5", "less than or equal to 4"]),
        ("weight: 0.5", "weight: .nan", 14, ["models.mini.loras.pixel.weight", "finite"]),
        ("weight: 0.5", "wieght: 0.5", 14, ["models.mini.loras.pixel.wieght", "no such key", "path, weight"]),
        ("path: loras/pixel.safetensors, ", "", 14, ["models.mini.loras.pixel.path", "required"]),
        ("      pixel:", "      'pix el':", 14, ["models.mini.loras", "letters"]),
        ("    multiple: 16", "    compile: true", 13, ["models.mini.loras", "compile"]),
        ("    multiple: 16", "    fuse_qkv: true", 13, ["models.mini.loras", "fuse_qkv"]),
        ("    multiple: 16", "    quantise: float8", 13, ["models.mini.loras", "float8"]),
        ("like: mini", "like: mini\n    loras: { pixel: { path: x.safetensors } }", 13, ["pixel", "another file"]),
    ],
)
def test_a_typing_error_among_adapters_is_told_as_any_other(
    tmp_path: Path, old: str, new: str, line: int, says: list[str]
) -> None:
    assert old in WITH_LORAS
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, WITH_LORAS.replace(old, new, 1))
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line {line}: " in message
    for part in says:
        assert part in message, message


def test_ids_that_share_weights_share_adapters_and_offer_their_own(tmp_path: Path) -> None:
    both = catalog(
        tmp_path, WITH_LORAS.replace("like: mini", "like: mini\n    loras: { ink: { path: /ink.safetensors } }")
    )
    mini, other = both.models["mini"], both.models["dall-e-2"]
    assert mini.plan == other.plan
    assert [(file.name, file.path) for file in mini.plan.adapters] == [
        ("ink", "/ink.safetensors"),
        ("pixel", str(tmp_path / "loras" / "pixel.safetensors")),
    ]
    assert (list(mini.entry.loras), list(other.entry.loras)) == (["pixel"], ["ink"])
    assert list(catalog(tmp_path, WITH_LORAS).models["dall-e-2"].entry.loras) == ["pixel"], "like takes them over"


def test_files_of_adapters_that_cannot_be_used_are_told_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "start", NearChild)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "lora.bin").write_bytes(b"x")
    more = "      cut: { path: cut.safetensors }\n      pickle: { path: lora.bin }\n  dall-e-2:"
    file = write(
        tmp_path, WITH_LORAS.replace("  dall-e-2:", more).replace("weights", str(ROOT / "weights/darkroom-mini"))
    )
    problems = load_catalog(file).models["dall-e-2"].lora_problems()
    assert set(problems) == {"pixel", "cut", "pickle"}
    assert "does not exist" in problems["pixel"]
    assert "truncated" in problems["cut"]
    assert "not a .safetensors file" in problems["pickle"]
    assert check(Settings(models=file)) == 1
    said = capsys.readouterr().err
    for name in problems:
        assert f"models.mini.loras.{name}: " in said
    assert load_catalog(file).models["mini"].problem() is None


def test_the_written_name_of_a_file_counts(tmp_path: Path) -> None:
    """In a hub's cache the file is a link to one that is named by its hash: it was refused by that name."""
    blob = tmp_path / "models--org--name" / "blobs" / "0f0f"
    link = tmp_path / "loras" / "pixel.safetensors"
    for folder in (blob.parent, link.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(weights())
    link.symlink_to(blob)
    model = catalog(tmp_path, WITH_LORAS).models["mini"]
    assert model.lora_problems() == {}
    assert [file.path for file in model.plan.adapters] == [str(link)]
    blob.unlink()
    assert "pixel.safetensors is a link to nothing" in model.lora_problems()["pixel"]
    (link.parent / "pickle.safetensors").write_bytes(b"")
    link.unlink()
    link.with_suffix(".bin").symlink_to(link.parent / "pickle.safetensors")
    model = catalog(tmp_path, WITH_LORAS.replace("pixel.safetensors", "pixel.bin")).models["mini"]
    assert "pixel.bin is not a .safetensors file" in model.lora_problems()["pixel"]


def test_ids_that_share_weights_may_name_one_file_by_two_names(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "pixel.safetensors").write_bytes(weights())
    (tmp_path / "other.safetensors").symlink_to(tmp_path / "loras" / "pixel.safetensors")
    text = WITH_LORAS.replace("like: mini", "like: mini\n    loras: { pixel: { path: other.safetensors } }", 1)
    assert len(catalog(tmp_path, text).models["mini"].plan.adapters) == 1


def test_an_adapter_in_the_folder_is_named_by_its_stem_once_it_is_whole(tmp_path: Path) -> None:
    text = WITH_LORAS.replace("    loras:\n", "    lora_folder: adapters\n    loras:\n")
    folder = tmp_path / "adapters"
    assert catalog(tmp_path, text).models["mini"].lora_problems()["lora_folder"]
    folder.mkdir()
    for name in ("ink", "half", "pixel", "not one"):
        _adapter(folder / f"{name}.safetensors")
    whole = (folder / "half.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[:-1])
    (folder / ".ink.safetensors.part").write_bytes(whole)
    models = catalog(tmp_path, text).models
    mini = models["mini"]
    assert list(mini.entry.loras) == list(models["dall-e-2"].entry.loras) == ["pixel", "ink"]
    assert mini.entry.loras["pixel"].weight == 0.5, "what is listed is not replaced"
    assert [file.name for file in mini.plan.adapters] == ["ink", "pixel"]
    refused = mini.lora_problems()
    assert "truncated" in refused["half.safetensors"]
    assert "rename" in refused["pixel.safetensors"]
    assert "name" in refused["not one.safetensors"]
    assert catalog(tmp_path, text).lora_folders == (folder,)
    (folder / "half.safetensors").write_bytes(whole)
    assert "half" in catalog(tmp_path, text).models["mini"].entry.loras


def test_a_folder_of_adapters_cannot_be_had_with_what_adapters_cannot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 7: models\.mini\.lora_folder: loras cannot be had with compile"):
        catalog(
            tmp_path, GOOD.replace("    path: weights\n", "    path: weights\n    compile: true\n    lora_folder: a\n")
        )


def test_a_long_copy_into_the_folder_holds_up_nothing_else(tmp_path: Path) -> None:
    file, copy = tmp_path / "models.yaml", tmp_path / "a.safetensors"
    file.write_text("a")
    known = watch.stamps(file, [tmp_path])
    assert not watch.has_settled(known, known, known)
    file.write_text("ab")
    looks = []
    for size in range(2):
        copy.write_bytes(bytes(size))
        looks.append(watch.stamps(file, [tmp_path]))
    assert watch.has_settled(known, *looks)
    assert not watch.has_settled(looks[0], *looks), "the copy is still being written"
    assert watch.has_settled(looks[0], looks[1], looks[1])


def _adapter(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def test_a_loop_of_links_is_told_by_its_name(tmp_path: Path) -> None:
    """To follow it was a traceback at start."""
    (tmp_path / "loras").mkdir()
    file = tmp_path / "loras" / "pixel.safetensors"
    file.symlink_to(file)
    found = catalog(
        tmp_path, WITH_LORAS.replace("like: mini", f"like: mini\n    loras: {{ pixel: {{ path: {file} }} }}")
    )
    assert [adapter.path for adapter in found.models["mini"].plan.adapters] == [str(file)]
