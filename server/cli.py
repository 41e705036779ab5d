"""The ``darkroom`` command. Knows sub-commands and exit codes; each does its work in a module of its own.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server import __version__
from server.commands import parsers
from server.errors import ConfigError, DarkroomError


def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command and exit with its code."""
    arguments, rest = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        code = _run(arguments, rest)
    except ConfigError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        code = 2
    except DarkroomError as error:
        print(f"darkroom: {error.message}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # who read our output has gone, as `| head -1` does; nor can Python flush it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def build_parser() -> argparse.ArgumentParser:
    """The command line, as ``docs/cli.md`` shows it; a test compares the two."""
    parser = argparse.ArgumentParser(prog="darkroom", description="A self-hosted image-generation server.")
    parser.add_argument("--version", action="version", version=f"darkroom {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    # serve's flags are the settings; pydantic-settings reads them and writes their help.
    commands.add_parser("serve", help="serve the API (every setting is a flag: serve --help)", add_help=False)

    check = commands.add_parser("check", help="check settings, models.yaml and model folders without serving")
    check.add_argument("--models", type=Path, help="models.yaml to check")

    demo = commands.add_parser("demo", help="start a server, make pictures through it, stop it")
    demo.add_argument("--out", type=Path, default=Path("out"), help="where to put the pictures (default: out)")
    demo.add_argument("-n", type=int, default=2, choices=range(1, 11), metavar="N", help="pictures, 1..10 (default: 2)")

    parsers.add_generate(commands)
    parsers.add_edit(commands)
    _add_bench(commands)

    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (("create", "make a key and print it, once"), ("revoke", "end a key")):
        actions.add_parser(action, help=text).add_argument("name", metavar="NAME")
    actions.add_parser("list", help="names of the keys; the keys themselves are not kept")

    parsers.add_models(commands)
    return parser


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="put load on a running server, and report what it gives")
    add = bench.add_argument
    add("url", metavar="URL", nargs="?", default="http://127.0.0.1:8000", help="default: %(default)s")
    add("--key", help="API key, if the server has any; @FILE reads it from there")
    add("--requests", type=_positive, default=100, help="how many to send (default: %(default)s)")
    add("--clients", type=_positive, default=8, help="who each wait for their answer (default: %(default)s)")
    add("--rate", type=float, metavar="PER_S", help="not clients: so many requests a second, at random moments")
    add("--seed", type=int, default=1, help="of the mix: same seed, same requests (default: %(default)s)")
    add("--model", help="an ID of /v1/models (default: the server's)")
    add("--sizes", default="256x256", help="comma-separated WIDTHxHEIGHT (default: %(default)s)")
    add("--steps", type=_range, default=(4, 30), metavar="LEAST-MOST", help="denoising steps (default: 4-30)")
    add("--guidance", default="1,2.5,5", help="comma-separated guidance scales (default: %(default)s)")
    add("--tasks", default="t2i", help="comma-separated: t2i, i2i, inpaint (default: %(default)s)")
    add("-n", default="1", help="comma-separated pictures a request, 1..10 (default: %(default)s)")
    add("--out", type=Path, default=Path("out/bench.html"), help="the report (default: %(default)s)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    low, high = _positive(least), _positive(most or least)
    if low > high:
        raise argparse.ArgumentTypeError("the first must not be more than the second")
    return low, high


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "serve":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments, rest


def _run(arguments: argparse.Namespace, rest: list[str]) -> int:
    # Each command imports what it needs: `keys` should not wait for a web framework.
    from server.settings import read_settings

    match arguments.command:
        case "serve":
            from server.serve import serve

            serve(read_settings(rest))
            return 0
        case "check":
            from server.commands.check import check

            return check(read_settings(**_given(models=arguments.models)))
        case "demo":
            from server.commands.demo import demo

            return demo(arguments.out, arguments.n)
        case "generate" | "edit":
            from server.commands.generate import make

            return make(arguments)
        case "bench":
            return _bench(arguments)
        case "keys":
            return _keys(arguments, read_settings().data_dir)
        case "models":
            settings = read_settings(**_given(models=arguments.models))
            if arguments.action == "pull":
                from server.commands.check import pull

                return pull(settings, arguments.id)
            from server.commands.models import list_models

            return list_models(arguments, settings)
    raise AssertionError(arguments.command)


def _given(**flags: Any) -> dict[str, Any]:
    """The flags that were typed: one left out must not hide its variable in the environment."""
    return {name: value for name, value in flags.items() if value is not None}


def _bench(arguments: argparse.Namespace) -> int:
    from server.commands.bench.load import TASKS, Mix, bench

    try:
        mix = Mix(
            sizes=tuple(arguments.sizes.split(",")),
            steps=arguments.steps,
            guidance=tuple(float(value) for value in arguments.guidance.split(",")),
            tasks=tuple(arguments.tasks.split(",")),
            counts=tuple(int(value) for value in arguments.n.split(",")),
            model=arguments.model,
        )
    except ValueError as error:
        raise ConfigError(f"--guidance and -n must be numbers: {error}") from None
    if not set(mix.tasks) <= set(TASKS):
        raise ConfigError(f"--tasks = {arguments.tasks}: must be some of {', '.join(TASKS)}")
    if arguments.rate is not None and not arguments.rate > 0:
        raise ConfigError(f"--rate = {arguments.rate}: must be more than 0")
    return bench(
        arguments.url,
        _key(arguments.key),
        mix,
        requests=arguments.requests,
        clients=arguments.clients,
        rate=arguments.rate,
        seed=arguments.seed,
        out=arguments.out,
    )


def _key(given: str | None) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"--key = {given}: {error.strerror}") from None


def _keys(arguments: argparse.Namespace, data_dir: Path) -> int:
    from server.edge.keys import Keyring

    keyring = Keyring(data_dir / "keys.json")
    match arguments.action:
        case "create":
            key = keyring.create(arguments.name)
            print(
                f"{arguments.name}'s key follows. It is shown this once; only its hash is kept.",
                file=sys.stderr,
            )
            print(key)
        case "revoke":
            if not keyring.revoke(arguments.name):
                print(f"darkroom: no key is named {arguments.name}", file=sys.stderr)
                return 1
        case "list":
            for entry in keyring.list():
                print(entry.name, entry.created, sep="\t")
    return 0
