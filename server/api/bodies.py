"""The bodies of answers with pictures, in the shape of each family of routes.

Knows shapes only. Pictures' bytes stand in them as they are: msgspec makes base64 of them as it writes.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from server.api.outcome import Outcome


def body_of(route: str, outcome: Outcome) -> dict[str, Any]:
    """The body of the answer of a submission's ``route``."""
    match route:
        case "hub":
            return enveloped(outcome)
        case "hub flat":
            return flat(outcome)
        case _:
            return plain(outcome)


def plain(outcome: Outcome) -> dict[str, Any]:
    """In OpenAI's shape."""
    return {
        "created": outcome.created,
        "data": [item.fields() for item in outcome.items],
        "model": outcome.model,
        "size": outcome.size,
        "quality": outcome.quality,
        "background": outcome.background,
        "output_format": outcome.output_format,
        "usage": outcome.usage,
    }


def enveloped(outcome: Outcome) -> dict[str, Any]:
    """Of POST /api/v2/image."""
    images: list[dict[str, Any]] = []
    for item in outcome.items:
        common = {"mimeType": f"image/{outcome.output_format}", "seed": item.seed}
        if item.url is not None:
            name = urlsplit(item.url).path.rpartition("/")[2]
            images.append({"type": "url", "url": item.url, "filename": name, **common})
        else:
            images.append({"type": "file", "data": item.data, **common})
    return _hub({"images": images, "modelWithProvider": f"{outcome.owner}/{outcome.model}"}, outcome)


def flat(outcome: Outcome) -> dict[str, Any]:
    """Of POST /api/v2/image/generations: pictures under every name that versions of its client read."""
    images: list[dict[str, Any]] = []
    for item in outcome.items:
        image: dict[str, Any] = {"seed": item.seed}
        if item.data is not None:
            image |= {"base64": item.data, "b64_json": item.data, "b64Json": item.data}
        if item.url is not None:
            image["url"] = item.url
        images.append(image)
    return _hub({"images": images, "data": images}, outcome)


def _hub(body: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    counted = outcome.usage
    # No creditPrefix: @aigne/aigne-hub throws at an empty one.
    usage = {"inputTokens": counted["input_tokens"], "outputTokens": counted["output_tokens"]}
    return body | {"created": outcome.created, "model": outcome.model, "usage": usage}
