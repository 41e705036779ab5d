"""One value in the spellings of other programs: what can be read in one way is read, anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.aliases import ALIASES, PARTS, field_of
from server.api.reader import MAX_IGNORED, read, read_variation
from server.api.wire import ImageFields
from server.errors import BadRequest

OPTIONAL = sorted(set(ImageFields.model_fields) - {"prompt"})


def fields(**sent: Any) -> ImageFields:
    return read({"prompt": "x", **sent}).fields


def refused(**sent: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        fields(**sent)
    return caught.value


@pytest.mark.parametrize("empty", [None, "", "  ", "\n"])
@pytest.mark.parametrize("name", [*OPTIONAL, "images", *PARTS])
def test_empty_is_as_good_as_left_out(name: str, empty: Any) -> None:
    """``"size": ""`` was 400, as was any other field that a program leaves empty."""
    if name == "negative_prompt" and empty not in (None, ""):
        assert fields(negative_prompt=empty).negative_prompt == empty  # a way to have none of the model's own
        return
    assert fields(**{name: empty}) == fields()


@pytest.mark.parametrize(
    "nothing", [[], {}, [None], [""], {"image_url": None}, [{"image_url": ""}], [{"url": ""}, None]]
)
@pytest.mark.parametrize("name", ["image", "images", "mask", "image_url"])
def test_a_picture_that_nobody_chose_is_left_out(name: str, nothing: Any) -> None:
    """``"images": []`` beside ``image`` was "not both"."""
    assert fields(**{name: nothing}) == fields()
    if name == "images":
        assert fields(image="aGk=", images=nothing).images == ["aGk="]


@pytest.mark.parametrize("prompt", [None, ""])
def test_an_empty_prompt_is_refused(prompt: str | None) -> None:
    assert refused(prompt=prompt).param == "prompt"


def test_one_prompt_may_stand_beside_an_empty_one_of_another_name() -> None:
    assert fields(positive_prompt="").prompt == "x"
    assert read({"positivePrompt": "y"}).fields.prompt == "y"


@pytest.mark.parametrize("two", [2, 2.0, "2", "2.0", "2.", " 2 ", "+2", "２"])
@pytest.mark.parametrize(
    "name", ["n", "num_inference_steps", "output_compression", "partial_images", "seed", "batchSize"]
)
def test_integers_of_every_language(name: str, two: Any) -> None:
    read_of = fields(**{name: two})
    value = getattr(read_of, "n" if name == "batchSize" else name)
    assert (value, type(value)) == (2, int)


@pytest.mark.parametrize(
    "odd", [True, False, 1.5, "1.5", "two", float("nan"), float("inf"), 1e300, "1e400", "9" * 5000, "0x2", "1_0", "2,0",
            "²", "٢", "½", [2], {"n": 2}, "--2", "2 2", "1e1"])  # fmt: skip
@pytest.mark.parametrize("name", ["n", "seed", "steps", "width"])
def test_what_is_no_integer_is_refused_by_the_name_it_came_under(name: str, odd: Any) -> None:
    refusal = refused(**{name: odd}, height=64) if name == "width" else refused(**{name: odd})
    assert refusal.param == name
    assert refusal.message.startswith(name)


@pytest.mark.parametrize("value", [2.5, "2.5", "2.50", " 2.5", "+2.5", "25e-1", "０２.５"])
@pytest.mark.parametrize("name", ["guidance_scale", "cfg_scale", "cfgScale", "CFGScale", "guidance"])
def test_numbers_of_every_language(name: str, value: Any) -> None:
    assert fields(**{name: value}).guidance_scale == 2.5


@pytest.mark.parametrize("odd", [True, "nan", "inf", "1e400", "1e999", "2,5", "1_0", "9" * 5000, float("nan"), [], "x"])
def test_what_is_no_number_is_refused(odd: Any) -> None:
    assert refused(cfg_scale=odd).param == "cfg_scale"


@pytest.mark.parametrize("yes", [True, "true", "True", "TRUE", "1", "on", "yes", " true "])
def test_true_of_every_language(yes: Any) -> None:
    """Python's SDK writes a form's ``stream=True``, which was 400."""
    assert fields(stream=yes).stream is True


@pytest.mark.parametrize("no", [False, "false", "False", "0", "off", "no"])
def test_false_of_every_language(no: Any) -> None:
    assert fields(stream=no).stream is False


@pytest.mark.parametrize("odd", [1, 0, 2, 1.0, "2", "maybe", [], "truee"])
def test_what_is_neither_is_refused(odd: Any) -> None:
    assert refused(stream=odd).param == "stream"


@pytest.mark.parametrize("random", [-1, -1.0, "-1", "-1.0"])
@pytest.mark.parametrize("name", ["seed", "randomSeed", "noise_seed"])
def test_the_seed_minus_one_is_a_random_one(name: str, random: Any) -> None:
    assert fields(**{name: random}).seed is None
    assert refused(**{name: -2}).param == name


@pytest.mark.parametrize(
    "size", ["640x480", "640X480", "640*480", "640 x 480", "640×480", "640 × 480", " 640x480 ", "６４０×４８０",
             "640ｘ480", "640px x 480px", [640, 480], ["640", 480.0], {"width": 640, "height": 480}])  # fmt: skip
@pytest.mark.parametrize("name", ["size", "image_size", "imageSize"])
def test_a_size_in_every_spelling(name: str, size: Any) -> None:
    assert fields(**{name: size}).size == "640x480"


@pytest.mark.parametrize("name", ["AUTO", "Auto", " auto "])
def test_auto_in_any_case(name: str) -> None:
    assert fields(size=name).size == "auto"


def test_width_and_height_are_a_size() -> None:
    """They were ignored without a word."""
    assert fields(width=640, height="480").size == "640x480"
    assert fields(width=640, height=480, size="640*480").size == "640x480"
    for sent, param in (({"width": 640}, "width"), ({"height": 640}, "height"), ({"width": 0, "height": 9}, "width"),
                        ({"width": 64, "height": 64, "size": "64x32"}, "width"),
                        ({"width": 10**9, "height": 9}, "width")):  # fmt: skip
        assert refused(**sent).param == param


@pytest.mark.parametrize("ratio", ["16:9", "16 : 9", "16/9", "16x9", "16：9"])
def test_an_aspect_ratio_in_every_spelling(ratio: str) -> None:
    assert fields(aspectRatio=ratio).aspect_ratio == "16:9"
    assert fields(aspectRatio=ratio, size="auto").aspect_ratio == "16:9"
    assert fields(aspectRatio=ratio, size="1792x1024").size == "1792x1024"
    assert refused(aspectRatio=ratio, size="1024x1024").param == "aspectRatio"


@pytest.mark.parametrize(
    "odd", ["wide", "16", "0:9", "16:0", ":", "1:2:3", "-1:2", 1.5, [16, 9], "x" * 30, "nan:1", "inf:1",
            "1e-300:1e-300", "1e300:1e300", "1e-7:1", "1:1e7"],
)  # fmt: skip
def test_what_is_no_aspect_ratio_is_refused(odd: Any) -> None:
    """The very small were 500, divided by their product; beside a size, all of them were dropped without a word."""
    assert refused(aspect_ratio=odd).param == "aspect_ratio"
    assert refused(aspect_ratio=odd, size="1024x1024").param == "aspect_ratio"


def test_refusals_are_sentences() -> None:
    """Of a validator's "must look like" there came "must be look like"."""
    assert refused(aspect_ratio="wide").message == "aspect_ratio must look like 16:9."
    assert refused(prompt="a\0b").message == "prompt must not contain NUL characters."


