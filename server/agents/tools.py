"""The tools that agents are offered: their names, what they are for, and the JSON Schema of their arguments.

Data only: knows neither the protocol nor how a tool is done. Schemas keep to what every provider of models reads: one
type a property, no references. Bounds are those of the API where models do not decide them; the API checks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipelines.facts.presets import QUALITIES

MAX_PICTURES: Final = 10  # of one call
MAX_SOURCES: Final = 16  # of one edit; models take fewer
_MAX_TEXT: Final = 32_000  # characters
_MAX_SEED: Final = 2**53 - 1  # what a number in JavaScript can tell apart

INSTRUCTIONS: Final = (
    "Darkroom makes and edits pictures on the user's own machines. generate_image draws from a prompt; edit_image draws"
    " a given picture anew, or the part of it under a mask. Pictures come back as images, made smaller where they are"
    " large, and as URLs of the whole files, which expire after a while: give the user the URLs. Leave out whatever the"
    " user has not asked for: every model has good defaults. list_models tells which models and sizes there are."
)


@dataclass(frozen=True)
class Tool:
    """One tool. ``properties``: JSON Schema of each argument. ``of_files``: arguments for files of this machine."""

    name: str
    title: str
    description: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    of_files: Mapping[str, Any] = field(default_factory=dict)
    reads_only: bool = False
    destroys: bool = False

    def arguments(self, *, files: bool) -> Mapping[str, Any]:
        """The arguments that it takes, by name."""
        return {**self.properties, **(self.of_files if files else {})}

    def schema(self, *, files: bool) -> dict[str, Any]:
        """The JSON Schema of its arguments; ``files``: where files of this machine can be named."""
        required = [name for name in self.required if not (files and _twin(name) in self.of_files)]
        return {
            "type": "object",
            "properties": dict(self.arguments(files=files)),
            "required": required,
            "additionalProperties": False,
        }


def _twin(name: str) -> str:
    """The argument by which the same is named as a file: images → image_paths."""
    return f"{name.removesuffix('s')}_path{'s' if name.endswith('s') else ''}"


def _text(description: str, **rules: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **rules}


_PICTURE: Final[Mapping[str, Any]] = {
    "prompt": _text("What the picture is to show.", minLength=1, maxLength=_MAX_TEXT),
    "model": _text("An ID of list_models. Default: the server's own choice.", maxLength=200),
    "size": _text(
        "WIDTHxHEIGHT in pixels, such as 1024x1024, or auto. Which sizes there are is the model's: see list_models.",
        pattern="^(auto|[0-9]{1,5}x[0-9]{1,5})$",
    ),
    "n": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_PICTURES,
        "default": 1,
        "description": "How many pictures.",
    },
    "quality": _text("hd and high take longer and are finer; low is a quick draft.", enum=list(QUALITIES)),
    "background": _text(
        "transparent: the object alone, without a ground, where the model can.", enum=["auto", "opaque", "transparent"]
    ),
    "output_format": _text("The format of the files behind the URLs. Default: png.", enum=["png", "jpeg", "webp"]),
    "seed": {
        "type": "integer",
        "minimum": 0,
        "maximum": _MAX_SEED,
        "description": "The same seed and arguments make the same picture again. Default: random, and told.",
    },
    "steps": {
        "type": "integer",
        "minimum": 1,
        "maximum": 500,
        "description": "Denoising steps; more take longer. Default: the model's, by quality.",
    },
    "guidance": {
        "type": "number",
        "minimum": 0,
        "maximum": 50,
        "description": "How closely to follow the prompt. Default: the model's.",
    },
    "negative_prompt": _text("What to keep out of the picture.", maxLength=_MAX_TEXT),
}
_SOURCE: Final = "an http(s) URL, a URL that this server gave, a data: URL, or base64 of a PNG, JPEG or WebP file"

GENERATE: Final = Tool(
    "generate_image",
    "Make pictures",
    "Make one or more pictures from a text prompt.",
    _PICTURE,
    required=("prompt",),
)
EDIT: Final = Tool(
    "edit_image",
    "Edit a picture",
    "Draw a picture anew as the prompt says; with a mask, only the part under it. Keeps the picture's size unless size"
    " says otherwise.",
    {
        **_PICTURE,
        "images": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_SOURCES,
            "description": f"The picture to edit: {_SOURCE}. Several only where the model takes references.",
        },
        "mask": _text(f"What to repaint: transparent pixels, or white ones of a mask without transparency; {_SOURCE}."),
        "strength": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "How much is drawn anew: 0.3 keeps most of the picture, 1 nothing.",
        },
    },
    required=("prompt", "images"),
    of_files={
        "image_paths": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_SOURCES,
            "description": "In place of images: paths of PNG, JPEG or WebP files in the folders that the user opened to"
            " this tool.",
        },
        "mask_path": _text("In place of mask: the path of such a file."),
    },
)
MODELS: Final = Tool(
    "list_models",
    "List the models",
    "Which models this server draws with: their IDs, what they can do, sizes, LoRAs, and which is the default.",
    reads_only=True,
)
JOBS: Final = Tool(
    "list_jobs",
    "List jobs",
    "The jobs of this key: those that wait or are drawn, how far they are, and those of the last ten minutes.",
    reads_only=True,
)
CANCEL: Final = Tool(
    "cancel_job",
    "Cancel a job",
    "Stop a job of this key that waits or is drawn; the call that waits for it fails.",
    {"job_id": _text("The id of list_jobs.", minLength=1, maxLength=64, pattern="^[A-Za-z0-9_-]+$")},
    required=("job_id",),
    destroys=True,
)
TOOLS: Final = (GENERATE, EDIT, MODELS, JOBS, CANCEL)
