"""The outcome of a generation: everything that its answer says, whatever the answer's shape. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """One picture of an answer."""

    seed: int
    data: bytes | None  # where it is wanted inline
    url: str | None  # where that is wanted
    background: str  # as it came out: no flat ground, nothing to cut

    def fields(self) -> dict[str, Any]:
        """As answers in OpenAI's shape and events show it."""
        shown: dict[str, Any] = {"seed": self.seed}
        if self.data is not None:
            shown["b64_json"] = self.data
        if self.url is not None:
            shown["url"] = self.url
        return shown


@dataclass(frozen=True)
class Outcome:
    """The pictures of one request, and what is said of all of them."""

    created: int  # unix seconds
    model: str
    owner: str  # owned_by of the model that drew, which may have left models.yaml since
    size: str
    quality: str
    background: str
    output_format: str
    items: tuple[Item, ...]
    usage: dict[str, Any]
    usage_of_one: dict[str, Any]  # of each picture, where each has an event of its own
    upscaler: str | None = None  # by name: what enlarged the pictures; None: Lanczos, or nothing

    @property
    def size_bytes(self) -> int:
        return sum(len(item.data or b"") for item in self.items)

    @property
    def answer_bytes(self) -> int:
        """About what an answer with the pictures has, each once and in base64."""
        return self.size_bytes * 4 // 3 + 1024 * len(self.items)


def background(transparent: bool) -> str:
    """What answers call a picture's background."""
    return "transparent" if transparent else "opaque"
