"""The flags of ``darkroom generate``, ``edit`` and ``models``; docs/cli.md shows their help.

Knows flags and which request field each stands for; checks no value that the server checks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    "format": "output_format",
    "compression": "output_compression",
    "loras": "loras",
    "strength": "strength",
    "fidelity": "input_fidelity",
}


def add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="draw pictures from a prompt")
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    _add_fields(parser)
    _add_output(parser)
    _add_server(parser)


def add_edit(commands: Any) -> None:
    parser = commands.add_parser("edit", help="draw a picture anew from a prompt, or the part under a mask")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="file or URL; several where the model can")
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    add = parser.add_argument
    add("--mask", metavar="FILE", help="what to repaint: transparent, or white without transparency; file or URL")
    add("--strength", type=float, metavar="0..1", help="how much is drawn anew")
    add("--fidelity", choices=("low", "high"), help="in place of --strength: how near to stay")
    _add_fields(parser)
    _add_output(parser)
    _add_server(parser)


def add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the models, or fetch one on a connected machine")
    parser.add_argument("--models", type=Path, help="models.yaml to read, whether or not a server runs")
    _add_address(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    pull = actions.add_parser("pull", help="fetch a model's folder from the hub (the one command that may)")
    pull.add_argument("id", metavar="ID")


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
    add("--guidance", type=float, metavar="SCALE", help="how closely to follow the prompt")
    add("--negative", metavar="TEXT", help="what to keep out")
    add("--scheduler", metavar="NAME", help="sampling method")
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


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = _add_address(parser)
    group.add_argument("--local", action="store_true", help="draw here, without a server; reads the same settings")


def _add_address(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_argument_group("who draws")
    group.add_argument("--server", metavar="URL", help="default: DARKROOM_URL, else this machine's")
    group.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key; default: DARKROOM_API_KEY")
    return group


def _lora(text: str) -> dict[str, Any]:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return {"name": text}
    try:
        return {"name": name, "weight": float(weight)}
    except ValueError:
        raise argparse.ArgumentTypeError("must be NAME or NAME=WEIGHT, with a number as the weight") from None
