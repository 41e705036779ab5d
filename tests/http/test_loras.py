"""Adapters by name and weight: what may be asked, and that the picture is the one plain diffusers draws with them."""

from __future__ import annotations

import io
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from pipelines.spec import Adapter
from server.catalog.catalog import Model
from tests.assertions import assert_api_error
from tests.loras import write_lora
from tests.paper import Paper, PaperServers
from tests.pictures import files, pixels, png, scene
from tests.running import ROOT, Running, eventually, start

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),
]

MODELS = """\
default: mini
models:
  mini:
    path: {weights}
    preload: true
    native_size: 64x64
    multiple: 16
    loras:
      pixel: {{ path: {a}, description: squares }}
      ink: {{ path: {b}, weight: 0.5 }}
  plain:
    like: mini
    loras: {{}}
"""
PROMPT = "a red apple on a blue background"


def write_models(folder: Path, models: str = MODELS) -> Path:
    path = folder / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    path.write_text(models.format(weights=weights, a="a.safetensors", b="b.safetensors"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def _shared_lora_paper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paper]:
    folder = tmp_path_factory.mktemp("paper")
    with PaperServers(folder) as opened:
        yield opened.open(models=write_models(folder))


@pytest.fixture
def lora_paper(_shared_lora_paper: Paper) -> Paper:
    """Shared by the module, as if nobody had used it."""
    _shared_lora_paper.worker.forget()
    return _shared_lora_paper


@pytest.mark.parametrize(
    ("loras", "adapters"),
    [
        ([{"name": "pixel", "weight": 0.8}], (Adapter("pixel", 0.8),)),
        (
            [{"name": "pixel", "weight": 1}, {"name": "ink", "weight": -4}],
            (Adapter("ink", -4.0), Adapter("pixel", 1.0)),
        ),
        ([{"name": "ink"}, {"name": "pixel"}], (Adapter("ink", 0.5), Adapter("pixel", 1.0))),
        ([{"name": "ink", "weight": None}], (Adapter("ink", 0.5),)),
        ([{"name": "ink", "weight": 0}], ()),
        (["ink"], (Adapter("ink", 0.5),)),
        ({"ink": 2.5}, (Adapter("ink", 2.5),)),
        ([], ()),
        (None, ()),
    ],
)
def test_what_is_asked_for_is_what_is_drawn_with(lora_paper: Paper, loras: Any, adapters: Any) -> None:
    answer = lora_paper.post({"prompt": "x", "loras": loras})
    assert answer.status_code == 200, answer.text
    assert lora_paper.worker.drawings[0].spec.adapters == adapters


@pytest.mark.parametrize(
    ("loras", "says"),
    [
        ([{"name": "nobody"}], "ink"),
        ([{"name": "pixel"}, {"name": "pixel"}], "twice"),
        ([{"name": "pixel", "weight": 4.1}], "from -4 to 4"),
        ([{"name": "pixel", "weight": "one"}], "number"),
        ([{"name": "pixel", "weight": True}], "number"),
        ([{"weight": 1}], "name"),
        ([{"name": "pixel"}] * 9, "at most 8"),
        ("pixel", "array"),
        ([1], "array"),
        ([[]], "array"),
        ({"pixel": {"a": 1}}, "number"),
    ],
)
def test_anything_else_is_refused(lora_paper: Paper, loras: Any, says: str) -> None:
    error = assert_api_error(lora_paper.post({"prompt": "x", "loras": loras}), 400, "invalid_value")
    assert error["param"] == "loras"
    assert says in error["message"]
    assert not lora_paper.worker.drawings


def test_a_model_without_any_says_so(lora_paper: Paper) -> None:
    answer = lora_paper.post({"prompt": "x", "model": "plain", "loras": ["pixel"]})
    assert "plain has no loras" in assert_api_error(answer, 400, "invalid_value")["message"]


def test_forms_carry_them_as_json(lora_paper: Paper) -> None:
    picture = {"image": ("x.png", png(scene(50, 50)))}
    with lora_paper.client() as client:
        for loras in ('[{"name": "ink", "weight": 2}]', '{"ink": 2}'):
            answer = client.post("/v1/images/edits", data={"prompt": "x", "loras": loras}, files=picture)
            assert answer.status_code == 200, answer.text
            assert lora_paper.worker.drawings[-1].spec.adapters == (Adapter("ink", 2.0),)
        answer = client.post("/v1/images/edits", data={"prompt": "x", "loras": "[{"}, files=picture)
        assert_api_error(answer, 400, "invalid_value")


def test_the_list_of_models_has_them(lora_paper: Paper) -> None:
    with lora_paper.client() as client:
        rows = {row["id"]: row["loras"] for row in client.get("/v1/models").json()["data"]}
    pixel = {"name": "pixel", "weight": 1.0, "description": "squares"}
    assert rows == {"mini": [pixel, {"name": "ink", "weight": 0.5, "description": ""}], "plain": []}


# With a worker that draws.


@pytest.fixture(scope="module")
def folder(mini: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("loras")
    for number, name in enumerate(("a", "b"), 1):
        pipeline = StableDiffusionPipeline.from_pretrained(mini.plan.folder)
        write_lora(pipeline, folder, seed=number, size=0.1).rename(folder / f"{name}.safetensors")
    (folder / "broken.safetensors").write_bytes((folder / "b.safetensors").read_bytes()[:-100])
    return folder


OTHERS = """\
  torn:
    path: {weights}
    preload: true
    native_size: 64x64
    multiple: 16
    loras:
      pixel: {{ path: {a} }}
      ink: {{ path: broken.safetensors }}
  watched:
    path: {weights}
    native_size: 64x64
    multiple: 16
    loras:
      pixel: {{ path: {a} }}
    lora_folder: found
"""


@pytest.fixture(scope="module")
def lora_server(folder: Path) -> Iterator[Running]:
    """One for all: a model whose files are whole, one with a broken one, and one with a folder for them."""
    (folder / "found").mkdir()
    with start(folder / "data", models=write_models(folder, MODELS + OTHERS)) as running:
        yield running
        assert running.stop() == 0, running.log


def drawn_by_diffusers(mini: Model, folder: Path, weights: dict[str, float]) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(mini.plan.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for name, file in (("pixel", "a"), ("ink", "b")):
        pipeline.load_lora_weights(str(folder / f"{file}.safetensors"), adapter_name=name)
    if weights:
        pipeline.set_adapters(list(weights), list(weights.values()))
    else:
        pipeline.disable_lora()
    result = pipeline(
        PROMPT,
        width=64,
        height=64,
        num_inference_steps=6,
        guidance_scale=2.5,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    return np.asarray(result.images[0].convert("RGB")).astype(np.int16)


def test_mixed_requests_get_the_pictures_of_plain_diffusers(lora_server: Running, mini: Model, folder: Path) -> None:
    sets = [{}, {"pixel": 1.0}, {"pixel": 0.5}, {"ink": 1.0}, {"pixel": 1.0, "ink": 1.0}]
    asked = sets * 2
    ours: list[Any] = [None] * len(asked)

    def draw(index: int) -> None:
        loras = [{"name": name, "weight": weight} for name, weight in asked[index].items()]
        (picture,) = files(
            lora_server.draw(
                prompt=PROMPT, size="64x64", seed=7, num_inference_steps=6, guidance_scale=2.5, loras=loras
            )
        )
        ours[index] = picture

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    theirs = [drawn_by_diffusers(mini, folder, weights) for weights in sets]
    for index, picture in enumerate(ours):
        assert np.abs(pixels(picture) - theirs[index % len(sets)]).max() <= 1, asked[index]
    for one, other in itertools.pairwise(theirs):
        assert np.abs(one - other).mean() > 2, "each set draws another picture"
    written = json.loads(Image.open(io.BytesIO(ours[2])).info["parameters"])
    assert written["loras"] == [{"name": "pixel", "weight": 0.5}]
    assert "loras" not in json.loads(Image.open(io.BytesIO(ours[0])).info["parameters"])
    assert lora_server.metric("darkroom_engine", counter="unet_forwards") < 6 * len(asked), "they share steps"


def test_a_broken_file_is_reported_and_the_model_serves(lora_server: Running) -> None:
    assert '"adapter": "ink"' in lora_server.log
    assert "truncated" in lora_server.log
    fields = {"model": "torn", "size": "64x64", "num_inference_steps": 2}
    for loras in ([], ["pixel"]):
        assert lora_server.draw(**fields, loras=loras).status_code == 200
    error = assert_api_error(lora_server.draw(**fields, loras=["ink"]), 503, "model_unavailable")
    assert error["param"] == "loras"


def test_an_adapter_put_into_a_running_servers_folder_is_drawn_with(
    lora_server: Running, folder: Path, mini: Model
) -> None:
    fields = {"prompt": PROMPT, "size": "64x64", "seed": 7, "num_inference_steps": 6, "guidance_scale": 2.5}
    fields["model"] = "watched"
    assert_api_error(lora_server.draw(**fields, loras=["late"]), 400, "invalid_value")
    whole = (folder / "a.safetensors").read_bytes()
    late = folder / "found" / "late.safetensors"
    late.write_bytes(whole[: len(whole) // 2])  # as a copy that is under way
    with lora_server.client() as client:
        assert client.post("/v1/admin/reload").is_success
    assert_api_error(lora_server.draw(**fields, loras=["late"]), 400, "invalid_value")
    late.write_bytes(whole)
    eventually(lambda: lora_server.draw(**fields, loras=["late"]).status_code == 200)
    (picture,) = files(lora_server.draw(**fields, loras=["late"]))
    assert np.abs(pixels(picture) - drawn_by_diffusers(mini, folder, {"pixel": 1.0})).max() <= 1
    late.unlink()
    eventually(lambda: lora_server.draw(**fields, loras=["late"]).status_code == 400)
    assert lora_server.draw(**fields, loras=["pixel"]).status_code == 200


@pytest.mark.parametrize(
    ("fields", "adapters"),
    [
        ([("loras[][name]", "ink"), ("loras[][weight]", "2")], (Adapter("ink", 2.0),)),
        (
            [("loras[][name]", "pixel"), ("loras[][name]", "ink"), ("loras[][weight]", "2")],
            (Adapter("ink", 2.0), Adapter("pixel", 1.0)),
        ),
        ([("loras[]", "pixel"), ("loras[]", "ink")], (Adapter("ink", 0.5), Adapter("pixel", 1.0))),
        ([("loras[ink]", "2.5")], (Adapter("ink", 2.5),)),
    ],
)
def test_forms_carry_them_as_openais_sdks_spell_them_out(
    lora_paper: Paper, fields: list[tuple[str, str]], adapters: Any
) -> None:
    parts: list[Any] = [("image", ("x.png", png(scene(50, 50)))), ("prompt", (None, "x"))]
    parts += [(name, (None, value)) for name, value in fields]
    with lora_paper.client() as client:
        answer = client.post("/v1/images/edits", files=parts)
        assert answer.status_code == 200, answer.text
        assert lora_paper.worker.drawings[-1].spec.adapters == adapters
        answer = client.post("/v1/images/edits", files=[*parts, ("loras[][name]", (None, "none such"))])
        assert assert_api_error(answer, 400, "invalid_value")["param"] == "loras"


def test_an_sdks_adapters_are_drawn_with(lora_paper: Paper) -> None:
    client = openai.OpenAI(base_url=f"{lora_paper.url}/v1", api_key="none", max_retries=0)
    for loras in ([{"name": "ink", "weight": 2}], {"ink": 2}):
        client.images.edit(image=png(scene(50, 50)), prompt="x", extra_body={"loras": loras})
        assert lora_paper.worker.drawings[-1].spec.adapters == (Adapter("ink", 2.0),)
