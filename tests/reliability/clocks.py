"""Adversities of the clock: it jumps by hours and days, there and back, while a server runs and draws.

Knows libfaketime; the visitor knows answers. Only the wall clock jumps, as when somebody sets it: what the server waits
for runs on the monotonic clock, and links expire by the wall clock of the moment.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.reliability.asks import drawn, judge
from tests.reliability.disks import pass_until_answered
from tests.reliability.lives import House, tracebacks
from tests.reliability.visitor import Skipped, Visitor

HOUR_S, DAY_S = 3600, 86400
LIFETIME_S = 2 * HOUR_S
JUMPS_S = (HOUR_S, -HOUR_S, DAY_S, -DAY_S)
TAKES_S = 2.5  # for a jump to reach every process, and for a sweep


def jumps(house: House, visitor: Visitor) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise Skipped("needs libfaketime: apt-get install faketime")
    for jump_s in JUMPS_S:
        _jump(house, visitor, library, jump_s)


def _jump(house: House, visitor: Visitor, library: Path, jump_s: int) -> None:
    clock = house.data_dir.parent / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # the same, in older versions
        "NO_FAKE_STAT": "1",
    }
    there, back = f"{jump_s:+d} s", f"back from {jump_s:+d} s"
    with house.life(environment=environment, url_lifetime_s=LIFETIME_S, sweep_interval_s=0.5) as running:
        worker = running.worker()
        before = visitor.draw("before", "url")
        visitor.fetch("before", before)
        with visitor.meanwhile(f"drawn through {there}", "url", steps=60) as through:
            clock.write_text(f"{jump_s:+d}")
            pass_until_answered(visitor)
        time.sleep(TAKES_S)
        _clock_has_jumped(visitor, there, jump_s)
        after = visitor.draw(there, "url")
        time.sleep(TAKES_S)  # the sweep looks at them too
        visitor.fetch(f"drawn before {there}", before, *_statuses(visible=jump_s < LIFETIME_S))
        visitor.fetch(f"drawn through {there}", through)
        visitor.fetch(f"drawn after {there}", after)
        for kind in ("b64", "stream_url", "mask"):
            visitor.draw(there, kind)
        visitor.healthy(there)

        clock.write_text("+0")
        time.sleep(TAKES_S)
        visitor.draw(back, "url")
        # A day ahead, the sweep has rightly taken what had expired by then.
        visitor.fetch(f"drawn before, {back}", before, *((200,) if jump_s < LIFETIME_S else (200, 404)))
        # What was drawn a day ago by its own clock has expired; what was drawn a day ahead has not.
        visitor.fetch(f"drawn there, {back}", after, *_statuses(visible=jump_s + LIFETIME_S > 0))
        visitor.healthy(back)
        if worker is None or running.worker() != worker:
            visitor.note(there, "the worker was replaced")
        if code := running.stop():
            visitor.note(there, f"exit code {code}")
        for line in tracebacks(running):
            visitor.note(there, line)


def _statuses(*, visible: bool) -> tuple[int, ...]:
    return (200,) if visible else (403,)


def _clock_has_jumped(visitor: Visitor, when: str, jump_s: int) -> None:
    """As the server's own answers say; else the case would prove nothing."""
    ask = drawn("b64", visitor.rng, steps=1, n=1)
    answer = visitor.send(when, ask)
    if answer is None:
        return
    judge(ask, answer)
    if abs(answer.json()["created"] - time.time() - jump_s) > 600:
        visitor.note(when, "the server's clock did not jump")
