"""Fuzzed requests on all routes: ``python -m tests.reliability.fuzz_api --count 100000``.

Four parts, one after the other: requests made from openapi.json (schema), mutated bodies and heads (bodies), walks of
jobs that are created, watched and cancelled (jobs), all of them on a server whose worker draws blank paper; and mutated
bodies on a server with the embedded model (model). The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence

from tests.reliability import api_bodies, api_jobs
from tests.reliability.record import Batch, Record, run_batches
from tests.reliability.servers import PAPER, REAL, Started, open_server

SHARES = {"schema": 0.30, "bodies": 0.64, "jobs": 0.05, "model": 0.01}  # of the requests


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    if "schema" in arguments.parts:
        _require_schemathesis()
    record = Record("fuzz_api", arguments.seed, fresh=arguments.fresh)
    deadline = time.monotonic() + arguments.time_limit
    shares = {part: SHARES[part] for part in arguments.parts}
    wanted = {part: round(arguments.count * share / sum(shares.values())) for part, share in shares.items()}
    for part, count in wanted.items():
        batches = -(-count // _size(part))
        left = record.left(part, batches)
        if not left or time.monotonic() > deadline:
            continue
        with open_server(arguments.server, module=REAL if part == "model" else PAPER, body_timeout_s=5) as server:
            with contextlib.suppress(KeyboardInterrupt):
                run_batches(
                    record,
                    ((_batch, (part, server.target, arguments.seed, index)) for index in left),
                    processes=arguments.processes,
                    time_limit_s=deadline - time.monotonic(),
                )
            _look_back(record, part, server)
    complete = not any(record.left(part, -(-count // _size(part))) for part, count in wanted.items())
    return record.finish("requests", sum(wanted.values()), complete=complete)


def _size(part: str) -> int:
    return {"schema": 200, "jobs": api_jobs.SIZE}.get(part, api_bodies.SIZE)


def _batch(part: str, *arguments: object) -> Batch:
    if part == "schema":
        from tests.reliability import api_schema

        return api_schema.batch(*arguments)  # type: ignore[arg-type]
    if part == "jobs":
        return api_jobs.batch(*arguments)  # type: ignore[arg-type]
    return api_bodies.batch(part, *arguments)  # type: ignore[arg-type]


def _look_back(record: Record, part: str, server: Started) -> None:
    """What can only be seen when all is over: is the server up, did it log surprises, did every permit return?"""
    result = Batch(f"{part}: afterwards", int(time.time()))
    if server.down():
        result.add("down", "the front has ended", server.running.log[-2000:] if server.running else "")
    elif (busy := api_jobs.busy(server.target)) is not None:
        result.add("permits", busy, part)
    for line in server.unforeseen()[:20]:
        result.add("unforeseen", line.strip(), part)
    if not server.down() and server.running is not None:
        result.counts[f"max MiB of the front in {part}"] = round(server.front_mib())
    record.add(result)


def _require_schemathesis() -> None:
    try:
        import schemathesis  # noqa: F401
    except ImportError:
        sys.exit(
            "fuzz_api: schemathesis is not installed; it comes with the extra `reliability`:"
            " pip install --constraint constraints.txt --editable '.[dev,reliability]'"
            " (or leave its part out: --parts bodies jobs model)"
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz_api", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="requests in all")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same requests")
    parser.add_argument(
        "--server", metavar="URL", help="a server that runs (its key: DARKROOM_API_KEY); default: starts its own"
    )
    parser.add_argument(
        "--time-limit", type=float, default=1800, metavar="S", help="seconds until no batch is begun any more"
    )
    parser.add_argument("--parts", nargs="+", choices=list(SHARES), default=list(SHARES), help="default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that ask at the same time")
    parser.add_argument("--fresh", action="store_true", help="forget what was recorded")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
