"""The ControlNets of a model: folders beside its own, each of one network that steers its denoiser by a picture.

Knows files and configurations; loads nothing, imports no torch. A ControlNet is judged as a component of a model is
(folder.py), and must fit the UNet that it steers: it reads the same prompts, and what it gives is added to the UNet's
own layers, so that widths and numbers of layers must be equal. All of that is in the two configurations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pipelines.errors import LoadRefused
from pipelines.facts import folder as model_folder
from pipelines.facts import seal
from pipelines.facts.component import Component
from pipelines.facts.folder import Part
from pipelines.plan import ControlFile, ModelPlan

KEY = "controlnets"  # of models.yaml
CLASS: Final = "ControlNetModel"
# Whose pipelines with a ControlNet take the same UNet as those without, for text, pictures and masks alike.
FAMILIES: Final = frozenset({"stable-diffusion", "stable-diffusion-xl"})
Preprocessor = Literal["none", "canny"]
PREPROCESSORS: Final[tuple[Preprocessor, ...]] = get_args(Preprocessor)  # what may be made of a picture beforehand

_CONFIG = "config.json"
# What must be equal, and what a class takes it for where a configuration does not say.
_EQUAL: Final[dict[str, Any]] = {
    "cross_attention_dim": 1280,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "in_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
}
_MADE_FOR = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_CONDITIONING = [16, 32, 96, 256]  # channels of the layers that bring the picture to the latents' size


def part(control: ControlFile) -> Part:
    """The files of a ControlNet that loading reads. Raises LoadRefused."""
    return _part(Path(control.path), f"{KEY}.{control.name}")


def names(folder: Path) -> tuple[str, ...]:
    """The files of a ControlNet's folder that loading reads, by their names in it. Raises LoadRefused."""
    return tuple(_part(folder, folder.name).files)


def inspect(plan: ModelPlan, *, with_seal: bool = True) -> int:
    """Check the ControlNets of a plan and return the bytes of their weights. With ``with_seal``, one that has a seal
    must be as it was sealed. Raises LoadRefused, saying which is wrong."""
    size = 0
    for control in plan.controls:
        found = part(control)
        size += model_folder.inspect_part(found, found.folder)
        class_name = _json(found.folder / _CONFIG).get("_class_name")
        if class_name != CLASS:
            raise LoadRefused(f"{found.where}{_CONFIG} is of a {str(class_name)[:60]}; {KEY} takes {CLASS} only")
        problem = misfit(plan, control)
        if problem is not None:
            raise LoadRefused(f"{KEY}.{control.name}: {problem}")
        if with_seal:
            try:
                seal.compare(found.folder, tuple(found.files))
            except LoadRefused as refusal:
                raise LoadRefused(f"{KEY}.{control.name}: {refusal}") from None
    return size


def misfit(plan: ModelPlan, control: ControlFile) -> str | None:
    """Why a ControlNet cannot steer a plan's model, told from their configurations; None if it can, or if either cannot
    be read, which is another problem."""
    try:
        own, unet = (_json(folder / _CONFIG) for folder in (Path(control.path), Path(plan.folder) / "unet"))
    except LoadRefused:
        return None
    for key, default in _EQUAL.items():
        has, needs = _plain(key, own.get(key, default)), _plain(key, unet.get(key, default))
        if has != needs:
            return f"it is for another model{_made_for(key, has)}: its {key} is {has}, and that of this UNet is {needs}"
    layers = own.get("conditioning_embedding_out_channels") or _CONDITIONING
    shrinks = 2 ** (len(layers) - 1)
    cell = _cell(Path(plan.folder))
    if cell is not None and shrinks != cell:
        return f"it reads one latent from {shrinks} pixels a side, and the VAE of this model makes one of {cell}"
    if own.get("conditioning_channels", 3) != 3:
        return f"it reads {own['conditioning_channels']} channels, and pictures come in 3"
    return None


def _part(folder: Path, name: str) -> Part:
    if folder.is_file():
        raise LoadRefused(
            f"{name}: {folder.name} is a file; a ControlNet is a folder in diffusers' layout, with {_CONFIG} and"
            " diffusion_pytorch_model.safetensors"
        )
    if not folder.is_dir():
        raise LoadRefused(f"{name}: the folder {folder.name} does not exist; put the ControlNet there")
    return model_folder.lone_part(folder, Component(name, "diffusers", CLASS))


def _made_for(key: str, value: Any) -> str:
    known = _MADE_FOR.get(value) if key == "cross_attention_dim" and isinstance(value, int) else None
    return "" if known is None else f", {known}"


def _plain(key: str, value: Any) -> Any:
    """A list with one number for each block says the same as the number, where all are equal."""
    is_each = isinstance(value, list) and key != "block_out_channels" and bool(value)
    return value[0] if is_each and all(each == value[0] for each in value) else value


def _cell(folder: Path) -> int | None:
    """Pixels a latent, along a side, as pipelines tell it of the VAE; None where its configuration does not."""
    try:
        vae = _json(folder / "vae" / _CONFIG)
    except LoadRefused:
        return None
    channels = vae.get("block_out_channels") or vae.get("decoder_block_out_channels")  # the second: AutoencoderTiny's
    return int(2 ** (len(channels) - 1)) if isinstance(channels, list) and channels else None


def _json(path: Path) -> dict[str, Any]:
    """Raises LoadRefused where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadRefused(f"{path.parent.name}/{path.name} cannot be read") from error
    if not isinstance(value, dict):
        raise LoadRefused(f"{path.parent.name}/{path.name} is not a JSON object")
    return value