@pytest.mark.parametrize("odd", ["9" * 400 + "x1", [10**400, 10**400], {"width": 10**400, "height": 1}])
def test_a_size_beyond_numbers_beside_an_aspect_ratio_is_refused(odd: Any) -> None:
    """It was 500."""
    assert refused(aspect_ratio="16:9", size=odd).param == "size"


def test_the_sources_own_shape_is_auto() -> None:
    assert fields(aspect_ratio="match_input_image").size == "auto"
    assert fields(aspect_ratio="match_input_image", size="64x64").size == "64x64"


@pytest.mark.parametrize(
    ("sent", "field", "value"),
    [
        ({"quality": "HD"}, "quality", "hd"),
        ({"style": " Natural"}, "style", "natural"),
        ({"response_format": "B64_JSON"}, "response_format", "b64_json"),
        ({"response_format": "base64"}, "response_format", "b64_json"),
        ({"responseFormat": "URL"}, "response_format", "url"),
        ({"output_format": "jpg"}, "output_format", "jpeg"),
        ({"outputFormat": "image/WEBP"}, "output_format", "webp"),
        ({"background": "Opaque"}, "background", "opaque"),
        ({"scheduler": "EULER"}, "scheduler", "euler"),
        ({"sampler_name": "Euler a"}, "scheduler", "euler_a"),
        ({"sampler": "K_EULER_ANCESTRAL"}, "scheduler", "euler_a"),
        ({"sample_method": "dpm++2m"}, "scheduler", "dpmpp_2m"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "automatic"}, "scheduler", "dpmpp_2m"),
        ({"scheduler": "UniPCMultistepScheduler"}, "scheduler", "unipc"),
        ({"sampler": "flow unipc"}, "scheduler", "flow_unipc"),
        ({"sampler": "Flow DPMPP 2M"}, "scheduler", "flow_dpmpp_2m"),
        ({"spacing": "Dense-Start"}, "spacing", "dense_start"),
        ({"step_cache": True}, "step_cache", 0.5),
        ({"step_cache": "false"}, "step_cache", 0.0),
        ({"step_cache": "0.25"}, "step_cache", 0.25),
        ({"step_cache": 1}, "step_cache", 1.0),
        ({"batch_size": 2, "n_iter": 3}, "n", 6),
        ({"batch_size": "2", "batchCount": 2, "n": 4}, "n", 4),
        ({"negativePrompt": "rain"}, "negative_prompt", "rain"),
        ({"negative-prompt": "rain"}, "negative_prompt", "rain"),
        ({"denoising_strength": 0.5}, "strength", 0.5),
        ({"numInferenceSteps": 3}, "num_inference_steps", 3),
        ({"steps": 2, "num_inference_steps": "2"}, "num_inference_steps", 2),
    ],
)
def test_other_programs_words(sent: dict[str, Any], field: str, value: Any) -> None:
    """28 steps were drawn for ``"steps": 2``, and nothing was said."""
    reading = read({"prompt": "x", **sent})
    assert getattr(reading.fields, field) == value
    assert reading.ignored == ()


