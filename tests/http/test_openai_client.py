"""The real openai client against the real server, and its error classes."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.paper import PaperServers
from tests.pictures import opened, pixels, png, right_half, scene
from tests.running import Running, eventually


@pytest.fixture(params=["/api", "/v1"])
def client(server: Running, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + request.param, api_key="none-needed", max_retries=0) as made:
        yield made


def test_text_to_image_by_url(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red apple", model="dall-e-2", size="256x256", extra_body={"num_inference_steps": 1}
    )
    assert answer.data is not None
    assert answer.created > 0
    assert answer.data[0].url is not None
    assert opened(httpx.get(answer.data[0].url, trust_env=False, verify=False).content).size == (256, 256)


def test_text_to_image_inline_with_the_sdks_own_parameters(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red apple",
        model="openai/gpt-image-1",
        size="1024x1536",
        quality="low",
        n=2,
        response_format="b64_json",
        output_format="webp",
        output_compression=80,
        moderation="low",
        background="auto",
        user="someone",
        extra_body={"seed": 7, "num_inference_steps": 1, "watermark": False},
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    for item in answer.data:
        picture = opened(base64.b64decode(item.b64_json or ""))
        assert (picture.format, picture.size) == ("WEBP", (1024, 1536))
    assert answer.output_format == "webp"


def test_an_edit_with_and_without_a_mask(client: openai.OpenAI) -> None:
    source, mask = png(scene(200, 200)), png(right_half(200, 200))
    drawn = []
    extras: list[dict[str, Any]] = [{}, {"mask": ("mask.png", mask)}]
    for extra in extras:
        answer = client.images.edit(
            image=("../../etc/passwd", source),
            prompt="a red apple",
            model="dall-e-2",
            size="256x256",
            response_format="b64_json",
            extra_body={"seed": 4, "num_inference_steps": 4, "guidance_scale": 2.0},
            **extra,
        )
        assert answer.data is not None
        drawn.append(pixels(base64.b64decode(answer.data[0].b64_json or "")))
    assert drawn[0].shape == (256, 256, 3)
    assert (drawn[0] != drawn[1]).any()


def test_two_pictures_for_a_model_that_edits_one_are_a_bad_request(client: openai.OpenAI) -> None:
    source = png(scene(64, 64))
    with pytest.raises(openai.BadRequestError, match="one picture at a time") as refused:
        client.images.edit(image=[("a.png", source), ("b.png", source)], prompt="x", model="dall-e-2")
    assert refused.value.param == "image"


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    ids = {model.id for model in listed}
    assert {"dall-e-2", "dall-e-3", "gpt-image-1", "gemini-2.5-flash-image"} <= ids
    assert all(model.object == "model" and model.owned_by and model.created > 0 for model in listed)
    assert client.models.retrieve("dall-e-3").id == "dall-e-3"
    assert client.models.retrieve("google/gemini-2.5-flash-image").id == "gemini-2.5-flash-image"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nonsense")
    assert missing.value.code == "model_not_found"


def test_bad_request_and_unknown_model_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="x", n=11)
    assert (refused.value.param, refused.value.status_code) == ("n", 400)
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError, match=r"dall-e-2.*dall-e-3") as missing:
        client.images.generate(prompt="x", model="midjourney")
    assert missing.value.code == "model_not_found"


def test_wrong_key_and_full_queue_have_their_classes(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True, queue_size=1)
    with (
        openai.OpenAI(base_url=f"{paper.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.images.generate(prompt="x")
    assert refused.value.code == "invalid_api_key"
    paper.worker.gate.clear()
    with openai.OpenAI(base_url=f"{paper.url}/v1", api_key=paper.key, max_retries=0) as client:
        first = threading.Thread(target=lambda: client.images.generate(prompt="x"))
        first.start()
        eventually(lambda: paper.worker.drawings)
        with pytest.raises(openai.RateLimitError) as full:
            client.images.generate(prompt="y")
        paper.worker.gate.set()
        first.join(60)
    assert full.value.code == "queue_full"
    assert int(full.value.response.headers["retry-after"]) >= 1


def test_the_client_comes_again_after_a_429_and_gets_its_picture(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=1)
    paper.worker.gate.clear()
    with openai.OpenAI(base_url=f"{paper.url}/v1", api_key="x", max_retries=2) as client:
        first = threading.Thread(target=lambda: client.images.generate(prompt="x"))
        first.start()
        eventually(lambda: paper.worker.drawings)
        threading.Timer(0.3, paper.worker.gate.set).start()
        answer = client.images.generate(prompt="y")
        first.join(60)
    assert answer.data is not None
    assert len(paper.worker.drawings) == 2


@pytest.mark.parametrize("edit", [False, True], ids=["generate", "edit"])
def test_a_stream_brings_previews_and_the_picture(client: openai.OpenAI, edit: bool) -> None:
    fields: dict[str, Any] = {"prompt": "a red apple", "model": "gpt-image-1", "stream": True, "partial_images": 2}
    fields |= {"size": "128x128", "extra_body": {"num_inference_steps": 6, "seed": 7}}
    if edit:
        stream = client.images.edit(image=("a.png", png(scene(96, 96))), **fields)
    else:
        stream = client.images.generate(**fields)
    name = "image_edit" if edit else "image_generation"
    events = list(stream)
    assert {event.type for event in events[:-1]} <= {f"{name}.partial_image"}
    assert events[-1].type == f"{name}.completed"
    assert events[-1].usage.total_tokens > 0
    for event in events:
        assert opened(base64.b64decode(event.b64_json)).size == (128, 128)


def test_a_refusal_of_a_stream_is_an_ordinary_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="partial_images"):
        client.images.generate(prompt="x", model="gpt-image-1", stream=True, partial_images=9)


@pytest.mark.anyio
async def test_the_asynchronous_client_draws_edits_and_streams(server: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none-needed", max_retries=0) as client:
        quick: dict[str, Any] = {"prompt": "a red apple", "model": "gpt-image-1", "size": "64x64"}
        quick["extra_body"] = {"num_inference_steps": 1}
        source = ("a.png", png(scene(96, 96)))
        drawn = await client.images.generate(response_format="b64_json", **quick)
        edited = await client.images.edit(image=[source], mask=("m.png", png(right_half(96, 96))), **quick)
        for answer in (drawn, edited):
            assert answer.data is not None
            assert opened(base64.b64decode(answer.data[0].b64_json or "")).size == (64, 64)
        stream = await client.images.generate(stream=True, **quick)
        assert [event.type async for event in stream][-1] == "image_generation.completed"
        assert "gpt-image-1" in [model.id async for model in client.models.list()]
