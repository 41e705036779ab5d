"""The pictures of one request: drawn by the server, saved as they come, shown in the terminal.

Knows the order of things; each thing is done by a module beside this one.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
from argparse import Namespace
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from server.agents.api_client import Standing
from server.commands import terminal
from server.commands.connection import connected
from server.commands.drawing import Drawn, PictureRequest, draw
from server.commands.failure import CommandFailed
from server.commands.saving import Destination


def make_pictures(request: PictureRequest, destination: Destination, arguments: Namespace) -> None:
    """Draw, save, show. Raises ConfigError for wrong usage, CommandFailed where the server gives no pictures."""
    destination.check(request.n)
    drawn = asyncio.run(_draw_and_save(request, destination, arguments))
    way = terminal.choose_way(arguments.show, os.environ, tty=sys.stdout.isatty())
    if way != "off" and drawn:
        pictures = [Image.open(io.BytesIO(picture.data)) for picture in drawn]
        sys.stdout.write(terminal.render(pictures, way, shutil.get_terminal_size().columns))
        sys.stdout.flush()


async def _draw_and_save(request: PictureRequest, destination: Destination, arguments: Namespace) -> list[Drawn]:
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
                if isinstance(item, Standing):
                    total = item.of if item.of > 0 else None
                    progress.update(bar, description=in_words(item), completed=item.done, total=total)
                    continue
                drawn.append(item)
                path = destination.keep(item.data, prompt=request.prompt, seed=item.seed, format_=item.format)
                print(path, flush=True)
    if len(drawn) < request.n:
        raise CommandFailed(f"the answer ended after {len(drawn)} of {request.n} pictures")
    return drawn


def in_words(status: Standing) -> str:
    """A few words for the progress bar."""
    if status.state == "queued":
        eta = "" if status.eta_s is None else f", about {status.eta_s:.0f} s"
        return f"waiting, {status.place} in line{eta}" if status.place else "waiting"
    return f"drawing, step {status.done} of {status.of}" if status.of else "drawing"
