"""Bodies of hub clients: where each field may stand, and how pictures are spelt."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.hub_wire import read_enveloped, read_flat
from server.errors import BadRequest


def enveloped(**fields: Any) -> dict[str, Any]:
    return {"input": {"prompt": "x", **fields}, "agent": "$CHAT_MODEL", "options": {"streaming": False}}


def test_our_own_fields_are_read_wherever_they_stand() -> None:
    read = read_enveloped(
        enveloped(
            size="64x64",
            negative_prompt="rain",
            modelOptions={"model": "openai/gpt-image-1", "seed": 7, "numInferenceSteps": 3, "guidance_scale": 2.5},
        )
    ).fields
    assert (read.model, read.size, read.seed) == ("openai/gpt-image-1", "64x64", 7)
    assert (read.num_inference_steps, read.guidance_scale, read.negative_prompt) == (3, 2.5, "rain")


def test_the_input_wins_over_options_and_one_place_must_not_say_two_things() -> None:
    """Of ``outputFormat`` and ``output_format`` the latter won without a word."""
    read = read_enveloped(enveloped(n=2, outputFormat="jpeg", output_format="JPG", modelOptions={"numImages": 3}))
    assert (read.fields.n, read.fields.output_format) == (2, "jpeg")
    assert read_enveloped(enveloped(n=None, modelOptions={"n": 3})).fields.n == 3
    with pytest.raises(BadRequest) as caught:
        read_enveloped(enveloped(outputFormat="webp", output_format="jpeg"))
    assert caught.value.param == "output_format"


@pytest.mark.parametrize(
    ("file_type", "form"), [("url", "url"), ("file", "b64_json"), ("local", "b64_json"), (None, "url")]
)
def test_the_file_type_decides_the_form_of_the_answer(file_type: str | None, form: str) -> None:
    assert read_enveloped(enveloped(outputFileType=file_type)).fields.response_format == form


def test_pictures_in_every_spelling() -> None:
    given = [
        {"type": "url", "url": "https://example.org/a.png"},
        {"type": "file", "data": "aGk=", "mimeType": "image/png"},
        {"type": "file", "data": "data:image/png;base64,aGk="},
        "aGk=",
    ]
    expected = ["https://example.org/a.png", "data:;base64,aGk=", "data:image/png;base64,aGk=", "aGk="]
    assert read_enveloped(enveloped(image=given)).fields.images == expected
    assert read_flat({"prompt": "x", "image": given[0], "mask": given[1]}).fields.mask == "data:;base64,aGk="


def test_data_is_never_taken_for_a_url() -> None:
    (text,) = read_flat({"prompt": "x", "image": {"type": "file", "data": "http://169.254.169.254/"}}).fields.images
    assert text.startswith("data:")


def test_the_flat_body_takes_camel_case_and_answers_without_a_stream() -> None:
    read = read_flat({"prompt": "x", "responseFormat": "b64_json", "outputCompression": 50, "stream": True}).fields
    assert (read.response_format, read.output_compression, read.stream) == ("b64_json", 50, False)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "input", "required"),
        ({"input": "x"}, "input", "object"),
        ({"input": {}}, "prompt", "required"),
        (enveloped(modelOptions=[]), "modelOptions", "object"),
        (enveloped(outputFileType="tape"), "outputFileType", "url, file or local"),
        (enveloped(outputFileType=[]), "outputFileType", "url, file or local"),
        (enveloped(image=[{"type": "local", "path": "/etc/passwd"}]), "image", "cannot read"),
        (enveloped(image=[{"type": "file"}]), "image", '"type": "url"'),
        (enveloped(image=[{"type": {}}]), "image", '"type": "url"'),
        (enveloped(image=7), "image", '"type": "url"'),
        (enveloped(n=11), "n", "1 to 10"),
        ({**enveloped(), "options": {"streaming": True}}, "options", "streaming"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_enveloped(body)
    assert caught.value.param == param
    assert says in caught.value.message
    assert "passwd" not in caught.value.message


def test_fields_beside_the_input_are_not_lost() -> None:
    """They were dropped without a word: the default model drew in place of the one beside ``input``."""
    reading = read_enveloped({"model": "openai/gpt-image-1", "mood": "dark", **enveloped(n=2)})
    assert reading.fields.model == "openai/gpt-image-1"
    assert reading.ignored == ("mood",)
    assert read_enveloped({"n": 3, **enveloped(n=2)}).fields.n == 2
