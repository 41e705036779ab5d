"""``darkroom edit``: a picture drawn anew from a prompt, or the part of it under a mask.

Knows the flags that ``generate`` has not, and how a file on this machine becomes a request field.
"""

from __future__ import annotations

import base64
from argparse import Namespace
from pathlib import Path
from typing import Any

from server.commands.generate import add_drawing_flags, number, read_fields
from server.commands.saving import FORMATS, Destination
from server.errors import ConfigError


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("edit", help="draw a picture anew from a prompt, or the part under a mask")
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("pictures", metavar="PICTURE", nargs="+", help="file or URL; several where the model can")
    add("prompt", metavar="PROMPT", help="what to draw")
    add("--mask", metavar="FILE", help="what to repaint: transparent, or white without transparency; file or URL")
    add("--strength", type=number, metavar="0..1", help="how much is drawn anew")
    add("--fidelity", choices=("low", "high"), help="in place of --strength: how near to stay")
    add_drawing_flags(parser)


def run(arguments: Namespace) -> int:
    from server.commands.drawing import PictureRequest
    from server.commands.pictures import make_pictures

    destination = Destination(arguments.out)
    fields = read_fields(arguments, destination)
    pictures = [read_picture(text) for text in arguments.pictures]
    fields["image"] = pictures if len(pictures) > 1 else pictures[0]
    if arguments.mask is not None:
        fields["mask"] = read_picture(arguments.mask)
    fields.setdefault("size", "auto")  # what is edited keeps its size unless told otherwise
    make_pictures(PictureRequest("edits", fields), destination, arguments)
    return 0


def read_picture(text: str) -> str:
    """A file as a data: URL; a URL as it is, for the server to fetch. Raises ConfigError."""
    if text.startswith(("http://", "https://", "data:")):
        return text
    path = Path(text).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{text}: cannot be read: {error.strerror}") from None
    kind = FORMATS.get(path.suffix.lower(), "png")  # the server looks at the bytes, not at this
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
