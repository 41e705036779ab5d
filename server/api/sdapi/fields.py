"""Fields: what AUTOMATIC1111's clients send, read as laxly as its own pydantic reads it.

Knows names, types and bounds; knows neither models nor what a field means for a picture. Unknown names are dropped
here, with what they carry: some programs put a password beside the fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from server.errors import BadRequest

MAX_PICTURES: Final = 10
_MAX_TEXT = 100_000  # characters
_MAX_ITEMS = 1000  # of a list, each of which is looked at
_MOST_INT: Final = 2**63 - 1
_PICTURES: Final = frozenset({"init_images", "mask", "extra_images", "firstpass_image", "latent_mask"})
# Of any depth, deeper than what pydantic writes; and what of them means anything here stands in our own fields.
NESTED: Final = frozenset({"script_args", "alwayson_scripts", "override_settings", "hr_additional_modules", "lora"})
UNSAID: Final = _PICTURES | NESTED  # what is not written out
# Of img2img alone: not told of by txt2img's answers.
_EDITS: Final = frozenset({
    "init_images", "mask", "mask_blur", "mask_blur_x", "mask_blur_y", "mask_round", "inpainting_fill",
    "inpaint_full_res", "inpaint_full_res_padding", "inpainting_mask_invert", "resize_mode", "include_init_images",
    "initial_noise_multiplier", "image_cfg_scale", "latent_mask",
})  # fmt: skip
_HIRES: Final = frozenset({
    "enable_hr", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_prompt",
    "hr_negative_prompt", "hr_sampler_name", "hr_scheduler", "hr_checkpoint_name", "firstphase_width",
    "firstphase_height",
})  # fmt: skip


def _seed(value: Any) -> Any:
    """A seed that is none is a random one."""
    try:
        return max(-1, int(float(value)) if isinstance(value, str) and not value.isdigit() else int(value))
    except (TypeError, ValueError, OverflowError):
        return -1


def _first(value: Any) -> Any:
    """A list of texts stands for the first."""
    return next(iter(value), "") if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _whole(value: Any) -> Any:
    """ "1.0" is a text for an integer, too."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


