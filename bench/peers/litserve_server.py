"""LitServe round a plain diffusers pipeline, as its users write it: dynamic batching, or one request at a time.

    PYTHON -m pip install litserve diffusers transformers accelerate torch
    PYTHON bench/peers/litserve_server.py MODEL_FOLDER PORT MAX_BATCH

It is run by the Python that has LitServe, and imports nothing of Darkroom. MAX_BATCH 1 is a serial server. A batch is
drawn at once as far as its requests have the same steps, guidance and size: one call of a pipeline takes no others.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any

import litserve  # type: ignore[import-not-found,unused-ignore]
import torch
from diffusers import DiffusionPipeline

FOLDER, PORT, MAX_BATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
WAIT_S = 0.05  # for a batch to fill


class Pictures(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """POST /predict: a picture as base64."""

    def setup(self, device: str) -> None:
        self.pipeline = DiffusionPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def batch(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return requests

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: Any, **kwargs: Any) -> Any:
        requests = x if isinstance(x, list) else [x]
        pictures: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, request in enumerate(requests):
            alike = request["steps"], request["guidance"], request["width"], request["height"]
            groups.setdefault(alike, []).append(place)
        for (steps, guidance, width, height), places in groups.items():
            drawn = self.pipeline(
                [requests[place]["prompt"] for place in places],
                num_inference_steps=steps,
                guidance_scale=guidance,
                width=width,
                height=height,
                generator=[torch.Generator().manual_seed(requests[place]["seed"]) for place in places],
            ).images
            for place, picture in zip(places, drawn, strict=True):
                pictures[place] = picture
        return pictures if isinstance(x, list) else pictures[0]

    def encode_response(self, output: Any, **kwargs: Any) -> dict[str, str]:
        file = io.BytesIO()
        output.save(file, "PNG")
        return {"b64_json": base64.b64encode(file.getvalue()).decode()}


if __name__ == "__main__":
    batching = {"max_batch_size": MAX_BATCH, "batch_timeout": WAIT_S} if MAX_BATCH > 1 else {}
    server = litserve.LitServer(Pictures(**batching), accelerator="cpu", timeout=900)
    server.run(port=PORT, host="127.0.0.1", generate_client_file=False)
