"""``darkroom generate``: pictures from a prompt.

Knows flags and which request field each stands for, ``edit``'s too; checks no value that the server checks.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from server.commands.address import add_address
from server.commands.saving import Destination
from server.errors import ConfigError

WAYS = ("auto", "kitty", "iterm", "sixel", "blocks", "off")  # how server.commands.terminal shows pictures

# Flags that are request fields under the same or another name: flag → field.
FIELDS = {
    "n": "n",
    "model": "model",
    "size": "size",
    "quality": "quality",
    "style": "style",
    "background": "background",
    "seed": "seed",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative": "negative_prompt",
    "scheduler": "scheduler",
    "spacing": "spacing",
    "step_cache": "step_cache",
    "format": "output_format",
    "compression": "output_compression",
    "loras": "loras",
    "strength": "strength",
    "fidelity": "input_fidelity",
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("generate", help="draw pictures from a prompt")
    parser.set_defaults(run=run)
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    add_drawing_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    from server.commands.drawing import PictureRequest
    from server.commands.pictures import make_pictures

    destination = Destination(arguments.out)
    request = PictureRequest("generations", read_fields(arguments, destination))
    make_pictures(request, destination, arguments)
    return 0


def read_fields(arguments: argparse.Namespace, destination: Destination) -> dict[str, Any]:
    """The request fields that the flags stand for: what was not typed is not sent. Raises ConfigError."""
    given = ((field, getattr(arguments, flag, None)) for flag, field in FIELDS.items())
    fields: dict[str, Any] = {"prompt": arguments.prompt, **{name: value for name, value in given if value is not None}}
    for name in ("prompt", "negative_prompt"):
        if not _is_text(fields.get(name, "")):
            raise ConfigError(f"{name}: its bytes are not text in this terminal's encoding")
    if destination.format is not None:
        asked = fields.setdefault("output_format", destination.format)
        if asked != destination.format:
            raise ConfigError(f"--out {destination.path}: its ending says {destination.format}, --format says {asked}")
    return fields


def _is_text(typed: str) -> bool:
    """Bytes that the locale cannot read come as lone surrogates, which no request can carry."""
    return not any("\ud800" <= character <= "\udfff" for character in typed)


def add_drawing_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of both commands that draw: the picture's, where it goes, and which server draws it."""
    _add_fields(parser)
    _add_output(parser)
    server = add_address(parser)
    server.add_argument("--local", action="store_true", help="draw here, without a server; reads the same settings")


def _add_fields(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the picture", "what is left out, the server decides")
    add = group.add_argument
    add("-n", type=int, metavar="N", help="how many, 1 to 10")
    add("-m", "--model", metavar="ID", help="an ID of `darkroom models`")
    add("-s", "--size", metavar="WxH", help="WIDTHxHEIGHT, or auto")
    add("-q", "--quality", metavar="NAME", help="standard, hd, low, medium, high, xhigh, max or auto")
    add("--style", metavar="NAME", help="vivid or natural")
    add("--background", metavar="NAME", help="auto, opaque or transparent")
    add("--seed", type=int, help="of the first picture; those that follow count on")
    add("--steps", type=int, metavar="N", help="denoising steps")
    add("--guidance", type=number, metavar="SCALE", help="how closely to follow the prompt")
    add("--negative", metavar="TEXT", help="what to keep out")
    add("--scheduler", metavar="NAME", help="sampling method")
    add("--spacing", metavar="NAME", help="where the steps lie: default or dense_start")
    add(
        "--step-cache", type=number, metavar="0..1", help="how many steps to tell from others instead of computing them"
    )
    add("--lora", dest="loras", action="append", type=_lora, metavar="NAME[=WEIGHT]", help="an adapter; repeatable")
    add("--format", metavar="NAME", help="png, jpeg or webp")
    add("--compression", type=int, metavar="0..100", help="quality of jpeg and webp")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it goes")
    add = group.add_argument
    add("-o", "--out", type=Path, default=Path("out"), metavar="PATH",
        help="folder, or one picture's file; never overwritten (default: out)")  # fmt: skip
    show = group.add_mutually_exclusive_group()
    show.add_argument("--show", choices=WAYS, default="auto", help="how the terminal shows pictures (default: auto)")
    show.add_argument("--no-show", dest="show", action="store_const", const="off", help="only save them")


def number(text: str) -> float:
    """A number that JSON has, which knows neither nan nor infinity. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number")
    return value


def _lora(text: str) -> dict[str, Any]:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return {"name": text}
    try:
        return {"name": name, "weight": number(weight)}
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError("must be NAME or NAME=WEIGHT, with a number as the weight") from None
