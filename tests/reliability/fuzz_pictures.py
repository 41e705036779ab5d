"""Mutated pictures through the decoder: ``python -m tests.reliability.fuzz_pictures --count 200000``.

Each becomes pixels, or is refused as BadImage or TooLarge, in a message without an address, within its share of CPU
time and of memory. They are decoded in processes of their own, which the kernel stops at either limit: what one dies of
is a finding, and the next goes on behind it. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import multiprocessing
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines.spec import Pixels
from server.errors import BadImage, TooLarge
from server.inputs.decode import Decoded, ImageLimits, decode_image, decode_mask
from server.settings import Settings
from tests.reliability.picture_mutations import mutated, originals
from tests.reliability.record import Batch, Record

SIZE = 1000  # pictures of a batch
_LEAK = re.compile(r"0x|/|\\|Errno|PIL|Traceback")  # what no message may have
_KILL_CPU_FACTOR = 2  # the kernel's limit, of ours: a decoder that never ends is stopped here


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    record = Record("fuzz_pictures", arguments.seed, fresh=arguments.fresh)
    batches = -(-arguments.count // SIZE)
    deadline = time.monotonic() + arguments.time_limit
    originals()  # made once, before the processes are

    def run(index: int) -> Batch | None:
        if time.monotonic() > deadline:
            return None
        return _batch(arguments.seed, index, arguments.cpu_s, arguments.memory_mib)

    with ThreadPoolExecutor(arguments.processes) as pool:
        for batch in pool.map(run, record.left("pictures", batches)):
            if batch is not None:
                record.add(batch)
    return record.finish("pictures", arguments.count, complete=not record.left("pictures", batches))


def _batch(seed: int, index: int, cpu_s: float, memory_mib: int) -> Batch:
    """One batch, in as many processes as it kills and one more."""
    result, first = Batch("pictures", index), 0
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    while first < SIZE:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_decode_all, args=(theirs, seed, index, first, cpu_s, memory_mib), daemon=True)
        process.start()
        theirs.close()
        number = first
        try:
            while True:
                message = ours.recv()
                if message is None:
                    number = SIZE
                    break
                number, outcome, findings, worst_ms, peak_mib = message
                result.counts[outcome] += 1
                result.counts["max CPU ms"] = max(result.counts["max CPU ms"], worst_ms)
                result.counts["max MiB"] = max(result.counts["max MiB"], peak_mib)
                for kind, detail in findings:
                    result.add(kind, f"{_name(seed, index, number)}: {detail}", _shown(seed, index, number))
                number += 1
        except EOFError:
            process.join()
            died = f"{_name(seed, index, number)}: the process ended with {process.exitcode}"
            result.add("died", died, _shown(seed, index, number))
            number += 1
        process.join()
        ours.close()
        first = number
    result.done = SIZE
    result.seconds = time.perf_counter() - started
    return result


def _decode_all(out: Connection, seed: int, index: int, first: int, cpu_s: float, memory_mib: int) -> None:
    """Decode from ``first`` on, and tell of each."""
    warnings.simplefilter("ignore")
    base_mib = _peak_mib()
    room = (memory_mib + 512) << 20  # address space is more than memory
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + room, resource.RLIM_INFINITY))
    settings = Settings()
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    for number in range(first, SIZE):
        data = mutated(_name(seed, index, number))
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + cpu_s * _KILL_CPU_FACTOR) + 1, resource.RLIM_INFINITY))
        outcome, findings = _decode(data, limits, as_mask=number % 8 == 0)
        took_s = time.process_time() - used
        if took_s > cpu_s:
            findings.append(("CPU time", f"{took_s:.2f} s for {len(data)} bytes ({outcome})"))
        grown_mib = _peak_mib() - base_mib
        if grown_mib > memory_mib:
            findings.append(("memory", f"{grown_mib} MiB for {len(data)} bytes ({outcome})"))
            base_mib += grown_mib  # told once
        out.send((number, outcome, findings, round(took_s * 1000), grown_mib))
    out.send(None)


def _decode(data: bytes, limits: ImageLimits, *, as_mask: bool) -> tuple[str, list[tuple[str, str]]]:
    """What became of one file, and what was wrong with that."""
    try:
        found: Decoded | Pixels
        found = (decode_mask if as_mask else decode_image)(data, limits=limits, param="image")
    except (BadImage, TooLarge) as error:
        wrong = [("message", error.message)] if _LEAK.search(error.message) else []
        return "refused", wrong
    except MemoryError:
        return "refused", [("memory", "more address space than its process was given")]
    except Exception as error:
        return "unforeseen", [("unforeseen", f"{type(error).__name__}: {error}")]
    pixels = found if isinstance(found, Pixels) else found.rgb
    if len(pixels.data) != pixels.width * pixels.height * (1 if as_mask else 3):
        return "decoded", [("pixels", f"{len(pixels.data)} bytes for {pixels.width} × {pixels.height}")]
    return "decoded", []


def _name(seed: int, index: int, number: int) -> str:
    return f"{seed}-{index}-{number}"


def _shown(seed: int, index: int, number: int) -> str:
    data = mutated(_name(seed, index, number))
    packed = base64.b64encode(data).decode() if len(data) < 12_000 else "too long to show"
    return f"mutated({_name(seed, index, number)!r}), sha256 {hashlib.sha256(data).hexdigest()[:16]}, base64: {packed}"


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.fuzz_pictures", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=200_000, help="pictures in all")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same pictures")
    parser.add_argument(
        "--time-limit", type=float, default=1800, metavar="S", help="seconds until no batch is begun any more"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that decode at the same time")
    parser.add_argument("--cpu-s", type=float, default=5.0, metavar="S", help="CPU time that one picture may take")
    parser.add_argument("--memory-mib", type=int, default=1280, help="memory that one picture may take")
    parser.add_argument("--fresh", action="store_true", help="forget what was recorded")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
