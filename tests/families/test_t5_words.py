"""The words of T5 that an owner names for a model of single files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipelines.errors import LoadRefused
from pipelines.facts import model_files, seal
from pipelines.models import conversion, dry_run
from pipelines.models.loader import load
from tests.families.pieces import CPU, Pieces, seal_folder, take_words, trained_on, without_words
from tests.families.test_disk import save


@pytest.mark.parametrize("form", ["spiece.model", "tokenizer.json", "folder"])
def test_the_words_of_t5_are_its_owners(form: str, words: bytes, tmp_path: Path) -> None:
    pieces = without_words(Pieces("FLUX.1", tmp_path))
    (tmp_path / "words").mkdir()
    (tmp_path / "blob").write_bytes(words)
    spiece = tmp_path / "words" / "spiece.model"
    spiece.symlink_to(tmp_path / "blob")  # as in a hub's cache
    plan = pieces.plan(tokenizer=str(tmp_path / "words" if form == "folder" else spiece))
    if form == "tokenizer.json":
        load(plan, CPU).components["tokenizer_2"].save_pretrained(tmp_path / "fast")
        plan = pieces.plan(tokenizer=str(tmp_path / "fast" / "tokenizer.json"))
    assert model_files.problem(plan) is None
    assert dry_run.problem(plan) is None
    tokenizer = load(plan, CPU).components["tokenizer_2"]
    ids = tokenizer("a cat", padding="max_length", max_length=8).input_ids
    assert ids[-1] == 0
    assert 1 in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a cat"
    assert tokenizer.model_max_length == 512


def test_words_that_are_named_come_before_those_of_the_folder(words: bytes, tmp_path: Path) -> None:
    """They were sealed and packed, and those of the config folder were drawn with, without a word."""
    folder = tmp_path / "whole"
    save("FLUX.1", folder)
    take_words(folder)
    (folder / "tokenizer_2" / "spiece.model").write_bytes(trained_on("zebra", "maze", "quiz"))
    seal_folder(folder)
    named = tmp_path / "spiece.model"
    named.write_bytes(words)
    plan = Pieces("FLUX.1", tmp_path).plan(folder=str(folder))
    chosen = msgspec.structs.replace(plan, tokenizer=str(named))
    assert model_files.problem(chosen) is None
    assert dry_run.problem(chosen) is None
    assert "z" in "".join(load(plan, CPU).components["tokenizer_2"].get_vocab())
    assert "z" not in "".join(load(chosen, CPU).components["tokenizer_2"].get_vocab())
    named_seal = tmp_path / seal.name_for(named.name)
    named_seal.write_bytes(seal.make(tmp_path, [named.name], lambda read: None))
    named.write_bytes(words + b"0")
    assert str(model_files.problem(chosen)).startswith("spiece.model has ")
    assert model_files.problem(plan) is None


def test_words_that_are_missing_or_wrong(words: bytes, tmp_path: Path) -> None:
    pieces = without_words(Pieces("FLUX.1", tmp_path))
    said = str(model_files.problem(pieces.plan()))
    assert said.startswith("T5 is without its words, which do not ship with Darkroom: name its tokenizer.json or")
    (tmp_path / "empty").mkdir()
    for named, says in (
        (tmp_path / "nowhere.json", "tokenizer: nowhere.json does not exist"),
        (tmp_path / "empty", "tokenizer: empty/ has neither tokenizer.json nor spiece.model"),
        (Path(pieces.write("vae")), "tokenizer: vae.safetensors is no tokenizer.json or spiece.model"),
    ):
        assert says in str(model_files.problem(pieces.plan(tokenizer=str(named))))
    others = tmp_path / "other" / "tokenizer.json"
    others.parent.mkdir()
    for content, says in (("", "is empty"), ("{", "is not valid JSON"), ("[" * 10**5, "is not valid JSON")):
        others.write_text(content)
        said = str(model_files.problem(pieces.plan(tokenizer=str(others))))
        assert said == f"tokenizer: tokenizer.json {says}"
    others.write_text((pieces.config / "tokenizer" / "tokenizer.json").read_text())
    said = str(dry_run.problem(pieces.plan(tokenizer=str(others))))
    assert "tokenizer.json is not T5's" in said or "could not be built" in said
    with pytest.raises(LoadRefused):
        load(pieces.plan(tokenizer=str(others)), CPU)
    whole = Pieces("Z-Image", tmp_path / "z")
    assert "no T5 text encoder that would ask for it" in str(model_files.problem(whole.plan(tokenizer=str(others))))


def test_the_words_of_t5_are_copied_too(words: bytes, tmp_path: Path) -> None:
    pieces = without_words(Pieces("FLUX.1", tmp_path))
    (tmp_path / "spiece.model").write_bytes(words)
    (tmp_path / "copy").mkdir()
    conversion.write(pieces.plan(tokenizer=str(tmp_path / "spiece.model")), tmp_path / "copy", lambda written: None)
    pieces.same_as(msgspec.structs.replace(pieces.model.plan, folder=str(tmp_path / "copy")))
