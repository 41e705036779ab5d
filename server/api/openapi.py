"""The OpenAPI document, beside the routes themselves: keys, tags, the shapes of answers and errors.

Knows descriptions only; decides nothing. ``server.edge.auth`` asks for keys, ``server.errors`` owns the table of
errors, ``server.api.prefixes`` which prefix of a route is shown, ``server.api.results`` writes the answers; docs/api.md
says the same in prose.
"""

from __future__ import annotations

from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from server.api.prefixes import PREFIXES, SHOWN
from server.api.wire import ImageFields
from server.errors import ANSWERS, DarkroomError

_OTHERS = ", ".join(prefix for prefix in PREFIXES if prefix != SHOWN)
DESCRIPTION = (
    "A self-hosted image-generation server.\n\n"
    f"What is shown under {SHOWN} is under {_OTHERS} too: POST {SHOWN}/images/generations is POST"
    f" {_OTHERS}/images/generations."
)

TAGS = [
    {"name": "images", "description": "Make pictures and edit them."},
    {"name": "hub", "description": "The same for clients of AIGNE Hub."},
    {"name": "jobs", "description": "See how far requests are, and stop them."},
    {"name": "models", "description": "What this server can draw with."},
    {"name": "files", "description": "Fetch finished pictures."},
    {"name": "operations", "description": "For whoever runs the server."},
]

# auto_error=False: this only names the scheme, so that the /docs page sends a key; the edge is what refuses.
KEY = Security(HTTPBearer(scheme_name="key", auto_error=False, description="A key of `darkroom keys create NAME`."))


class PictureAnswer(BaseModel):
    url: str | None = Field(None, description="with response_format url: signed, expiring, needs no key")
    b64_json: str | None = Field(None, description="with response_format b64_json, and in streams: the file, as base64")
    seed: int = Field(description="draws this picture again")


class InputTokens(BaseModel):
    text_tokens: int = Field(description="of prompt and negative prompt, by the model's own tokenizer")
    image_tokens: int = Field(description="of the source pictures: one for each 16 × 16 pixels")


class OutputTokens(BaseModel):
    image_tokens: int = Field(description="of the pictures made: one for each 16 × 16 pixels")
    text_tokens: int = Field(description="0")


class Usage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokens
    output_tokens_details: OutputTokens


class ImagesAnswer(BaseModel):
    created: int = Field(description="when the request began, unix seconds")
    data: list[PictureAnswer] = Field(description="n pictures, in the order of their seeds")
    model: str = Field(description="the ID in models.yaml that drew them")
    size: str = Field(description="WIDTHxHEIGHT of every picture, pixels")
    quality: str = Field(description="as asked")
    background: str = Field(description="transparent where that was asked for, else opaque")
    output_format: str = Field(description="png, jpeg or webp")
    usage: Usage


class JobProgress(BaseModel):
    done: int = Field(description="denoising steps done")
    of: int = Field(description="denoising steps in all; 0 while it is not known")


class ErrorFields(BaseModel):
    message: str = Field(description="what is wrong and what helps, for people")
    type: str = Field(description="the kind of error, as OpenAI clients name them")
    param: str | None = Field(description="the request field at fault, if one is")
    code: str = Field(description="the error by name, for programs")


class ErrorAnswer(BaseModel):
    error: ErrorFields


class JobWebhook(BaseModel):
    state: str = Field(description="waiting (for the job's end), due, delivered or failed (given up)")
    attempts: int
    next: int | None = Field(description="when the next attempt is due, unix seconds")
    last_status: int | None = Field(description="what the endpoint answered last; null: nothing, in time")


