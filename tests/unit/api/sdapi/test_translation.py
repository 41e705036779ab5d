"""A1111's fields as ours: what a model is asked for, what is told to be ignored, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.facts.families import FamilyTable
from pipelines.spec import Pixels
from server.api import specs
from server.api.sdapi import infotext
from server.api.sdapi.fields import A1111Fields, read_fields
from server.api.sdapi.translation import A1111Submission, OpenModels, at_least_one, translate
from server.catalog.catalog import Model
from server.catalog.entries import PresetEntry
from server.errors import BadRequest
from tests.pictures import png, scene, text
from tests.unit.catalog.models_files import WITH_LORAS, catalog

SOURCE = text(png(scene(8, 8)))
MASK = {"init_images": [SOURCE], "mask": SOURCE}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("models")
    model = catalog(folder, WITH_LORAS).resolve("dall-e-2")
    return of_family(model, "stable-diffusion")


def of_family(model: Model, name: str) -> Model:
    return OpenModels().of(replace(model, family=FamilyTable().by_name[name]))


def asked(model: Model, **sent: Any) -> A1111Submission:
    return translate(read_fields(sent), model, edit=False)


def edited(model: Model, **sent: Any) -> A1111Submission:
    return translate(read_fields(sent), model, edit=True)


def test_what_is_left_out_is_the_models_own(mini: Model) -> None:
    fields = asked(mini).fields
    assert (fields.num_inference_steps, fields.guidance_scale, fields.size, fields.n) == (8, None, "512x512", 1)
    assert (fields.prompt, fields.negative_prompt, fields.scheduler, fields.seed) == ("", None, None, None)
    spec = specs.make_spec(fields, mini, (512, 512), specs.Sources())
    assert (spec.steps, spec.guidance) == (8, 2.5)  # not 50 and 7, which spoil distilled models
    assert spec.prompt == ""


def test_sizes_past_those_of_the_model_and_without_its_styles(mini: Model) -> None:
    """dall-e-2 is asked for 256x256 and 1024x1024 alone elsewhere; the weights draw any."""
    submission = asked(mini, prompt="a cat", width=512, height=768)
    specs.check(submission.fields, mini, images=0, mask=False)
    spec = specs.make_spec(submission.fields, mini, (512, 768), specs.Sources())
    assert (spec.width, spec.height, spec.prompt) == (512, 768, "a cat")


def test_sides_that_are_left_out_are_no_longer_than_the_model_draws(mini: Model) -> None:
    small = replace(mini, entry=mini.entry.model_copy(update={"max_side": 256}))
    assert asked(small).fields.size == "256x256"
    assert asked(small, height=64).fields.size == "256x64"
    assert asked(small).asked.fields.width == 256
    with pytest.raises(BadRequest):
        asked(small, width=512)


def test_an_open_model_is_made_once(mini: Model) -> None:
    models = OpenModels()
    assert models.of(mini) is models.of(mini)
    assert models.of(replace(mini, family=FamilyTable().by_name["flux"])) is not models.of(mini)


@pytest.mark.parametrize("sent", [{"width": 15}, {"height": 5000}, {"width": 0}])
def test_sizes_that_no_picture_has_are_named(mini: Model, sent: dict[str, int]) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(mini, **sent)
    assert [refused.value.param] == list(sent)
    assert "16 to 2048" in refused.value.message


@pytest.mark.parametrize(("steps", "drawn"), [(0, 1), (20, 20), (500, 150)])
def test_steps_are_brought_within_the_models(mini: Model, steps: int, drawn: int) -> None:
    assert asked(mini, steps=steps).fields.num_inference_steps == drawn


def test_steps_are_brought_within_the_solvers(mini: Model) -> None:
    """Open WebUI sends 50 and more with whatever sampler."""
    assert asked(mini, steps=80, sampler_name="LCM").fields.num_inference_steps == 50
    assert asked(of_family(mini, "lcm"), steps=80).fields.num_inference_steps == 50


@pytest.mark.parametrize(
    ("strength", "drawn"), [(0.0, 1), (0.01, 1), (0.05, 2), (0.3, 15), (0.35, 17), (1.0, 49), (None, 37)]
)
def test_steps_of_lcms_edits_are_brought_within_their_strength(mini: Model, strength: float | None, drawn: int) -> None:
    """LCM's own pipelines take 50 × strength at most. Steps 20 at 0.3 were refused, and a second pass failed as 500."""
    model, sent = of_family(mini, "lcm"), {"steps": 80, "denoising_strength": strength}
    fields = edited(model, init_images=[SOURCE], **sent).fields
    assert fields.num_inference_steps == drawn
    picture = Pixels(8, 8, "RGB", bytes(192))
    specs.make_spec(fields, model, (512, 512), specs.Sources((picture,)))
    hires = asked(model, enable_hr=True, **sent).asked.hires
    assert hires is not None
    assert hires.steps == (drawn if strength is not None else 35)  # 0.7 where none is sent
    most = specs.most_lcm_steps(None, hires.strength, model)
    assert most is not None
    assert hires.steps <= most


