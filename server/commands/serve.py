"""``darkroom serve``: the server, until a signal stops it.

Knows no flags: they are the settings. pydantic-settings reads them and writes their help.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from server.commands import early


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("serve", help="serve the API (every setting is a flag: serve --help)", add_help=False)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Serve with the settings in ``arguments.settings``, which are flags as they were typed. Raises ConfigError."""
    from server.settings import read_settings

    settings = read_settings(arguments.settings)
    with early.workers(settings) as begun:
        from server.serve import serve  # what it imports takes as long as a third of what the worker does

        serve(settings, begun)
    return 0