@pytest.mark.parametrize("alias", [(ours, name) for ours, names in ALIASES.items() for name in names])
def test_every_alias_is_its_field_in_snake_and_camel_case(alias: tuple[str, str]) -> None:
    ours, name = alias
    first, *rest = name.split("_")
    camel = first + "".join(word.capitalize() for word in rest)
    assert field_of(name) == field_of(camel) == field_of(name.replace("_", "-")) == ours
    values: dict[str, Any] = {"n": (1, 2), "seed": (1, 2), "num_inference_steps": (1, 2), "output_compression": (1, 2),
        "guidance_scale": (1, 2), "strength": (0.5, 0.6), "size": ("64x64", "64x32"), "aspect_ratio": ("1:1", "2:1"),
        "output_format": ("png", "webp"), "scheduler": ("euler", "ddim"), "loras": (["a"], ["b"]),
        "controls": ([{"name": "a", "image": "x"}], [{"name": "b", "image": "x"}])}  # fmt: skip
    one, other = values.get(ours, ("one", "other"))
    given = {} if ours == "prompt" else {"prompt": "x"}
    expected = read({**given, ours: one}).fields
    assert read({**given, camel: one}).fields == read({**given, name: one, ours: one}).fields == expected
    with pytest.raises(BadRequest) as caught:
        read({**given, ours: one, name: other})
    assert caught.value.param == name
    assert "differ" in caught.value.message
    assert "other" not in caught.value.message


