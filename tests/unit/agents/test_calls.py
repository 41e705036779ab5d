"""Calls of tools, against an API that answers as it is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server.agents.api_client import ApiClient, Place
from server.agents.calls import Answer, call
from server.agents.folders import Folders
from server.agents.refusals import CallFailed
from server.agents.shown import MAX_BYTES
from server.agents.tools import TOOLS
from tests.pictures import noise, png

pytestmark = pytest.mark.anyio

RED = png(Image.new("RGB", (8, 8), "red"))
PLACE = Place("http://darkroom.test", absent="Start one.", unknown_key="The key is set there.")
Told = list[tuple[float, float | None, str]]


class Api:
    """Answers each request in turn, and remembers what it was sent."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.told: Told = []

    @property
    def sent(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]

    async def call(self, name: str, folders: Folders | None = None, **arguments: Any) -> Answer:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self._answer), base_url=PLACE.name) as client:
            return await call(name, arguments, ApiClient(client, PLACE), self._tell, folders=folders)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _tell(self, done: float, total: float | None, words: str) -> None:
        self.told.append((done, total, words))


def events(*bodies: dict[str, Any], **headers: str) -> httpx.Response:
    text = "".join(f"event: x\ndata: {json.dumps(body)}\n\n: keep-alive\n\n" for body in bodies)
    return httpx.Response(200, headers={"content-type": "text/event-stream", **headers}, text=text)


def completed(data: bytes = RED, **changes: Any) -> dict[str, Any]:
    return {
        "type": "image_generation.completed",
        "b64_json": base64.b64encode(data).decode(),
        "url": "http://darkroom.test/files/x.png",
        "seed": 7,
        "size": "8x8",
        "output_format": "png",
    } | changes


def progress(state: str, place: int, done: int = 0, of: int = 0, eta_s: float | None = None) -> dict[str, Any]:
    return {"type": "darkroom.progress", "state": state, "place": place, "done": done, "of": of, "eta_s": eta_s}


def refused(status: int, message: str, code: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "code": code}}, headers=headers)


async def test_a_picture_comes_with_its_url_and_seed() -> None:
    api = Api(events(completed()))
    answer = await api.call("generate_image", prompt="a red apple", steps=4, guidance=2.5, seed=7, model=None)
    assert api.requests[0].url.path == "/v1/images/generations"
    assert api.sent[0] == {
        "prompt": "a red apple",
        "steps": 4,
        "guidance": 2.5,
        "seed": 7,
        "response_format": "url",
        "stream": True,
        "stream_progress": True,
    }
    assert answer.text == "1. http://darkroom.test/files/x.png (8x8, png, seed 7)"
    assert [(shown.data, shown.mime) for shown in answer.pictures] == [(RED, "image/png")]


async def test_many_large_pictures_fit_one_answer() -> None:
    large = png(noise(400, 400))
    answer = await Api(events(*[completed(large)] * 4)).call("generate_image", prompt="x", n=4)
    assert len(large) * 4 > MAX_BYTES
    assert len(answer.pictures) == 4
    assert sum(len(shown.data) for shown in answer.pictures) <= MAX_BYTES
    assert "shown here as a jpeg of 400x400" in answer.text


async def test_progress_grows_each_time_it_is_told() -> None:
    """The protocol has it so, and a place in the queue is none."""
    api = Api(
        events(
            progress("queued", 3, eta_s=12.4),
            progress("queued", 2),
            progress("running", 0, 0, 8),
            progress("running", 0, 1, 8),
            progress("running", 0, 1, 8),
            progress("running", 0, 8, 8),
            completed(),
        )
    )
    await api.call("generate_image", prompt="x")
    done = [each[0] for each in api.told]
    assert done == sorted(set(done))
    assert [each[2] for each in api.told] == [
        "waiting, 3 in line, about 12 s",
        "waiting, 2 in line",
        "about to draw",
        "drawing, step 1 of 8",
        "drawing, step 8 of 8",
    ]
    assert api.told[-1][:2] == (8, 8)


async def test_what_has_no_effect_is_told() -> None:
    answer = await Api(events(completed(), **{"x-ignored-fields": "negative_prompt"})).call(
        "generate_image", prompt="x"
    )
    assert answer.text.startswith("Without effect with this model: negative_prompt.\n1. ")


async def test_a_full_store_costs_the_url_and_not_the_picture() -> None:
    api = Api(refused(507, "no room", "store_full"), events(completed(url=None)))
    answer = await api.call("generate_image", prompt="x")
    assert "response_format" not in api.sent[1]
    assert answer.text == "1. no URL: the server has no room to keep it (8x8, png, seed 7)"


async def test_an_edit_keeps_the_size_unless_told_otherwise() -> None:
    api = Api(events(completed()), events(completed()))
    await api.call("edit_image", prompt="x", images=["http://a/b.png"])
    await api.call("edit_image", prompt="x", images="http://a/b.png", size="64x64", mask="data:,")
    assert [request.url.path for request in api.requests] == ["/v1/images/edits"] * 2
    assert [(sent["images"], sent["size"]) for sent in api.sent] == [
        (["http://a/b.png"], "auto"),
        (["http://a/b.png"], "64x64"),
    ]


