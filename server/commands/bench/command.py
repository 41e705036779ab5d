"""``darkroom bench``: put load on a running server, and report what it gives.

Knows the flags, the screen and where the report goes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.errors import ConfigError

if TYPE_CHECKING:
    from server.commands.bench.mix import Mix


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("bench", help="put load on a running server, and report what it gives")
    parser.set_defaults(run=run)
    add = parser.add_argument
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


def run(arguments: argparse.Namespace) -> int:
    """Send the load, print the figures, write the report. Returns 1 where a request failed; raises ConfigError."""
    from rich.console import Console

    from server.commands.bench import load, report
    from server.commands.bench.mix import make_asks

    mix = read_mix(arguments)
    url, clients, rate, seed = arguments.url, arguments.clients, arguments.rate, arguments.seed
    if rate is not None and not rate > 0:
        raise ConfigError(f"--rate = {rate}: must be more than 0")
    _require_writable(arguments.out)  # before minutes of load
    key = _read_key(arguments.key)
    arrivals = f"{clients} clients" if rate is None else f"{rate:g} requests a second, Poisson"
    command = f"{url}: {arguments.requests} requests from seed {seed}; {arrivals}; {mix}"
    asks = make_asks(mix, arguments.requests, seed)
    result = asyncio.run(load.run_against(url, key, asks, clients=clients, rate=rate, seed=seed, command=command))
    console = Console()
    for name, value in report.figures(result):
        console.print(f"{name:<28}{value}", highlight=False, markup=False)
    try:
        arguments.out.write_text(report.page(result), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {arguments.out}: the report cannot be written: {error.strerror}") from None
    console.print(f"report: {arguments.out}", highlight=False, markup=False)
    return 1 if result.errors else 0


def _require_writable(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: its folder cannot be made: {error.strerror}") from None
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(f"--out {out}: cannot be written")


def read_mix(arguments: argparse.Namespace) -> Mix:
    """The mix that the flags name. Raises ConfigError."""
    from server.commands.bench.mix import TASKS, Mix

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
    if not all(map(math.isfinite, mix.guidance)):
        raise ConfigError(f"--guidance = {arguments.guidance}: must be numbers, and not infinite")
    if not set(mix.tasks) <= set(TASKS):
        raise ConfigError(f"--tasks = {arguments.tasks}: must be some of {', '.join(TASKS)}")
    return mix


def _read_key(given: str | None) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key = {given}: {getattr(error, 'strerror', 'not text')}") from None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number, 1 or more")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    low, high = _positive(least), _positive(most or least)
    if low > high:
        raise argparse.ArgumentTypeError("the first must not be more than the second")
    return low, high