def test_errors_name_the_field_as_it_was_spelled() -> None:
    for sent, param, says in (
        ({"steps": 0}, "steps", "steps must be greater"),
        ({"numInferenceSteps": 501}, "numInferenceSteps", "numInferenceSteps must be"),
        ({"num_images": 11}, "num_images", "num_images must be an integer from 1 to 10."),
        ({"batch_size": 4, "n_iter": 4}, "batch_size", "n must be"),
        ({"negativePrompt": "a\x00b"}, "negativePrompt", "negativePrompt must not"),
        ({"responseFormat": "tape"}, "responseFormat", "responseFormat must be url or b64_json."),
    ):
        refusal = refused(**sent)
        assert refusal.param == param
        assert refusal.message.startswith(says)


def test_what_means_nothing_here_is_told() -> None:
    reading = read({"prompt": "x", "clip_skip": 2, "user": "u", "moderation": "low", "hires": False, "refiner": None,
                    "styles": [], "vae": ""})  # fmt: skip
    assert reading.ignored == ("clip_skip", "hires")


def test_what_is_told_is_bounded_and_fits_into_a_header() -> None:
    sent = {
        "x" * 65: 1,
        "a b": 1,
        "a,b": 1,
        "é": 1,
        "a\r\nx: y": 1,
        "": 1,
        "x" * 64: 1,
        "a[b]": 1,
        "_!#$%&'*+-.^`|~9": 1,
    }
    assert read({"prompt": "x", **sent}).ignored == ("x" * 64, "_!#$%&'*+-.^`|~9")
    many = {f"field_{number}": 1 for number in range(1000)}
    assert read({"prompt": "x", **many}).ignored == tuple(many)[:MAX_IGNORED]


def test_a_noise_schedule_that_is_not_offered_is_told() -> None:
    for sent, told in (
        ({"sampler_name": "Euler", "scheduler": "Karras"}, "scheduler"),
        ({"sampler_name": "Euler Karras"}, "sampler_name"),
        ({"scheduler": "sgm_uniform", "sampler": "euler"}, "scheduler"),
    ):
        reading = read({"prompt": "x", **sent})
        assert (reading.fields.scheduler, reading.ignored) == ("euler", (told,))


def test_a_lora_with_other_names_for_its_weight() -> None:
    """``scale`` was dropped, and the adapter drawn with at its own weight."""
    for sent in (
        [{"name": "a", "scale": "0.5"}],
        '[{"name": "a", "multiplier": 0.5}]',
        {"a": "0.5"},
        {"name": "a", "strength": 0.5},
    ):
        (lora,) = fields(lora=sent).loras
        assert (lora.name, lora.weight) == ("a", 0.5)
    assert refused(loras=[{"name": "a", "weight": 1, "scale": 2}]).param == "loras"
    assert read({"prompt": "x", "loras": [{"name": "a", "block": 1}]}).ignored == ("loras.block",)