def test_steps_are_brought_within_a_solver_that_nobody_named(mini: Model) -> None:
    """A second pass whose own sampler is not here is drawn with the first's, a picture with the preset's."""
    second = {"hr_sampler_name": "none such", "hr_second_pass_steps": 80}
    hires = asked(mini, enable_hr=True, sampler_name="LCM", **second).asked.hires
    assert hires is not None
    assert hires.steps == 50
    quality = {"standard": PresetEntry(scheduler="lcm")}
    preset = replace(mini, entry=mini.entry.model_copy(update={"quality": quality}))
    assert asked(preset, steps=80).fields.num_inference_steps == 50


def test_seeds_follow_each_other_random_or_not(mini: Model) -> None:
    assert asked(mini, seed=7, batch_size=2, n_iter=2).asked.seeds == (7, 8, 9, 10)
    first, second = asked(mini, n_iter=2), asked(mini, n_iter=2)
    assert first.asked.seeds[1] == first.asked.seeds[0] + 1
    assert first.asked.seeds != second.asked.seeds
    assert first.fields.seed is None


@pytest.mark.parametrize(
    ("family", "sent", "scheduler", "sigmas", "ignored"),
    [
        ("stable-diffusion", {"sampler_name": "DPM++ 2M Karras"}, "dpmpp_2m", "karras", ()),
        ("stable-diffusion", {"sampler_name": "Euler", "scheduler": "SGM Uniform"}, "euler", "trailing", ()),
        ("stable-diffusion", {"sampler_name": "Euler", "scheduler": "KL Optimal"}, "euler", "default", ("scheduler",)),
        ("stable-diffusion", {"sampler_name": "Euler a", "scheduler": "Karras"}, "euler_a", "default", ("scheduler",)),
        ("stable-diffusion", {"sampler_name": "no such"}, None, "default", ("sampler_name",)),
        ("stable-diffusion", {"sampler_name": "None"}, None, "default", ()),
        ("stable-diffusion", {"sampler_index": "UniPC"}, "unipc", "default", ()),
        ("stable-diffusion", {"sampler_name": "LCM", "sampler_index": "Euler"}, "lcm", "default", ()),
        ("flux", {"sampler_name": "DPM++ 2M", "scheduler": "Simple"}, "flow_dpmpp_2m", "default", ()),
        ("flux", {"sampler_name": "Euler", "scheduler": "Beta"}, "flow_euler", "beta", ()),
        ("stable-diffusion-3", {"sampler_name": "Heun"}, "flow_heun", "default", ()),
        ("lcm", {"sampler_name": "Euler a"}, None, "default", ("sampler_name",)),
    ],
)
def test_samplers(
    mini: Model, family: str, sent: dict[str, str], scheduler: str | None, sigmas: str, ignored: tuple[str, ...]
) -> None:
    submission = asked(of_family(mini, family), **sent)
    assert submission.fields.scheduler == scheduler
    assert submission.asked.sampling.sigmas == sigmas
    assert submission.reading.ignored == ignored


def test_distilled_guidance_is_of_distilled_models_alone(mini: Model) -> None:
    sent = {"distilled_cfg_scale": 3.5, "cfg_scale": 1}
    assert asked(of_family(mini, "flux"), **sent).fields.guidance_scale == 3.5
    assert asked(mini, **sent).fields.guidance_scale == 1


def test_prompts_keep_weights_where_the_model_reads_them(mini: Model) -> None:
    assert asked(mini, prompt="(a cat:1.3)").fields.prompt == "(a cat:1.3)"
    assert asked(of_family(mini, "flux"), prompt="(a cat:1.3)").fields.prompt == "a cat"


def test_lora_tags(mini: Model) -> None:
    submission = asked(mini, prompt="a cat <lora:Pixel:0.8> <lora:nobody:1>")
    assert [(lora.name, lora.weight) for lora in submission.fields.loras] == [("pixel", 0.8)]
    assert submission.fields.prompt == "a cat"
    assert submission.reading.ignored == ("lora.nobody",)


def test_an_edit(mini: Model) -> None:
    submission = edited(mini, init_images=[SOURCE], denoising_strength=0.5, steps=20)
    assert submission.fields.images == [SOURCE]
    assert submission.fields.strength == 0.5
    assert submission.fields.mask is None
    assert edited(mini, init_images=[SOURCE]).fields.strength == 0.75