async def test_an_edit_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    api = Api(events(completed()))
    await api.call("edit_image", Folders([tmp_path]), prompt="x", image_paths=["a.png"], mask_path="a.png")
    text = "data:image/png;base64," + base64.b64encode(RED).decode()
    assert (api.sent[0]["images"], api.sent[0]["mask"]) == ([text], text)
    assert not api.sent[0].keys() & {"image_paths", "mask_path"}


@pytest.mark.parametrize(
    ("files", "arguments", "says"),
    [
        (False, {}, "images is required."),
        (True, {}, "images is required, or image_paths."),
        (False, {"images": []}, "images is required."),
        (True, {"images": ["x"], "image_paths": ["y"]}, "images: is sent twice"),
        (True, {"images": ["x"], "mask": "x", "mask_path": "y"}, "mask: is sent twice"),
        (True, {"image_paths": [7]}, "image_paths must be an array of paths."),
        (False, {"image_paths": ["x"]}, "edit_image does not take one of these arguments. It takes: prompt, model,"),
        (True, {"image_paths": ["../x"]}, "there is no such file"),
    ],
)
async def test_an_edit_without_its_picture_is_refused_before_anything_is_sent(
    tmp_path: Path, files: bool, arguments: dict[str, Any], says: str
) -> None:
    api = Api()
    with pytest.raises(CallFailed) as failed:
        await api.call("edit_image", Folders([tmp_path]) if files else None, prompt="x", **arguments)
    assert failed.value.message.startswith(says) or says in failed.value.message
    assert api.requests == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refused(404, "No such model. This server has: a."), "No such model. This server has: a."),
        (refused(429, "The queue is full.", **{"retry-after": "3"}), "The queue is full. Try again in 3 s."),
        (refused(401, "This API key is not known here."), "This API key is not known here. The key is set there."),
        (events({"type": "error", "error": {"message": "The job failed."}}), "The job failed."),
        (events(), "The answer ended before there was a picture. Try again."),
        (events(completed(b"no picture")), "The server's answer holds no picture; is it Darkroom?"),
        (events(completed(b64_json="%%%")), "The server's answer holds no picture; is it Darkroom?"),
        (httpx.Response(200, text="<html>"), "http://darkroom.test answered 200, and not as Darkroom does"),
        (httpx.Response(502, text="<html>"), "http://darkroom.test answered 502, and not as Darkroom does"),
        (httpx.ConnectError("refused"), "No server answers at http://darkroom.test. Start one."),
        (httpx.ReadError("reset"), "http://darkroom.test broke off (ReadError). Try again."),
    ],
)
async def test_a_failure_is_told_in_words(answer: httpx.Response | Exception, says: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await Api(answer).call("generate_image", prompt="x")
    assert failed.value.message.startswith(says)


async def test_models_are_told_without_what_no_agent_needs() -> None:
    rows = [
        {
            "id": "a",
            "default": True,
            "tasks": ["text-to-image"],
            "sizes": "any",
            "loras": [],
            "seal": None,
            "created": 1,
        },
        {"id": "b", "alias_of": "a"},
    ]
    answer = await Api(httpx.Response(200, json={"data": rows})).call("list_models")
    assert json.loads(answer.text) == [{"id": "a", "default": True, "tasks": ["text-to-image"], "sizes": "any"}]


async def test_jobs_are_listed_and_cancelled() -> None:
    api = Api(httpx.Response(200, json={"data": [{"id": "job_1"}]}), httpx.Response(200, json={"id": "job_1"}))
    assert json.loads((await api.call("list_jobs")).text) == [{"id": "job_1"}]
    await api.call("cancel_job", job_id="job_1/../x")
    assert [request.method for request in api.requests] == ["GET", "DELETE"]
    assert api.requests[1].url.raw_path == b"/v1/images/jobs/job_1%2F..%2Fx"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("paint", {}, "There is no such tool. There are: generate_image, edit_image"),
        ("generate_image", {}, "prompt is required."),
        ("generate_image", {"prompt": None}, "prompt is required."),
        ("list_models", {"what": 1}, "list_models does not take one of these arguments. It takes: no arguments."),
        ("cancel_job", {}, "job_id is required."),
    ],
)
async def test_a_call_that_cannot_be_meant_is_refused(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(CallFailed) as failed:
        await Api().call(name, **arguments)
    assert failed.value.message.startswith(says)


@pytest.mark.parametrize("files", [False, True])
def test_schemas_are_schemas_and_have_bounds(files: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install 'darkroom[mcp]'")
    for tool in TOOLS:
        schema = tool.schema(files=files)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(schema["required"]) <= schema["properties"].keys()
        for rules in schema["properties"].values():
            assert isinstance(rules["type"], str)
            assert rules["description"]
            if rules["type"] in ("integer", "number"):
                assert "maximum" in rules


def test_an_edit_needs_its_picture_as_a_file_or_otherwise() -> None:
    edit: Callable[..., dict[str, Any]] = next(tool for tool in TOOLS if tool.name == "edit_image").schema
    assert edit(files=False)["required"] == ["prompt", "images"]
    assert edit(files=True)["required"] == ["prompt"]
