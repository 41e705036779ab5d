"""The ``darkroom`` command: the table of its sub-commands, and what a failure's exit code is.

Knows which commands there are; each file of ``server.commands`` adds its own flags and does its own work.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from server import __version__
from server.commands import check, demo, edit, generate, jobs, keys, mcp, serve, usage
from server.commands.bench import command as bench
from server.commands.bundle import command as bundle
from server.commands.doctor import command as doctor
from server.commands.failure import CommandFailed
from server.commands.models import command as models
from server.errors import ConfigError, DarkroomError

COMMANDS = (
    serve,
    check,
    doctor,
    demo,
    generate,
    edit,
    jobs,
    bench,
    keys,
    usage,
    models,
    mcp,
    bundle,
)  # in the order of --help


def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command and exit with its code."""
    arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()  # here a full disk can still be told of; at exit Python would print a traceback
    except ConfigError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        code = 2
    except CommandFailed as failure:
        print(f"darkroom: {failure}", file=sys.stderr)
        code = 1
    except DarkroomError as error:
        print(f"darkroom: {error.message}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # who read our output has gone, as `| head -1` does
        code = 1
    except OSError as error:  # a disk that is full or read-only, a folder where a file should be, no right to either
        print(f"darkroom: {_in_words(error)}", file=sys.stderr)
        code = 2
    _drop_unwritten()
    sys.exit(code)


def _in_words(error: OSError) -> str:
    said = error.strerror or str(error) or type(error).__name__
    return said if error.filename is None else f"{error.filename}: {said}"


def _drop_unwritten() -> None:
    """Python writes the rest of standard output at exit, and prints a traceback where it cannot."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The command line, as ``docs/cli.md`` shows it; a test compares the two."""
    parser = argparse.ArgumentParser(prog="darkroom", description="A self-hosted image-generation server.")
    parser.add_argument("--version", action="version", version=f"darkroom {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown and arguments.command != "serve":
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.settings = unknown  # serve's flags, which this parser does not know
    return arguments