Seed = Annotated[int, BeforeValidator(_seed)]
Text = Annotated[str, Field(max_length=_MAX_TEXT), BeforeValidator(_first)]
Name = Annotated[str, Field(max_length=300)]
Int = Annotated[int, BeforeValidator(_whole), Field(ge=-_MOST_INT, le=_MOST_INT)]
Pictures = Annotated[list[str], BeforeValidator(_listed)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class A1111Fields(BaseModel):
    """One body of txt2img or img2img. What was left out, or null, has A1111's default, or None where that is ours."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    prompt: Text = ""
    negative_prompt: Text = ""
    styles: list[str] = Field([], max_length=_MAX_ITEMS)
    seed: Seed = -1
    subseed: Seed = -1
    subseed_strength: Number = 0.0
    seed_resize_from_h: Int = -1
    seed_resize_from_w: Int = -1
    sampler_name: Name = ""
    sampler_index: Name = ""
    scheduler: Name = ""
    steps: Int | None = None  # the model's own
    cfg_scale: Number | None = None  # the model's own
    distilled_cfg_scale: Number | None = None
    width: Int = 512
    height: Int = 512
    batch_size: Int = Field(1, ge=1)
    n_iter: Int = Field(1, ge=1)
    restore_faces: bool = False
    tiling: bool = False
    eta: Number | None = None
    s_churn: Number = 0.0
    s_tmin: Number = 0.0
    s_tmax: Number = 0.0
    s_noise: Number = 1.0
    s_min_uncond: Number = 0.0
    clip_skip: Int = 1
    denoising_strength: Number | None = Field(None, ge=0, le=1)
    enable_hr: bool = False
    hr_scale: Number = Field(2.0, gt=0, le=16)
    hr_upscaler: Name = ""
    hr_second_pass_steps: Int = Field(0, ge=0)
    hr_resize_x: Int = Field(0, ge=0)
    hr_resize_y: Int = Field(0, ge=0)
    hr_prompt: Text = ""
    hr_negative_prompt: Text = ""
    hr_sampler_name: Name = ""
    hr_scheduler: Name = ""
    hr_checkpoint_name: Name = ""
    hr_additional_modules: list[Any] = []
    firstphase_width: Int = 0
    firstphase_height: Int = 0
    firstpass_image: str = ""
    refiner_checkpoint: Name = ""
    refiner_switch_at: Number | None = None
    override_settings: dict[str, Any] = {}
    override_settings_restore_afterwards: bool = True
    model: Name = ""
    script_name: Name = ""
    script_args: list[Any] = []
    alwayson_scripts: dict[str, Any] = Field({}, max_length=_MAX_ITEMS)
    infotext: Text = ""
    send_images: bool = True
    save_images: bool = False
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    lora: list[Any] = Field([], max_length=_MAX_ITEMS)
    extra_images: Pictures = []

    init_images: Pictures = []
    resize_mode: Int = Field(0, ge=0, le=3)
    mask: str = ""
    mask_blur: Int | None = Field(None, ge=0, le=1000)
    mask_blur_x: Int = Field(4, ge=0, le=1000)
    mask_blur_y: Int = Field(4, ge=0, le=1000)
    mask_round: bool = True
    inpainting_fill: Int = Field(0, ge=0, le=3)
    inpaint_full_res: bool = True
    inpaint_full_res_padding: Int = Field(0, ge=0, le=10_000)
    inpainting_mask_invert: Int = Field(0, ge=0, le=1)
    initial_noise_multiplier: Number | None = None
    image_cfg_scale: Number | None = None
    include_init_images: bool = False
    latent_mask: str = ""

    @property
    def n(self) -> int:
        """How many pictures."""
        return self.batch_size * self.n_iter

    @property
    def blur(self) -> tuple[int, int]:
        """Standard deviations of the mask's blur across and down, in pixels."""
        return (self.mask_blur_x, self.mask_blur_y) if self.mask_blur is None else (self.mask_blur, self.mask_blur)

    def echo(self, *, edit: bool) -> dict[str, Any]:
        """What an answer repeats: known fields, pictures only where that is asked for, nothing that is nested deeper
        than a client's own settings."""
        said = self.model_dump(exclude=set(UNSAID | (_HIRES if edit else _EDITS)))
        said |= {"script_args": [], "alwayson_scripts": {}}
        said["override_settings"] = {
            name: value
            for name, value in self.override_settings.items()
            if name in _OVERRIDES and isinstance(value, str | int | float)
        }
        if edit:
            shown = self.include_init_images
            said |= {"init_images": self.init_images if shown else None, "mask": self.mask or None if shown else None}
        return said


_OVERRIDES: Final = frozenset({"sd_model_checkpoint", "CLIP_stop_at_last_layers", "sd_vae", "samples_format"})
_TEXTS: Final = frozenset(name for name, field in A1111Fields.model_fields.items() if field.default == "")


def _demand(item: ErrorDetails) -> str:
    """What a value must be, behind "must be"."""
    if item["type"] == "string_too_long":
        return f"at most {item['ctx']['max_length']} characters"
    if item["type"] in ("too_long", "dict_too_long"):
        return f"a list or an object of at most {item['ctx']['max_length']}"
    if item["type"] == "int_parsing_size":
        return f"at most {_MOST_INT}"
    return item["msg"].removeprefix("Input should be ")


def read_fields(body: dict[str, Any]) -> A1111Fields:
    """The fields of a body. Raises BadRequest naming the first that is wrong, and what it must be."""
    said = {name: value for name, value in body.items() if name in A1111Fields.model_fields and value is not None}
    said = {name: value for name, value in said.items() if name in _TEXTS or value != ""}
    try:
        fields = A1111Fields.model_validate(said)
    except ValidationError as error:
        item = error.errors(include_input=False, include_url=False)[0]
        name = str(item["loc"][0]) if item["loc"] else "The body"
        raise BadRequest(f"{name} must be {_demand(item)}.", param=name) from None
    if fields.n > MAX_PICTURES:
        raise BadRequest(
            f"batch_size times n_iter must be at most {MAX_PICTURES}: so many pictures are drawn at once.",
            param="batch_size" if fields.batch_size > 1 else "n_iter",
        )
    if "\x00" in fields.prompt + fields.negative_prompt + fields.hr_prompt + fields.hr_negative_prompt:
        raise BadRequest("prompt must not contain NUL characters.", param="prompt")
    return fields