@pytest.mark.parametrize("sent", [{}, {"init_images": []}, {"init_images": [""]}, {"init_images": None}])
def test_an_edit_without_its_picture(mini: Model, sent: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="Init image not found") as refused:
        edited(mini, **sent)
    assert refused.value.param == "init_images"


@pytest.mark.parametrize(("fill", "strength"), [(0, 0.5), (1, 0.5), (2, 1.0), (3, 1.0)])
def test_what_is_drawn_from_noise_is_drawn_whole(mini: Model, fill: int, strength: float) -> None:
    sent = {**MASK, "inpainting_fill": fill, "denoising_strength": 0.5, "steps": 1000}
    found = edited(mini, **sent).fields.strength
    assert found == pytest.approx(strength, abs=0.002)


@pytest.mark.parametrize("steps", [1, 3, 8, 50, 150])
@pytest.mark.parametrize("strength", [0.0, 0.001, 0.3, 1.0])
def test_one_step_at_least_is_drawn(steps: int, strength: float) -> None:
    found = at_least_one(strength, steps)
    assert max(1, int(min(strength, 0.999) * steps)) == int(found * steps)


def test_txt2img_takes_no_strength_but_for_its_second_pass(mini: Model) -> None:
    """SillyTavern and webuiapi send 0.7 with every picture."""
    submission = asked(mini, denoising_strength=0.7)
    assert (submission.fields.strength, submission.asked.hires, submission.reading.ignored) == (None, None, ())


def test_the_second_pass(mini: Model) -> None:
    sent = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.4, "width": 512, "height": 256, "steps": 20}
    hires = asked(mini, **sent).asked.hires
    assert hires is not None
    assert (hires.size, hires.strength, hires.steps, hires.prompt) == ((768, 384), 0.4, 20, None)
    more = {**sent, "hr_resize_x": 640, "hr_second_pass_steps": 5, "hr_prompt": "finer", "hr_upscaler": "Latent"}
    submission = asked(mini, **more)
    assert submission.asked.hires is not None
    assert (submission.asked.hires.size, submission.asked.hires.steps) == ((640, 320), 5)
    assert submission.asked.hires.prompt == "finer"
    assert submission.reading.ignored == ("hr_upscaler",)


def test_a_second_pass_larger_than_the_model_makes(mini: Model) -> None:
    with pytest.raises(BadRequest, match="2048") as refused:
        asked(mini, enable_hr=True, hr_scale=8)
    assert refused.value.param == "hr_scale"


def test_a_model_that_cannot_edit_has_no_second_pass(mini: Model) -> None:
    submission = asked(of_family(mini, "sana"), enable_hr=True)
    assert submission.asked.hires is None
    assert submission.reading.ignored == ("enable_hr",)


EVERYTHING_IDLE = {
    "styles": [], "subseed": 5, "subseed_strength": 0, "seed_resize_from_h": 0, "seed_resize_from_w": 0,
    "restore_faces": False, "tiling": False, "eta": 1.0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1,
    "clip_skip": 1, "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"}, "script_name": None,
    "script_args": [], "alwayson_scripts": {"controlnet": {"args": []}, "ADetailer": {"args": [False]}},
    "hr_additional_modules": [], "hr_checkpoint_name": "", "refiner_checkpoint": "None", "hr_upscaler": "Latent",
    "firstphase_width": 0, "save_images": True, "do_not_save_grid": True, "infotext": "", "image_cfg_scale": 1.5,
}  # fmt: skip


def test_fields_that_change_nothing_are_not_told(mini: Model) -> None:
    assert asked(mini, **EVERYTHING_IDLE).reading.ignored == ()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"styles": ["anime"]}, "styles"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"seed_resize_from_h": 512, "seed_resize_from_w": 512}, "seed_resize_from_h"),
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"eta": 0.5, "sampler_name": "DDIM"}, "eta"),
        ({"s_churn": 2}, "s_churn"),
        ({"s_noise": 0.5}, "s_noise"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "override_settings.CLIP_stop_at_last_layers"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 10**400}}, "override_settings.CLIP_stop_at_last_layers"),
        ({"override_settings": {"sd_vae": "x.safetensors"}}, "override_settings.sd_vae"),
        ({"refiner_checkpoint": "x"}, "refiner_checkpoint"),
        ({"alwayson_scripts": {"ADetailer": {"args": [{"ad_model": "face"}]}}}, "alwayson_scripts.ADetailer"),
        ({"infotext": "Steps: 5"}, "infotext"),
    ],
)
def test_fields_that_would_have_changed_something_are_told(mini: Model, sent: dict[str, Any], told: str) -> None:
    assert asked(mini, **sent).reading.ignored == (told,)


