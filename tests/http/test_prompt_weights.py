"""Weights in prompts, through the door: refused with the field's name where no picture survives them, else drawn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.running import ROOT
from tests.unit.pipelines.facts.test_checkpoint import write as write_weights

MODELS = f"""\
default: weighted
models:
  weighted:
    path: {ROOT / "weights/darkroom-mini"}
    embeddings: {{ <toy>: toy.safetensors, <map>: map.safetensors }}
    prompt_weights: true
    max_prompt: 40000
    style:
      natural: {{ prompt_suffix: ", (calm:1.1)" }}
  plain: {{ like: weighted, prompt_weights: false }}
"""


@pytest.fixture(scope="module")
def _weighing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paper]:
    folder = tmp_path_factory.mktemp("weighing")
    for name in ("toy", "map"):
        write_weights(folder / f"{name}.safetensors", {"x": (2, 64)})
    file = folder / "models.yaml"
    file.write_text(MODELS)
    with PaperServers(folder) as opened:
        yield opened.open(models=file)


@pytest.fixture
def paper(_weighing: Paper) -> Paper:
    """Shared by the module, as if nobody had used it."""
    _weighing.worker.forget()
    return _weighing


def test_the_list_of_models_shows_their_words(paper: Paper) -> None:
    with paper.client() as client:
        rows = {row["id"]: row for row in client.get("/v1/models").json()["data"]}
    assert rows["weighted"]["embeddings"] == rows["plain"]["embeddings"] == ["<map>", "<toy>"]
    assert (rows["weighted"]["prompt_weights"], rows["plain"]["prompt_weights"]) == (True, False)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("prompt", "(a cat:1000000000)"),
        ("prompt", "(a cat:-11)"),
        ("prompt", "(" * 32_000 + "a cat"),
        ("prompt", "(" * 25 + "a cat"),
        ("negative_prompt", "((a cat:9):9)"),
    ],
)
def test_a_weight_that_no_picture_survives_is_refused_by_its_field(paper: Paper, field: str, text: str) -> None:
    error = assert_api_error(paper.post({"prompt": "a cat", field: text}), 400, "invalid_value")
    assert error["param"] == field
    assert error["message"].startswith(f"{field} has a weight beyond 10")
    assert not paper.worker.drawings
    assert paper.post({"prompt": "a cat", field: text, "model": "plain"}).status_code == 200, "characters there"


@pytest.mark.parametrize(
    "prompt", ["(((a", "a)))", "[[a]", "(a:nan)", "(a:1e9)", "(a:-1)", "(a:1.2.3)", "(" * 32_000, "\\", "BREAK"]
)
def test_whatever_else_is_written_is_drawn(paper: Paper, prompt: str) -> None:
    assert paper.post({"prompt": prompt, "negative_prompt": prompt}).status_code == 200
    spec = paper.worker.drawings[-1].spec
    assert (spec.prompt, spec.prompt_weights) == (prompt, True)
    assert paper.post({"prompt": prompt, "model": "plain"}).status_code == 200
    assert not paper.worker.drawings[-1].spec.prompt_weights


def test_a_style_that_makes_a_prompt_heavier_is_counted(paper: Paper) -> None:
    """A bracket left open holds over what the owner adds: the sum counts, and not the client's part alone."""
    prompt = "(" * 24 + "a"
    assert paper.post({"prompt": prompt, "style": "vivid"}).status_code == 200
    error = assert_api_error(paper.post({"prompt": prompt, "style": "natural"}), 400, "invalid_value")
    assert error["param"] == "prompt"
