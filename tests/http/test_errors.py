"""The error table of the contract, on the whole server: one shape, the field named, nothing echoed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from server import errors
from server.api.wire import ImageFields
from server.catalog.catalog import Catalog
from server.edge.auth import OPEN_PATHS
from server.edge.keys import Keyring
from server.worker.status import ModelState
from tests.assertions import assert_api_error
from tests.http.test_door import paths_of
from tests.paper import Paper, PaperServers
from tests.pictures import png, right_half, scene, text
from tests.running import eventually

SOURCE = text(png(scene(32, 32)))


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"prompt": None}, "prompt", "required"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": " \n\t"}, "prompt", "empty"),
        ({"prompt": 5}, "prompt", "string"),
        ({"prompt": "x" * 4001}, "prompt", "4000"),
        ({"negative_prompt": "x" * 4001}, "negative_prompt", "4000"),
        ({"prompt": "x" * 100_001}, "prompt", "prompt must have at most 100000 characters."),
        ({"model": "x" * 201}, "model", "model must have at most 200 characters."),
        ({"scheduler": "x" * 41}, "scheduler", "scheduler must have at most 40 characters."),
        ({"quality": "best"}, "quality", "hd"),
        ({"style": "cubist"}, "style", "natural"),
        ({"response_format": "file"}, "response_format", "b64_json"),
        ({"output_format": "gif"}, "output_format", "webp"),
        ({"output_compression": 101}, "output_compression", "100"),
        ({"background": "green"}, "background", "transparent"),
        ({"input_fidelity": "medium"}, "input_fidelity", "high"),
        ({"size": "1024"}, "size", "256x256"),
        ({"size": "1792x1024"}, "size", "256x256"),
        ({"size": "512x512", "model": "dall-e-3"}, "size", "1792x1024"),
        ({"size": "100000x10000", "model": "gpt-image-1"}, "size", "2048"),
        ({"size": "4096x64", "model": "gpt-image-1"}, "size", "2048"),
        ({"size": "1x1", "model": "gpt-image-1"}, "size", "16"),
        ({"size": "٥١٢x٥١٢"}, "size", "512x512"),
        ({"scheduler": "magic"}, "scheduler", "euler"),
        ({"scheduler": "flow_unipc"}, "scheduler", "scheduler must be one of ddim, euler"),
        ({"spacing": "dense"}, "spacing", "spacing must be default or dense_start."),
        ({"spacing": 3}, "spacing", "spacing must be default or dense_start."),
        ({"step_cache": 1.5}, "step_cache", "1"),
        ({"step_cache": -0.1}, "step_cache", "0"),
        ({"step_cache": "much"}, "step_cache", "number"),
        ({"step_cache": True, "scheduler": "lcm", "steps": 20}, "step_cache", "lcm draws few steps"),
        ({"num_inference_steps": 151}, "num_inference_steps", "150"),
        ({"num_inference_steps": 0}, "num_inference_steps", "1"),
        ({"guidance_scale": 51}, "guidance_scale", "50"),
        ({"strength": 0}, "strength", "0"),
        ({"strength": 1.01}, "strength", "1"),
        ({"seed": -2}, "seed", "0"),
        ({"seed": 2**63}, "seed", "integer"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"stream": 1}, "stream", "boolean"),
        ({"stream": True, "partial_images": 4}, "partial_images", "3"),
        ({"stream": True, "n": 11}, "n", "10"),
        ({"image": 5}, "image", "base64"),
        ({"image": [SOURCE, SOURCE]}, "image", "one picture"),
        ({"image": [SOURCE] * 17}, "image", "16"),
        ({"image": "not base64!"}, "image", "base64"),
        ({"image": text(b"not a picture at all")}, "image", "PNG"),
        ({"image": text(png(scene(32, 32))[:200])}, "image", "incomplete"),
        ({"image": SOURCE, "mask": text(b"GIF89a")}, "mask", "PNG"),
        ({"mask": SOURCE}, "image", "image"),
        ({"images": [{"file_id": "file-x"}]}, "images", "file_id is not offered"),
        ({"images": [{"image_url": SOURCE}], "mask": {"file_id": "file-x"}}, "mask", "file_id is not offered"),
        ({"images": [{"image_url": {"href": "x"}}]}, "images", "image_url"),
        ({"images": [{"image_url": {"url": "x"}}]}, "images", "images: not valid base64"),
        ({"images": {"image_url": SOURCE}}, "images", "array"),
        ({"images": [SOURCE, 5]}, "images", "image_url"),
        ({"images": [{"image_url": SOURCE}], "image": SOURCE}, "images", "not both"),
        ({"images": [{"image_url": SOURCE}] * 17}, "images", "16"),
        ({"image": SOURCE, "mask": {"href": "x"}}, "mask", "image_url"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it_and_what_is_allowed(
    paper: Paper, fields: dict[str, Any], param: str, says: str
) -> None:
    body = {"prompt": "an apple", **fields}
    answer = paper.post({key: value for key, value in body.items() if value is not None})
    code = answer.json()["error"]["code"]
    assert code in ("invalid_value", "invalid_image", "missing_field")
    error = assert_api_error(answer, 400, code)
    assert error["param"] == param
    assert says in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert not paper.worker.drawings
    assert len(error["message"]) < 400  # no echo of what was sent


@pytest.mark.parametrize("n", ["0", "-1", "11", "1e9", "1e400", "NaN", "-Infinity", "true", "1.0", "2.5", '"3"', "[]",
                               "9" * 5000, "null1"])  # fmt: skip
@pytest.mark.parametrize("field", ["n", "guidance_scale", "num_inference_steps", "seed"])
def test_odd_numbers_are_400_and_never_echoed(paper: Paper, n: str, field: str) -> None:
    fine = {
        "n": {"1.0", '"3"'},
        "guidance_scale": {"0", "11", "1.0", "2.5", '"3"'},
        "num_inference_steps": {"11", "1.0", '"3"'},
        "seed": {"0", "-1", "11", "1e9", "1.0", '"3"'},
    }
    answer = paper.post(f'{{"prompt": "x", "{field}": {n}}}'.encode())
    if n in fine.get(field, set()):
        assert answer.status_code == 200
        return
    error = assert_api_error(answer, 400, "invalid_value")
    assert error["param"] in (field, None)
    if field == "n" and n in ("0", "-1", "11", "true", "2.5", "[]"):
        assert error["message"] == "n must be an integer from 1 to 10."
    assert len(answer.content) < 500


@pytest.mark.parametrize("size", ["0x0", "-1x5", "1e9x1", "1024x1024x1024", "NaNxNaN", "9" * 5000, "1024", "1024x"])
def test_odd_sizes_are_400(paper: Paper, size: str) -> None:
    assert assert_api_error(paper.post({"prompt": "x", "size": size}), 400, "invalid_value")["param"] == "size"


@pytest.mark.parametrize(
    "prompt", [b'"\\ud800"', b'"a\\u0000b"', b'"' + b"x" * 900_000 + b'"', b'"\xff"', b'"\xed\xa0\x80"', b'"a\nb"']
)
def test_odd_text_is_400_and_never_echoed(paper: Paper, prompt: bytes) -> None:
    answer = paper.post(b'{"prompt": ' + prompt + b"}")
    assert_api_error(answer, 400, "invalid_value")
    assert len(answer.content) < 500


@pytest.mark.parametrize("prompt", ["قطة حمراء\u202e", "一只红色的猫", "🐈‍⬛", "a\r\nb"])
def test_any_script_is_text(paper: Paper, prompt: str) -> None:
    assert paper.post({"prompt": prompt}).status_code == 200
    assert paper.worker.drawings[0].spec.prompt == prompt


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"5", b"{", b'{"prompt": "x"', b"[" * 100_000, b"\x00", b'"x"'])
def test_a_body_that_is_no_object_is_400(paper: Paper, body: bytes) -> None:
    assert_api_error(paper.post(body), 400, "invalid_value")


@pytest.mark.parametrize("url", ["http://[::1/x.png", "http://a]b/x", "https://℀.com/x.png", "http://[x]/files/a.png"])
@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/v1/images/edits", "/api/v2/image", "/api/v2/image/generations"]
)
def test_urls_that_pythons_parser_raises_at_are_refused_like_any_other(paper: Paper, path: str, url: str) -> None:
    """They were answered 500 with x-should-retry: the look for pictures of our own took them apart unguarded."""

    def refusal(**fields: str) -> dict[str, Any]:
        body = {"prompt": "x", **fields}
        answer = paper.post({"input": body} if path == "/api/v2/image" else body, path)
        assert answer.headers["x-should-retry"] == "false"
        return assert_api_error(answer, 400, "invalid_image")

    assert refusal(image=url) == refusal(image="http://127.0.0.1/x.png")
    assert refusal(image=SOURCE, mask=url)["param"] == "mask"
    assert not paper.worker.drawings


@pytest.mark.parametrize("path", ["/v1/images/edits", "/api/images/edits"])
def test_an_edit_needs_its_picture(paper: Paper, path: str) -> None:
    assert assert_api_error(paper.post({"prompt": "x"}, path), 400, "missing_field")["param"] == "image"
    with paper.client() as client:
        answer = client.post(path, data={"prompt": "x"}, files={"mask": ("m", png(right_half(8, 8)))})
        assert assert_api_error(answer, 400, "missing_field")["param"] == "image"
        answer = client.post(path, data={"image": "http://127.0.0.1/x"}, files={"other": ("o", b"x")})
        assert assert_api_error(answer, 400, "invalid_value")["param"] == "image"
        answer = client.post(path, content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 400
        answer = client.post(path, content=b"--x", headers={"content-type": "multipart/form-data"})
        assert answer.status_code == 400


def test_an_unknown_model_is_404_with_the_ids_that_exist(paper: Paper, shipped: Catalog) -> None:
    error = assert_api_error(paper.post({"prompt": "x", "model": "canary-model"}), 404, "model_not_found")
    assert error["param"] == "model"
    assert all(model.id in error["message"] for model in shipped)
    assert "canary" not in error["message"]
    with paper.client() as client:
        assert_api_error(client.get("/v1/models/canary-model"), 404, "model_not_found")


def test_unknown_routes_and_methods(paper: Paper) -> None:
    with paper.client() as client:
        assert_api_error(client.get("/v1/nothing"), 404, "not_found")
        answer = client.get("/v1/images/generations")
        assert_api_error(answer, 405, "method_not_allowed")
        assert "POST" in answer.headers["allow"]


def test_a_body_or_picture_too_large_is_413(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(max_image_bytes=100_000, max_body_bytes=1_000_000)
    assert_api_error(paper.post({"prompt": "x" * 1_100_000}), 413, "too_large")
    big = text(b"\x89PNG" + bytes(150_000))
    assert assert_api_error(paper.post({"prompt": "x", "image": big}), 413, "too_large")["param"] == "image"
    with paper.client() as client:
        answer = client.post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("i", bytes(150_000))})
        assert assert_api_error(answer, 413, "too_large")["param"] == "image"


def test_no_key_and_a_wrong_key_are_401(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    with paper.live.client() as client:
        for headers in ({}, {"authorization": "Bearer dk_wrong"}, {"authorization": f"Basic {paper.key}"}):
            answer = client.post("/api/images/generations", json={"prompt": "x"}, headers=headers)
            assert_api_error(answer, 401, "invalid_api_key")
    assert not paper.worker.drawings


def test_every_route_of_the_server_but_the_open_ones_asks_for_the_key(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True)
    paths = paths_of(paper.app)
    assert {"/api/images/generations", "/v1/images/edits", "/metrics", "/openapi.json", "/docs", "/v1/models"} <= paths
    with paper.live.client() as client:
        for path in paths:
            assert client.options(path).status_code == 204, path  # a preflight has no key
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                answer = client.request(method, path)
                is_open = path in OPEN_PATHS or path.startswith(("/files/", "/page/"))
                if not (is_open and method in ("GET", "HEAD")):
                    assert answer.status_code == 401, (method, path)
                else:
                    assert answer.status_code in (200, 403, 404, 405), (method, path)
    assert not paper.worker.drawings


def test_a_full_queue_is_429_in_no_time_and_its_places_come_back(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(queue_size=4)
    paper.worker.gate.clear()
    admitted = [threading.Thread(target=paper.post, args=({"prompt": "x", "seed": seed},)) for seed in range(4)]
    for thread in admitted:
        thread.start()
    queue = paper.app.state.services.queue
    eventually(lambda: queue.held == 4, within_s=20)
    waits, others = [], []
    with paper.client() as client:  # one: to make it takes longer than the answer
        for _ in range(20):
            asked = time.monotonic()
            client.get("/livez")
            started = time.monotonic()
            others.append(started - asked)
            answer = client.post("/v1/images/generations", json={"prompt": "x"})
            waits.append(time.monotonic() - started)
            assert_api_error(answer, 429, "queue_full")
            assert answer.headers["x-should-retry"] == "true"
    # The best of 20, less what the machine makes any answer wait: it may be busy, the server must not be.
    assert min(waits) - min(others) < 0.05
    paper.worker.gate.set()
    for thread in admitted:
        thread.join(60)
    eventually(lambda: queue.held == 0)
    assert paper.post({"prompt": "x"}).status_code == 200


def test_one_keys_share_of_the_queue_is_429_for_that_key_alone(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(keys=True, key_jobs=1)
    other = Keyring(paper.app.state.services.settings.data_dir / "keys.json").create("other")
    paper.worker.gate.clear()
    first = threading.Thread(target=paper.post, args=({"prompt": "x"},))
    first.start()
    eventually(lambda: paper.worker.drawings)
    assert_api_error(paper.post({"prompt": "y"}), 429, "key_limit")
    threading.Timer(0.1, paper.worker.gate.set).start()
    with paper.live.client(headers={"authorization": f"Bearer {other}"}) as client:
        assert eventually(lambda: client.post("/v1/images/generations", json={"prompt": "x"}).status_code == 200)
    first.join(60)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in errors.ANSWERS if errors.ANSWERS[kind].status in (500, 503, 507)],
    ids=lambda kind: kind.__name__,
)
def test_whatever_fails_while_drawing_is_answered_by_the_table(paper: Paper, kind: type[errors.DarkroomError]) -> None:
    paper.worker.failure = kind("It failed.")
    answer = paper.post({"prompt": "x"})
    row = errors.ANSWERS[kind]
    assert_api_error(answer, row.status, row.code)
    assert answer.headers["x-should-retry"] == ("true" if row.retry else "false")
    paper.worker.failure = None
    assert paper.post({"prompt": "x"}).status_code == 200


def test_a_job_past_its_deadline_is_503_and_cancelled(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(job_timeout_s=0.3)
    paper.worker.gate.clear()
    assert_api_error(paper.post({"prompt": "x"}), 503, "deadline_exceeded")
    assert paper.worker.cancelled


def test_a_full_store_is_507_before_any_device_work_and_b64_still_works(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = paper_servers.open()

    async def no(self: object, bytes_needed: int) -> bool:
        return False

    monkeypatch.setattr("server.storage.local.LocalStore.has_room", no)
    for asked in ({}, {"model": "gpt-image-1", "response_format": "url"}, {"stream": True, "response_format": "url"}):
        assert_api_error(paper.post({"prompt": "x", **asked}), 507, "store_full")
    assert not paper.worker.drawings
    assert paper.post({"prompt": "x", "response_format": "b64_json"}).status_code == 200
    assert_inline_alone(paper)


def assert_inline_alone(paper: Paper) -> None:
    """Who answers with both by default had 507 too, though clients of gpt-image-1 read nothing but the base64."""
    for model in ("gpt-image-1", "google/gemini-2.5-flash-image"):
        answer = paper.post({"prompt": "x", "model": model, "n": 2})
        assert answer.status_code == 200, answer.text
        assert [set(item) for item in answer.json()["data"]] == [{"seed", "b64_json"}] * 2
    (image,) = paper.post({"prompt": "x", "model": model}, "/api/v2/image/generations").json()["images"]
    assert "url" not in image
    assert image["base64"]


@pytest.mark.parametrize("broken", ["has_room", "put"])
def test_a_store_that_fails_costs_nobody_a_picture_who_did_not_ask_for_a_url(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    paper = paper_servers.open()

    async def fail(self: object, *args: object) -> None:
        raise errors.ServerFault("The store cannot be reached.")

    monkeypatch.setattr(f"server.storage.local.LocalStore.{broken}", fail)
    assert_api_error(paper.post({"prompt": "x", "response_format": "url"}), 500, "internal_error")
    assert_inline_alone(paper)


def test_a_store_that_fills_up_during_the_put_is_507_for_urls_and_b64_still_works(
    paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    paper = paper_servers.open()
    write = os.write

    def full(file: int, data: Any) -> int:
        if bytes(data[:4]) == b"\x89PNG":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    for asked in ({}, {"model": "gpt-image-1", "response_format": "url"}):
        assert_api_error(paper.post({"prompt": "x", **asked}), 507, "store_full")
    assert_inline_alone(paper)
    folder: Path = paper.app.state.services.settings.data_dir / "pictures"
    assert not list(folder.iterdir())


def test_a_server_that_can_draw_with_nothing_is_not_ready(paper_servers: PaperServers) -> None:
    paper = paper_servers.open()
    with paper.client() as client:
        assert client.get("/readyz").status_code == 200
        for status in paper.worker.models.values():
            status.state = ModelState.BROKEN
        assert client.get("/readyz").status_code == 503


def test_openapi_lists_every_field(paper: Paper) -> None:
    with paper.client() as client:
        document = client.get("/openapi.json").json()
    schema = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert set(ImageFields.model_fields) <= set(schema["properties"])
    assert all(field.get("description") for field in schema["properties"].values())
    assert "multipart/form-data" in document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    json.dumps(document)