@pytest.mark.parametrize(
    "sent",
    [
        {"script_name": "x/y/z plot"},
        {"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True, "image": SOURCE}]}}},
        {"alwayson_scripts": {"controlnet": {"args": [{"input_image": SOURCE}]}}},
    ],
)
def test_what_would_make_another_picture_is_refused(mini: Model, sent: dict[str, Any]) -> None:
    (name,) = sent
    with pytest.raises(BadRequest) as refused:
        asked(mini, **sent)
    assert refused.value.param == name
    assert "x/y/z" not in refused.value.message


def test_a_unit_of_controlnet_that_is_off_is_none(mini: Model) -> None:
    unit = {"enabled": False, "image": SOURCE}
    assert asked(mini, alwayson_scripts={"ControlNet": {"args": [unit]}}).reading.ignored == ()


@pytest.mark.parametrize(
    ("sent", "named"), [({"cfg_scale": 99}, "cfg_scale"), ({"seed": 2**70}, "seed"), ({"cfg_scale": -1}, "cfg_scale")]
)
def test_refusals_name_the_clients_own_field(mini: Model, sent: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(mini, **sent)
    assert refused.value.param == named
    assert refused.value.message.startswith(named)


def test_what_decides_the_pictures_beside_our_fields_tells_requests_apart(mini: Model) -> None:
    said = {edited(mini, **MASK, **more).own for more in ({}, {"mask_blur": 9}, {"resize_mode": 1})}
    assert len(said) == 3
    assert SOURCE not in "".join(said)
    assert edited(mini, **MASK).own == edited(mini, **MASK).own


def test_what_nobody_sent_is_not_told_to_mean_nothing(mini: Model) -> None:
    model = of_family(mini, "flux-kontext")
    for sent, told in (({}, ()), ({"denoising_strength": 0.5}, ("strength",))):
        submission = edited(model, init_images=[SOURCE], **sent)
        unused = specs.unused(submission.fields, model, edit=True)
        assert tuple(field for field in unused if field in submission.reading.names) == told


@pytest.mark.parametrize("family", ["stable-diffusion", "flux"])
def test_marks_that_no_model_reads_are_settled_for_all(mini: Model, family: str) -> None:
    said = asked(of_family(mini, family), prompt="a [cat:dog:0.3] AND a bird", negative_prompt="[a:b:0.9]").fields
    assert said.prompt == "a dog, a bird"
    assert said.negative_prompt == "a"


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"hr_prompt": "x" * 4001}, "hr_prompt"),
        ({"hr_negative_prompt": "x" * 4001}, "hr_negative_prompt"),
        ({"hr_prompt": "(x:11)"}, "hr_prompt"),
        ({"hr_negative_prompt": "(x:11)"}, "hr_negative_prompt"),
    ],
)
def test_prompts_of_the_second_pass_are_bounded_as_the_others(mini: Model, sent: dict[str, str], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(mini, enable_hr=True, **sent)
    assert refused.value.param == param


_PIECES = st.sampled_from(
    [*"()[]:<>\\| \n", "AND", "BREAK", "<lora:é\n:1>", "<lora:pixel:2>", ":1.3)", "[a:b:3]", "(x:99)"]
)
_KEYS = st.sampled_from(["args", "path", "multiplier", "CLIP_stop_at_last_layers", "sd_vae"])
_NUMBERS = st.sampled_from([2, 2**64, 10**400, -(10**400), "x"])  # some are beyond a double
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    _NUMBERS,
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["1e400", "nan", "-0", "9" * 5000, "true", "None", "Karras", "DPM++ 2M Karras", "0x10", "١"]),
    st.recursive(st.none() | _NUMBERS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_KEYS, inner)),
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(sorted(A1111Fields.model_fields)), _ODD, max_size=6),
    st.lists(_PIECES, max_size=20).map("".join),
    st.booleans(),
)
def test_no_body_is_an_accident(mini: Model, sent: dict[str, Any], prompt: str, edit: bool) -> None:
    """What cannot be read is refused in words; what is read can be echoed, and told in a header."""
    body = {"init_images": [SOURCE], "prompt": prompt, **sent}
    refusal, submission = "", None
    try:
        submission = translate(read_fields(body), mini, edit=edit)
    except BadRequest as error:
        refusal = error.message
    if submission is None:
        assert refusal.isprintable()
        assert len(refusal) < 1000
        return
    json.dumps(submission.asked.fields.echo(edit=edit), allow_nan=False)
    assert submission.own
    assert ", ".join(submission.reading.ignored).encode("ascii").isascii()
    assert all(name.isprintable() for name in submission.reading.ignored)
    infotext.info(submission, submission.asked.seeds, 0)
