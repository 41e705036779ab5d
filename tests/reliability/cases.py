"""Requests as clients send them, and as nobody should: real bodies, and the mutations of their parts.

A case is a base and a few mutations, each with a seed of its own: it can be made again, and made smaller. Knows bytes;
sends nothing.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from tests.pictures import png, right_half, scene

BOUNDARY = "darkroom-boundary"
Header = tuple[str, bytes]


@dataclass
class Part:
    """One part of a multipart body."""

    headers: list[bytes]
    body: bytes


@dataclass
class Draft:
    """A request that is still being mutated."""

    method: str
    path: str
    headers: list[Header] = field(default_factory=list)
    json: Any = None  # while it is a tree; then ``body`` is not yet written
    parts: list[Part] | None = None
    body: bytes = b""
    version: str = "HTTP/1.1"
    line_end: bytes = b"\r\n"
    length: str | None = None  # another Content-Length than the true one
    chunks: bytes | None = None  # the body as it goes out, chunked, if it does
    cut: int | None = None  # bytes of the whole that are sent
    before: bytes = b""  # on the same connection
    after: bytes = b""
    close: bytes = b"--" + BOUNDARY.encode() + b"--\r\n"  # the end of a multipart body
    whole: bool = True  # surely one request that is answered

    def settle(self) -> None:
        """Write the tree or the parts as bytes."""
        if self.json is not None:
            self.body, self.json = json.dumps(self.json, ensure_ascii=False).encode("utf-8", "surrogatepass"), None
        if self.parts is not None:
            lines = [
                b"--" + BOUNDARY.encode() + b"\r\n" + b"\r\n".join(part.headers) + b"\r\n\r\n" + part.body + b"\r\n"
                for part in self.parts
            ]
            self.body, self.parts = b"".join(lines) + self.close, None

    def render(self, host: str, key: str | None) -> bytes:
        """The bytes to send."""
        self.settle()
        headers = list(self.headers)
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            headers.insert(0, ("Host", host.encode()))
        if key is not None and "authorization" not in names:
            headers.append(("Authorization", b"Bearer " + key.encode()))
        if self.chunks is None and (self.body or self.length is not None or self.method in ("POST", "PUT", "PATCH")):
            headers.append(("Content-Length", (self.length or str(len(self.body))).encode()))
        target = self.path.encode("utf-8", "surrogatepass")
        lines = [self.method.encode() + b" " + target + b" " + self.version.encode()]
        lines += [name.encode("latin-1", "replace") + b": " + value for name, value in headers]
        sent = self.line_end.join([*lines, b"", b""]) + (self.body if self.chunks is None else self.chunks)
        return self.before + (sent if self.cut is None else sent[: self.cut]) + self.after


Mutation = Callable[[Draft, random.Random], None]


@dataclass(frozen=True)
class Case:
    """One request: which base, and which mutations with which seeds."""

    base: str
    mutations: tuple[tuple[str, int], ...] = ()

    def draft(self, mutations: dict[str, Mutation]) -> Draft:
        draft = bases()[self.base]
        draft = replace(
            draft,
            headers=list(draft.headers),
            json=json.loads(json.dumps(draft.json)),
            parts=None if draft.parts is None else [Part(list(part.headers), part.body) for part in draft.parts],
        )
        for name, seed in self.mutations:
            mutations[name](draft, random.Random(seed))
        return draft

    def smaller(self) -> list[Case]:
        """The same case with one mutation less, each."""
        return [
            replace(self, mutations=self.mutations[:i] + self.mutations[i + 1 :]) for i in range(len(self.mutations))
        ]


@cache
def bases() -> dict[str, Draft]:
    """What the mutations begin with. Small, so that they are drawn at once by the embedded model too."""
    picture, mask = png(scene(32, 32)), png(right_half(32, 32))
    data_url = "data:image/png;base64," + base64.b64encode(picture).decode()
    mask_url = "data:image/png;base64," + base64.b64encode(mask).decode()
    small = {"prompt": "a red apple", "size": "256x256", "num_inference_steps": 1}
    every = {
        **small,
        "model": "dall-e-3",
        "n": 2,
        "seed": 7,
        "quality": "hd",
        "style": "natural",
        "response_format": "b64_json",
        "output_format": "webp",
        "output_compression": 80,
        "background": "opaque",
        "guidance_scale": 5.5,
        "negative_prompt": "rain",
        "scheduler": "euler",
        "user": "somebody",
    }
    source = {**small, "image": data_url, "strength": 0.5, "response_format": "b64_json"}
    edit = {**small, "images": [{"image_url": data_url}], "mask": {"image_url": mask_url}}
    hub = {"input": {**small, "modelOptions": {"model": "dall-e-3", "seed": 7}, "responseFormat": "b64_json"}}
    events = {**small, "stream": True, "partial_images": 2, "stream_progress": True}
    rows = {
        "generation": _json("/v1/images/generations", small),
        "every field": _json("/v1/images/generations", every),
        "stream": _json("/api/images/generations", events),
        "image to image": _json("/api/images/generations", source),
        "json edit": _json("/v1/images/edits", edit),
        "hub": _json("/api/v2/image", hub),
        "hub flat": _json("/api/v2/image/generations", {**small, "responseFormat": "b64_json"}),
        "form edit": _form("/v1/images/edits", small, image=picture, mask=mask),
        "form edit of two": _form("/api/images/edits", {**small, "stream": "true"}, **{"image[]": picture}),
        "variation": _form("/v1/images/variations", {"size": "256x256", "num_inference_steps": "1"}, image=picture),
        **_sdapi(base64.b64encode(picture).decode(), mask_url),
        "cancel": Draft("DELETE", "/v1/images/jobs/no-such-job"),
    }
    for path in (
        "/v1/models",
        "/v1/models/dall-e-3",
        "/v1/images/jobs",
        "/v1/images/jobs/no-such-job",
        "/api/ai/models",
        "/api/v2/status?model=dall-e-3",
        "/api/user/info",
        "/v1/usage?days=2",
        "/sdapi/v1/progress?skip_current_image=false",
        "/sdapi/v1/options",
        "/sdapi/v1/sd-models",
        "/sdapi/v1/samplers",
        "/sdapi/v1/interrogate",
        "/internal/ping",
        "/files/no-such-file.png?expires=1&signature=x",
        "/metrics",
        "/livez",
        "/readyz",
        "/__blocklet__.js",
        "/",
        "/docs",
        "/openapi.json",
        "/page/app/api.js",
        "/nothing/here",
    ):
        rows[path] = Draft("GET", path)
    return rows


def _sdapi(picture: str, mask: str) -> dict[str, Draft]:
    """A1111's API, with most of the fields that its programs send."""
    small = {"prompt": "(a red apple:1.2) <lora:x:0.5>", "steps": 1, "width": 64, "height": 64}
    every = {
        **small,
        "negative_prompt": "[rain]",
        "seed": "7",
        "sampler_name": "DPM++ 2M Karras",
        "scheduler": "Karras",
        "cfg_scale": 5.5,
        "batch_size": 2,
        "n_iter": 1,
        "styles": [],
        "override_settings": {"sd_model_checkpoint": "dall-e-3", "CLIP_stop_at_last_layers": 2},
        "alwayson_scripts": {"ADetailer": {"args": [False]}},
        "script_args": None,
    }
    second = {**small, "enable_hr": True, "hr_scale": 1.5, "hr_prompt": "a pear", "denoising_strength": 0.5}
    edit = {**small, "init_images": [picture], "denoising_strength": 0.5, "resize_mode": 1}
    painted = {**edit, "mask": mask, "mask_blur": 2, "inpainting_fill": 1, "inpaint_full_res_padding": 4}
    extras = {"upscaler_1": "Lanczos", "upscaling_resize": 2, "resize_mode": 0}
    bodies = {
        "txt2img": every,
        "txt2img in two passes": second,
        "img2img": edit,
        "img2img under a mask": painted,
        "options": {"sd_model_checkpoint": "dall-e-2", "samples_format": "png"},
        "extra-single-image": {**extras, "image": picture},
        "extra-batch-images": {**extras, "imageList": [{"data": picture, "name": "a"}]},
        "png-info": {"image": picture},
        "interrupt": {},
    }
    return {name: _json(f"/sdapi/v1/{name.partition(' ')[0]}", tree) for name, tree in bodies.items()}


def _json(path: str, tree: Any) -> Draft:
    return Draft("POST", path, [("Content-Type", b"application/json")], tree)


def _form(path: str, fields: dict[str, Any], **files: bytes) -> Draft:
    parts = [
        Part([f'Content-Disposition: form-data; name="{name}"'.encode()], str(value).encode())
        for name, value in fields.items()
    ]
    parts += [
        Part(
            [f'Content-Disposition: form-data; name="{name}"; filename="a.png"'.encode(), b"Content-Type: image/png"],
            data,
        )
        for name, data in files.items()
    ]
    return Draft("POST", path, [("Content-Type", f"multipart/form-data; boundary={BOUNDARY}".encode())], parts=parts)
