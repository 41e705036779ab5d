"""Variations, forms of answers by model, and usage."""

from __future__ import annotations

import warnings
from pathlib import Path

import httpx
import openai
import pytest

from pipelines.spec import Task
from server.catalog.catalog import Catalog
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import files, opened, pixels, png, right_half, scene, text
from tests.running import ROOT, Running


def test_variations_of_the_openai_client_differ_from_their_source_and_each_other(server: Running) -> None:
    source = png(scene(256, 256))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this client calls the route deprecated, as its models have gone
        answer = client.images.with_raw_response.create_variation(
            image=source, n=2, size="256x256", response_format="b64_json", user="me"
        )
    pictures = files(answer.http_response)  # type: ignore[arg-type]
    assert [opened(picture).size for picture in pictures] == [(256, 256)] * 2
    assert len({pixels(picture).tobytes() for picture in (*pictures, source)}) == 3


def test_a_variation_is_an_edit_without_a_prompt(paper: Paper) -> None:
    with paper.client() as client:
        upload = {"image": ("x", png(scene(60, 60)))}
        answer = client.post("/api/images/variations", files=upload, data={"prompt": "ignored", "n": "2"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == paper.app.state.services.catalog.default
        stronger = client.post("/v1/images/variations", files=upload, data={"strength": "0.9", "model": "dall-e-3"})
        assert stronger.status_code == 200
    first, second = paper.worker.drawings
    assert (first.spec.task, first.spec.prompt, first.spec.strength) == (Task.IMAGE_TO_IMAGE, "", 0.6)
    assert len(set(first.seeds)) == 2
    assert second.spec.strength == 0.9


@pytest.mark.parametrize(("fidelity", "strength"), [("high", 0.5), ("low", 0.9)])
def test_input_fidelity_stands_for_a_strength_in_variations_too(paper: Paper, fidelity: str, strength: float) -> None:
    """It was taken and ignored: the strength of variations was filled in first, and wins over it."""
    with paper.client() as client:
        upload = {"image": ("x", png(scene(60, 60)))}
        for fields in ({}, {"strength": "0.9"}):
            answer = client.post("/v1/images/variations", files=upload, data={"input_fidelity": fidelity, **fields})
            assert answer.status_code == 200, answer.text
    assert [drawing.spec.strength for drawing in paper.worker.drawings] == [strength, 0.9]


def test_a_variation_in_one_step_is_refused_by_what_was_sent(paper_servers: PaperServers, tmp_path: Path) -> None:
    """The refusal named strength, which nobody had sent; of a model that draws in one step it came always."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    one_step = f"{{ path: {weights}, quality: {{ standard: {{ steps: 1 }} }} }}"
    file.write_text(f"default: own\nmodels:\n  own: {one_step}\n")
    paper = paper_servers.open(models=file)
    upload = {"image": ("x", png(scene(60, 60)))}

    def vary(**fields: str) -> httpx.Response:
        with paper.client() as client:
            return client.post("/v1/images/variations", files=upload, data={"size": "256x256", **fields})

    error = assert_api_error(vary(steps="1"), 400, "invalid_value")
    assert (error["param"], error["message"]) == (
        "steps",
        "steps must be at least 2 to vary a picture, or send a strength of 1.",
    )
    assert assert_api_error(vary(steps="1", strength="0.6"), 400, "invalid_value")["param"] == "strength"
    assert vary().status_code == vary(steps="1", strength="1").status_code == 200
    assert [(drawing.spec.steps, drawing.spec.strength) for drawing in paper.worker.drawings] == [(2, 0.6), (1, 1)]


def test_a_variation_takes_no_more_steps_than_the_model_may(paper_servers: PaperServers, tmp_path: Path) -> None:
    """Of a model that may take one step, two were drawn."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: own\nmodels:\n  own: {{ path: {weights}, max_steps: 1 }}\n")
    paper = paper_servers.open(models=file)
    with paper.client() as client:
        answer = client.post("/v1/images/variations", files={"image": ("x", png(scene(60, 60)))})
    assert answer.status_code == 200, answer.text
    assert [(drawing.spec.steps, drawing.spec.strength) for drawing in paper.worker.drawings] == [(1, 1.0)]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_variation_of_a_model_that_may_take_few_steps_may_ask_for_them(
    steps: int, paper_servers: PaperServers, tmp_path: Path
) -> None:
    """Of a model that may take one step, steps 1 was told to be at least 2, which was told to be at most 1."""
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: own\nmodels:\n  own: {{ path: {weights}, max_steps: {steps} }}\n")
    paper = paper_servers.open(models=file)

    def vary(steps: int) -> httpx.Response:
        with paper.client() as client:
            upload = {"image": ("x", png(scene(60, 60)))}
            return client.post("/v1/images/variations", files=upload, data={"steps": str(steps)})

    assert vary(steps).status_code == 200
    error = assert_api_error(vary(steps + 1), 400, "invalid_value")
    assert error["message"] == f"steps must be at most {steps}."
    assert [(each.spec.steps, each.spec.strength) for each in paper.worker.drawings] == [
        (steps, {1: 1.0, 2: 0.6}[steps])
    ]


def test_holes_are_no_mask_for_a_variation(paper: Paper) -> None:
    source = scene(60, 60).convert("RGBA")
    source.putalpha(right_half(60, 60))
    fields = {"model": "dall-e-2", "prompt": "x"}
    with paper.client() as client:
        for route in ("variations", "edits"):
            answer = client.post(f"/v1/images/{route}", files={"image": ("x", png(source))}, data=fields)
            assert answer.status_code == 200, answer.text
    assert [drawing.spec.task for drawing in paper.worker.drawings] == [Task.IMAGE_TO_IMAGE, Task.INPAINTING]


def test_a_variation_needs_a_picture(paper: Paper) -> None:
    with paper.client() as client:
        answer = client.post("/v1/images/variations", data={"n": "1"}, files={"other": ("x", b"")})
        assert assert_api_error(answer, 400, "missing_field")["param"] == "image"
    assert_api_error(paper.post({"image": text(png(scene(9, 9)))}, "/v1/images/variations"), 400, "invalid_value")


@pytest.mark.parametrize(
    ("model", "form", "keys"),
    [
        ("dall-e-3", None, {"url"}),
        ("gpt-image-1", None, {"b64_json"}),
        ("google/gemini-2.5-flash-image", None, {"b64_json"}),
        ("gpt-image-2", None, {"b64_json"}),
        ("gpt-image-1", "url", {"url"}),
        ("gpt-image-1", "b64_json", {"b64_json"}),
        ("dall-e-3", "b64_json", {"b64_json"}),
    ],
)
def test_the_form_is_the_requests_or_the_models(paper: Paper, model: str, form: str | None, keys: set[str]) -> None:
    """Open WebUI read the ``url`` beside gpt-image-1's base64, and refused it: a private address."""
    fields = {"prompt": "x", "model": model, "response_format": form}
    assert _keys(paper.post(fields)) == keys
    under_contract = {"url", "b64_json"} if form is None and keys == {"b64_json"} else keys
    assert _keys(paper.post(fields, "/api/images/generations")) == under_contract


def _keys(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {key for item in answer.json()["data"] for key in item} - {"seed"}


@pytest.mark.parametrize("form", ["url", "b64_json", "both"])
def test_a_form_that_is_written_in_models_yaml_wins_on_every_route(
    paper_servers: PaperServers, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(
        f"default: mine\nmodels:\n  mine: {{ path: {weights}, aliases: [gpt-image-1], default_response: {form} }}\n"
    )
    paper = paper_servers.open(models=file)
    for path in ("/v1/images/generations", "/api/images/generations"):
        for model in ("mine", "gpt-image-1"):
            keys = {"url", "b64_json"} if form == "both" else {form}
            assert _keys(paper.post({"prompt": "x", "model": model}, path)) == keys


def test_an_alias_that_a_vendors_clients_send_is_answered_as_they_read_it(
    paper_servers: PaperServers, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    file.write_text(f"default: mine\nproviders: [openai]\n"
                    f"models:\n  mine: {{ path: {weights}, aliases: [gpt-image-1, dall-e-3] }}\n")  # fmt: skip
    paper = paper_servers.open(models=file)
    for model, form in (("openai/gpt-image-1", "b64_json"), ("dall-e-3", "url"), ("mine", "url"), (None, "url")):
        assert _keys(paper.post({"prompt": "x", "model": model})) == {form}


def test_only_ids_of_vendors_that_answer_with_base64_do_so(shipped: Catalog) -> None:
    forms = {(model.id, contract): model.response_form("", contract=contract)
             for model in shipped for contract in (True, False)}  # fmt: skip
    inline = {"gpt-image-1", "gemini-2.5-flash-image"}
    assert {model for (model, contract), form in forms.items() if contract and form == "both"} == inline
    assert {model for (model, contract), form in forms.items() if not contract and form == "b64_json"} == inline
    assert {form for (model, _), form in forms.items() if model not in inline} == {"url"}


def test_usage_counts_text_sources_and_pictures(paper: Paper) -> None:
    answer = paper.post({"prompt": "x", "n": 3, "size": "1000x30", "model": "gpt-image-1"})
    assert answer.json()["usage"] == {
        "input_tokens": 3,
        "output_tokens": 3 * 63 * 2,
        "total_tokens": 3 + 3 * 63 * 2,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
        "output_tokens_details": {"image_tokens": 3 * 63 * 2, "text_tokens": 0},
    }
    edit = paper.post({"prompt": "x", "size": "256x256", "image": text(png(scene(40, 40)))})
    assert edit.json()["usage"]["input_tokens_details"] == {"text_tokens": 3, "image_tokens": 256}


def test_text_is_counted_by_the_models_tokenizer(server: Running) -> None:
    fields = {"size": "256x256", "num_inference_steps": 1, "seed": 1}
    counts = [
        server.draw(**fields, prompt=prompt).json()["usage"]["input_tokens_details"]["text_tokens"]
        for prompt in ("a red apple", "a red apple on a blue background", "apple " * 200)
    ]
    assert counts == [3, 7, 200]
    with_negative = server.draw(**fields, prompt="a red apple", negative_prompt="a blue car").json()
    assert with_negative["usage"]["input_tokens_details"]["text_tokens"] == 6
