"""``darkroom mcp``: the tools for an agent that starts this command, over standard input and output.

Knows flags and how to find a server; what the tools do, ``server.agents`` knows. The protocol begins without a server:
only a call needs one, and says so where there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.commands.address import Address, add_address, read_address
from server.errors import ConfigError

if TYPE_CHECKING:
    from server.agents.calls import Answer, Tell

_ANSWER_TIMEOUT_S = 900.0  # without a byte; a server that streams says something every ten seconds
_ABSENT = (
    "Start one on this machine with `darkroom serve`, or name a running one where this tool is configured: DARKROOM_URL"
    " (--server URL)."
)
_UNKNOWN_KEY = (
    "Here the key comes from where this tool is configured: DARKROOM_API_KEY, or --key-file FILE."
    " `darkroom keys create NAME` makes one."
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("mcp", help="serve an agent that starts this command (MCP over stdio)")
    parser.set_defaults(run=run)
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="open a folder: its pictures may be edited by their paths; repeatable (default: none)",
    )
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    from server.setting_values import MCP_EXTRA, has_mcp

    if not has_mcp():
        raise ConfigError(f"darkroom mcp needs a package that is not installed: {MCP_EXTRA}")
    for folder in arguments.folder:
        if not folder.expanduser().is_dir():
            raise ConfigError(f"--folder {folder}: is no folder")
    address = read_address(arguments)
    if sys.stdin.isatty():
        print(
            "This command speaks MCP on standard input and output: name it in an agent's configuration"
            " (docs/mcp.md). Ctrl-D ends it.",
            file=sys.stderr,
        )
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the thread that waits for input cannot be interrupted
    asyncio.run(_serve(address, arguments.folder))
    return 0


async def _serve(address: Address, folders: list[Path]) -> None:
    """Serve until standard input ends."""
    from mcp.server.stdio import stdio_server

    from server.agents import sdk_log
    from server.agents.api_client import ApiClient, Place
    from server.agents.calls import call
    from server.agents.folders import Folders
    from server.agents.protocol import make_server
    from server.agents.refusals import CallFailed
    from server.commands.connection import client_of

    sdk_log.quieten(_tell_unforeseen)
    opened = Folders(folders)
    async with client_of(address, timeout_s=_ANSWER_TIMEOUT_S) as client:
        api = ApiClient(client, Place(address.shown, _ABSENT, _UNKNOWN_KEY))

        async def do(name: str, arguments: Mapping[str, Any], tell: Tell, request: object) -> Answer:
            try:
                return await call(name, arguments, api, tell, folders=opened)
            except CallFailed:
                raise
            except Exception as error:
                _tell_unforeseen(error)
                raise CallFailed(f"darkroom mcp failed on this call: {type(error).__name__}.") from None

        server = make_server(do, files=True)
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())


def _tell_unforeseen(error: BaseException) -> None:
    """Without its text, which may quote a prompt."""
    print(f"darkroom mcp: unforeseen {type(error).__qualname__}", file=sys.stderr)
