"""``darkroom generate`` and ``darkroom edit``: from flags to pictures on disk and in the terminal.

Knows the order of things; each thing is done by a module beside this one.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from server.commands import terminal
from server.commands.connection import CommandFailed, connected
from server.commands.drawing import Drawn, PictureRequest, Stage, draw
from server.commands.parsers import FIELDS
from server.commands.saving import FORMATS, Destination
from server.errors import ConfigError


def make(arguments: Namespace) -> int:
    """Draw, save, show. Returns the exit code; raises ConfigError for wrong usage."""
    destination = Destination(arguments.out)
    request = read_request(arguments, destination)
    destination.check(request.n)
    try:
        drawn = asyncio.run(_make(arguments, request, destination))
    except CommandFailed as failure:
        print(f"darkroom: {failure}", file=sys.stderr)
        return 1
    way = terminal.choose_way(arguments.show, os.environ, tty=sys.stdout.isatty())
    if way != "off" and drawn:
        pictures = [Image.open(io.BytesIO(picture.data)) for picture in drawn]
        sys.stdout.write(terminal.render(pictures, way, shutil.get_terminal_size().columns))
        sys.stdout.flush()
    return 0


def read_request(arguments: Namespace, destination: Destination) -> PictureRequest:
    """The request that the flags stand for: what was not typed is not sent. Raises ConfigError."""
    given = ((field, getattr(arguments, flag, None)) for flag, field in FIELDS.items())
    fields: dict[str, Any] = {"prompt": arguments.prompt, **{name: value for name, value in given if value is not None}}
    for name in ("prompt", "negative_prompt"):
        if not _is_text(fields.get(name, "")):
            raise ConfigError(f"{name}: its bytes are not text in this terminal's encoding")
    if destination.format is not None:
        asked = fields.setdefault("output_format", destination.format)
        if asked != destination.format:
            raise ConfigError(f"--out {destination.path}: its ending says {destination.format}, --format says {asked}")
    if arguments.command == "generate":
        return PictureRequest("generations", fields)
    pictures = [read_picture(text) for text in arguments.pictures]
    fields["image"] = pictures if len(pictures) > 1 else pictures[0]
    if arguments.mask is not None:
        fields["mask"] = read_picture(arguments.mask)
    fields.setdefault("size", "auto")  # what is edited keeps its size unless told otherwise
    return PictureRequest("edits", fields)


def _is_text(typed: str) -> bool:
    """Bytes that the locale cannot read come as lone surrogates, which no request can carry."""
    return not any("\ud800" <= character <= "\udfff" for character in typed)


def read_picture(text: str) -> str:
    """A file, as a data: URL; a URL as it is, for the server to fetch. Raises ConfigError."""
    if text.startswith(("http://", "https://", "data:")):
        return text
    path = Path(text).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{text}: cannot be read: {error.strerror}") from None
    kind = FORMATS.get(path.suffix.lower(), "png")  # the server looks at the bytes, not at this
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


async def _make(arguments: Namespace, request: PictureRequest, destination: Destination) -> list[Drawn]:
    drawn = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    options: dict[str, Any] = {
        "disable": not console.is_terminal,
        "transient": True,
        "redirect_stdout": sys.stdout.isatty(),  # names go above the bar; where somebody reads them, to the reader
    }
    with Progress(*columns, console=console, **options) as progress:
        waiting = "starting the worker" if arguments.local else "asking the server"
        bar = progress.add_task(waiting, total=None)
        async with connected(arguments) as client:
            async for item in draw(client, request):
                if isinstance(item, Stage):
                    known = item.of > 0
                    progress.update(bar, description=tell(item), completed=item.done, total=item.of if known else None)
                    continue
                drawn.append(item)
                path = destination.keep(item.data, prompt=request.prompt, seed=item.seed, format_=item.format)
                print(path, flush=True)
    if len(drawn) < request.n:
        raise CommandFailed(f"the answer ended after {len(drawn)} of {request.n} pictures")
    return drawn


def tell(stage: Stage) -> str:
    """A stage in a few words."""
    if stage.state == "queued":
        eta = "" if stage.eta_s is None else f", about {stage.eta_s:.0f} s"
        return f"waiting, {stage.place} in line{eta}" if stage.place else "waiting"
    return f"drawing, step {stage.done} of {stage.of}" if stage.of else "drawing"
