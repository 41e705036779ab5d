"""What the suites ask for, each with the one right answer; and whether an answer is that one.

Knows the API's routes and shapes; knows nothing of sockets. Every ask has seeds of its own, which its pictures carry,
so that a lost, doubled or exchanged picture shows.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.pictures import opened, parameters, png, right_half, scene, text
from tests.reliability.wire import Answer
from tests.sse import events

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
DRAWN = ("url", "b64", "stream", "stream_url", "edit", "mask", "variation", "hub", "hub_flat")
REFUSED = ("bad_field", "bad_json", "bad_model", "bad_picture", "no_route", "bad_link")
MIN_EDIT_STEPS = 4  # an edit draws a share of its steps, and one of none is refused
MODELS = (("darkroom-mini", "128x128"), ("dall-e-2", "256x256"), ("gpt-image-1", "192x128"))


class Wrong(Exception):
    """An answer that is not the one right one; says in which way."""


@dataclass(frozen=True)
class Ask:
    kind: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    seeds: tuple[int, ...] = ()  # of the pictures that the answer must have, in this order
    steps: int = 0


@dataclass(frozen=True)
class Told:
    """A picture of an answer: its bytes, its place, or both."""

    seed: int
    data: bytes | None
    link: str | None  # path and query

    @property
    def name(self) -> str | None:
        return None if self.link is None else urlsplit(self.link).path.rpartition("/")[2]


class Mix:
    """Asks by number: the same seed and number, the same ask."""

    def __init__(self, seed: int, kinds: tuple[str, ...], *, steps: tuple[int, int] = (1, 12)) -> None:
        self._seed = seed
        self._kinds = kinds
        self._steps = steps

    def ask(self, number: int) -> Ask:
        rng = random.Random(f"{self._seed}-{number}")
        kind = rng.choice(self._kinds)
        return refused(kind, rng) if kind in REFUSED else drawn(kind, rng, steps=rng.randint(*self._steps))


def drawn(kind: str, rng: random.Random, *, steps: int, n: int | None = None) -> Ask:
    """An ask for pictures."""
    n = n or rng.choice((1, 1, 2))
    if kind in ("edit", "mask", "variation"):
        steps = max(steps, MIN_EDIT_STEPS)
    model, size = rng.choice(MODELS)
    first = rng.randrange(2**40)
    fields: dict[str, Any] = {
        "prompt": f"a {rng.choice(('red', 'green', 'blue'))} apple {rng.randrange(10**9)}",
        "model": model,
        "size": size,
        "n": n,
        "seed": first,
        "num_inference_steps": steps,
        "response_format": "url" if kind in ("url", "stream_url", "edit") else "b64_json",
    }
    seeds = tuple(range(first, first + n))
    source = png(scene(64, 64))
    match kind:
        case "stream" | "stream_url":
            fields |= {"stream": True, "partial_images": rng.randint(0, 2), "stream_progress": rng.random() < 0.5}
        case "edit":
            fields |= {"image": text(source)}
        case "mask":
            body, headers = form(fields, image=source, mask=png(right_half(64, 64)))
            return Ask(kind, "POST", EDITS, body, headers, seeds=seeds, steps=steps)
        case "variation":
            del fields["prompt"]
            body, headers = form(fields, image=source)
            return Ask(kind, "POST", "/v1/images/variations", body, headers, seeds=seeds, steps=steps)
        case "hub":
            options = {name: fields[name] for name in ("model", "size", "n", "seed", "num_inference_steps")}
            given = {"prompt": fields["prompt"], "outputFileType": rng.choice(("url", "file")), "modelOptions": options}
            body = json.dumps({"input": given}).encode()
            return Ask(kind, "POST", "/api/v2/image", body, _JSON, seeds=seeds, steps=steps)
        case "hub_flat":
            body = json.dumps(fields).encode()
            return Ask(kind, "POST", "/api/v2/image/generations", body, _JSON, seeds=seeds, steps=steps)
    return Ask(kind, "POST", GENERATIONS, json.dumps(fields).encode(), _JSON, seeds=seeds, steps=steps)


def refused(kind: str, rng: random.Random) -> Ask:
    """An ask that is refused before any work."""
    fields: dict[str, Any] = {"prompt": "a red apple", "size": "256x256"}
    match kind:
        case "bad_field":
            fields |= {rng.choice(("n", "num_inference_steps", "guidance_scale")): rng.choice((-3, 10**6, [], "x"))}
        case "bad_json":
            return Ask(kind, "POST", GENERATIONS, b'{"prompt": "a red apple', _JSON, status=400)
        case "bad_model":
            return Ask(kind, "POST", GENERATIONS, json.dumps({**fields, "model": "none"}).encode(), _JSON, status=404)
        case "bad_picture":
            fields |= {"image": text(png(scene(64, 64))[: rng.randint(20, 400)])}
        case "no_route":
            return Ask(kind, "GET", "/v2/none", status=404)
        case "bad_link":
            return Ask(kind, "GET", f"/files/{'0' * 32}.png?expires=99999999999&signature=none", status=403)
    return Ask(kind, "POST", GENERATIONS, json.dumps(fields).encode(), _JSON, status=400)


_JSON = {"content-type": "application/json"}


def form(fields: dict[str, Any], **files: bytes) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    for name, data in files.items():
        head = (
            f'Content-Disposition: form-data; name="{name}"; filename="{name}.png"\r\nContent-Type: image/png\r\n\r\n'
        )
        parts.append(head.encode() + data)
    body = b"".join(b"--boundary\r\n" + part + b"\r\n" for part in parts) + b"--boundary--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=boundary"}


def error_code(answer: Answer) -> str:
    """The code of the error that an answer carries, whatever its status; empty if it carries none."""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        last = events(answer.body.decode())[-1:]
        error = last[0][1].get("error") if last and last[0][0] == "error" else None
    elif answer.headers.get("content-type", "").startswith("application/json"):
        body = answer.json()
        error = body.get("error") if isinstance(body, dict) else None
    else:
        return "" if answer.status < 400 else f"no JSON ({answer.status})"
    return str(error["code"]) if isinstance(error, dict) else ""


def judge(ask: Ask, answer: Answer) -> list[Told]:
    """The pictures of an answer. Raises Wrong if it is not the right one."""
    if answer.rest:
        raise Wrong(f"{ask.kind}: {len(answer.rest)} bytes behind the answer")
    if answer.status != ask.status:
        raise Wrong(f"{ask.kind}: {answer.status} {error_code(answer)}, not {ask.status}")
    if not ask.seeds:
        return []
    found = _SHAPES.get(ask.kind, _of_images)(answer)
    if tuple(told.seed for told in found) != ask.seeds:
        raise Wrong(f"{ask.kind}: pictures lost or doubled: {len(found)} of {len(ask.seeds)} {error_code(answer)}")
    for told in found:
        if told.data is not None:
            judge_picture(told.seed, told.data)
        elif told.link is None:
            raise Wrong(f"{ask.kind}: neither picture nor URL")
    return found


def judge_picture(seed: int, data: bytes) -> None:
    """Raises Wrong unless it is a whole picture of this seed."""
    try:
        opened(data)
        drawn_with = parameters(data)["seed"]
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise Wrong(f"torn picture: {type(error).__name__}") from error
    if drawn_with != seed:
        raise Wrong("a picture of another seed")


def _of_images(answer: Answer) -> list[Told]:
    return [_told(item, "b64_json") for item in answer.json()["data"]]


def _of_hub(answer: Answer) -> list[Told]:
    return [_told(item, "data") for item in answer.json().get("images", ())]


def _of_hub_flat(answer: Answer) -> list[Told]:
    return [_told(item, "b64_json") for item in answer.json()["images"]]


def _of_stream(answer: Answer) -> list[Told]:
    done = (data for kind, data in events(answer.body.decode()) if kind.endswith(".completed"))
    return [_told(data, "b64_json") for data in sorted(done, key=lambda data: int(data.get("index", 0)))]


def _told(item: dict[str, Any], inline: str) -> Told:
    data = base64.b64decode(item[inline], validate=True) if inline in item else None
    url = urlsplit(item["url"]) if "url" in item else None
    return Told(int(item["seed"]), data, None if url is None else f"{url.path}?{url.query}")


_SHAPES: dict[str, Callable[[Answer], list[Told]]] = {
    "hub": _of_hub,
    "hub_flat": _of_hub_flat,
    "stream": _of_stream,
    "stream_url": _of_stream,
}