class JobAnswer(BaseModel):
    id: str
    object: str = Field(description="image.job")
    status: str = Field(description="queued, running, done, failed or cancelled")
    created: int = Field(description="when its request began, unix seconds")
    model: str = Field(description="the ID in models.yaml")
    n: int = Field(description="pictures that were asked for")
    place: int | None = Field(description="1: the next to have its turn; 0: it runs; null: it has ended")
    eta_s: float | None = Field(description="seconds until its end, as jobs have lately gone; null: it has ended")
    progress: JobProgress
    error: ErrorFields | None = Field(description="why it failed")
    result_state: str | None = Field(
        None, description="of Prefer: respond-async alone, as what follows: pending, ready, gone or none"
    )
    result_expires: int | None = Field(None, description="until when the result is there, unix seconds")
    webhook: JobWebhook | None = Field(None, description="null: none was asked for")
    result: dict[str, Any] | None = Field(None, description="the answer of the job's own route; only of a single job")
    key: str | None = Field(None, description="with `all`: the name of whose key it is")


class JobsAnswer(BaseModel):
    object: str = Field(description="list")
    data: list[JobAnswer]


IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesAnswer,
        "description": "The pictures; with `stream`, events.",
        # Without a type: some readers hold the schema against the text as a whole, others against each event.
        "content": {"text/event-stream": {"schema": {"description": "server-sent events; docs/api.md has them all"}}},
    }
}
DEFERRED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": JobAnswer,
        "description": "With `Prefer: respond-async`: the job, whose `result` is at `Location` later.",
    }
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "`respond-async`: answer 202 at once",
}


def errors(*kinds: type[DarkroomError]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these errors, by status, with the codes of each."""
    codes: dict[int, list[str]] = {}
    for kind in kinds:
        codes.setdefault(ANSWERS[kind].status, []).append(ANSWERS[kind].code)
    shown: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": ", ".join(names)} for status, names in codes.items()
    }
    # Also keeps FastAPI from announcing its own 422, which the edge answers as 400.
    return {**shown, "default": {"model": ErrorAnswer, "description": "every failure has this shape"}}


# How OpenAI's JSON edits refer to a picture.
_REFERENCE = {
    "type": "object",
    "properties": {"image_url": {"type": "string", "description": "http(s) URL or data: URL"}},
    "required": ["image_url"],
}


def json_body() -> dict[str, Any]:
    """The body of an image request as JSON, with the two spellings that only JSON has."""
    schema = ImageFields.model_json_schema()
    fields = schema["properties"]
    fields["images"] = {"type": "array", "items": _REFERENCE, "description": "instead of image, as OpenAI's JSON edits"}
    fields["mask"]["anyOf"].insert(1, _REFERENCE)
    return {"schema": schema, "example": {"prompt": "a red apple on a blue background", "response_format": "url"}}


def variation_body() -> dict[str, Any]:
    """The body of a variation: what OpenAI's clients send. The other fields of an edit work as well."""
    fields = ImageFields.model_json_schema()["properties"]
    shown = {name: fields[name] for name in ("model", "n", "size", "response_format", "seed", "strength")}
    image = {"type": "string", "format": "binary", "description": "the picture to vary"}
    return {"schema": {"type": "object", "required": ["image"], "properties": {"image": image, **shown}}}


def form_body() -> dict[str, Any]:
    """The body of an edit as multipart/form-data: the same fields, with files where JSON has texts."""
    schema = ImageFields.model_json_schema()
    file = {"type": "string", "format": "binary"}
    fields = schema["properties"]
    fields["image"] = {**file, "description": "the picture to edit"}
    fields["image[]"] = {"type": "array", "items": file, "description": "several pictures, where the model takes them"}
    fields["mask"] = {**file, "description": fields["mask"]["description"]}
    return {"schema": schema}


def hub_body(*, enveloped: bool) -> dict[str, Any]:
    """The body of an image request as hub clients send it: the same fields, in snake_case or camelCase."""
    schema = ImageFields.model_json_schema()
    if not enveloped:
        return {"schema": schema, "example": {"prompt": "a red apple", "responseFormat": "url"}}
    return {
        "schema": {"type": "object", "properties": {"input": schema}, "required": ["input"]},
        "example": {"input": {"prompt": "a red apple", "modelOptions": {"model": "dall-e-3", "seed": 7}}},
    }
