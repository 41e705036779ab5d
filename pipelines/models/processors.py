"""Processors of pictures and text that do without torchvision.

Knows transformers' processors; knows no pipelines. transformers makes some of them with a video processor, which needs
torchvision, though pipelines for pictures never use it. Where torchvision is missing, they are made here without it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import transformers

from pipelines.facts.folder import Part
from pipelines.facts.requirements import PICTURES_ONLY


class PictureProcessor(transformers.Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2VLProcessor for pictures and text: transformers tells its parts from the parameters of __init__."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any) -> None:
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.video_token = getattr(tokenizer, "video_token", "<|video_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def without_torchvision(parts: Iterable[Part]) -> dict[str, Any]:
    """The components, by name, that only this module can make on this machine."""
    if importlib.util.find_spec("torchvision") is not None:
        return {}
    wanted = (part for part in parts if part.component.class_name in PICTURES_ONLY)
    return {
        part.component.name: PictureProcessor.from_pretrained(str(part.folder), local_files_only=True)
        for part in wanted
    }