URL, DATA, BARE = "http://example.org/a.png", "data:image/png;base64,aGk=", "aGk="


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (URL, URL),
        ({"url": URL}, URL),
        ({"image_url": URL}, URL),
        ({"image_url": {"url": DATA, "detail": "high"}}, DATA),
        ({"type": "image_url", "image_url": {"url": URL}}, URL),
        ({"type": "input_image", "image_url": DATA, "file_id": None}, DATA),
        ({"imageUrl": URL}, URL),
        ({"b64_json": BARE}, f"data:;base64,{BARE}"),
        ({"b64_json": DATA}, DATA),
        ({"base64": "http://169.254.169.254/"}, "data:;base64,http://169.254.169.254/"),
        ({"type": "url", "url": URL}, URL),
        ({"type": "file", "data": BARE, "mimeType": "image/png"}, f"data:;base64,{BARE}"),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BARE}},
            f"data:;base64,{BARE}",
        ),
        ({"inlineData": {"mimeType": "image/png", "data": BARE}}, f"data:;base64,{BARE}"),
    ],
)
def test_a_picture_as_other_apis_name_it(sent: Any, text: str) -> None:
    for name in ("image", "image_url", "init_image"):
        assert fields(**{name: sent}).images == [text]
        assert fields(**{name: [sent, sent]}).images == [text, text]
    assert fields(images=[sent]).images == [text]
    assert fields(image=URL, mask=sent).mask == text
    assert fields(image=URL, maskImage=sent).mask == text


@pytest.mark.parametrize(
    "odd", [5, True, [5], {"href": URL}, {"image_url": 5}, {"url": URL, "b64_json": BARE}, {"file_id": "f"},
            {"type": "local", "path": "/x"}, {"image_url": {"url": {"url": {"url": {"url": {"url": URL}}}}}},
            ["a"] * 257])  # fmt: skip
@pytest.mark.parametrize("name", ["image", "imageUrl", "mask"])
def test_a_picture_whose_meaning_is_not_plain_is_refused(name: str, odd: Any) -> None:
    refusal = refused(**{name: odd})
    assert refusal.param == name
    assert "example" not in refusal.message


@pytest.mark.parametrize("name", ["mask", "masks", "image"])
def test_lists_in_lists_are_no_accident(name: str) -> None:
    """One level deeper than is looked for what is empty: an IndexError, and 500."""
    for depth in range(1, 12):
        odd: Any = []
        for _ in range(depth):
            odd = [odd]
        try:
            found = fields(**{name: odd})
            assert (found.images, found.mask) == ([], None)
        except BadRequest as error:
            assert error.param == name  # noqa: PT017


def test_pictures_under_two_names() -> None:
    assert fields(image=URL, image_url=URL).images == [URL]
    assert refused(image=URL, image_url=DATA).param == "image_url"
    assert refused(**{"images[0][image_url]": URL}).param == "images"


def test_a_variations_prompt_is_told() -> None:
    reading = read_variation({"prompt": "a cat", "steps": "3", "sharpness": "2"})
    assert (reading.fields.prompt, reading.fields.num_inference_steps) == ("", 3)
    assert reading.ignored == ("prompt", "sharpness")
    assert read_variation({"prompt": ""}).ignored == ()


def test_a_shape_in_the_place_of_a_size_is_an_aspect_ratio() -> None:
    """``"size": "16:9"`` was refused with the sizes of the model."""
    for size in ("16:9", "16 : 9", "１６：９"):
        read_as = fields(size=size)
        assert (read_as.size, read_as.aspect_ratio) == (None, "16:9")
    assert fields(size="1:1", aspect_ratio="1:1").aspect_ratio == "1:1"
    assert refused(size="1:1", aspect_ratio="16:9").param == "aspect_ratio"
    assert fields(size="1024:1024").aspect_ratio is None
    assert refused(size="0:1").param == "size"


def test_blanks_around_a_model_are_none_of_its_name() -> None:
    assert fields(model=" dall-e-2\n").model == "dall-e-2"


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"prompt": 5}, "prompt must be a string."),
        ({"size": {"w": 1}}, "size must be WIDTHxHEIGHT or auto."),
        ({"stream": 0}, "stream must be a boolean, true or false."),
        ({"output_compression": "80%"}, "output_compression must be an integer."),
        ({"cfg": "7,5"}, "cfg must be a number."),
    ],
)
def test_a_value_of_another_type_is_told_which_it_must_be(sent: dict[str, Any], says: str) -> None:
    assert refused(**sent).message == says
