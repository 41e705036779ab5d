"""The honest client: GET /livez on a new connection, 20 times a second, from a process of its own.

Its latencies are the server's: no other client of a suite shares its interpreter or its priority.

    python -m tests.reliability.probe PORT      # one line an answer: milliseconds, or "refused" or "closed"
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from types import TracebackType

from tests.reliability.journal import Bar, Journal, quantile
from tests.reliability.wire import get
from tests.running import ROOT

INTERVAL_S = 0.05
TIMEOUT_S = 10.0
MAX_P99_MS = 250.0


class Probe:
    """The honest client's process, and what it has met."""

    def __init__(self, port: int) -> None:
        self.latencies_ms: list[float] = []
        self.refused = 0
        self.closed = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.probe", str(port)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Probe:
        self._reader.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def faults(self) -> list[str]:
        """Where no front was killed: honest clients turned away. To be asked before ``take``."""
        return ["an honest client was refused"] * self.refused + ["an honest client was closed"] * self.closed

    def take(self) -> dict[str, list[int] | int]:
        """What it has met since the last look."""
        latencies, self.latencies_ms = self.latencies_ms, []
        refused, self.refused = self.refused, 0
        closed, self.closed = self.closed, 0
        return {"livez_ms": [round(ms) for ms in latencies], "livez_refused": refused, "livez_closed": closed}

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            match line.strip():
                case "refused":
                    self.refused += 1
                case "closed":
                    self.closed += 1
                case milliseconds:
                    self.latencies_ms.append(float(milliseconds))


def bar(journal: Journal) -> Bar:
    """The 99th percentile of all that a suite's honest clients have waited."""
    latencies = [ms for row in journal.rows for ms in row.get("livez_ms", ())]
    return Bar(f"p99 of {len(latencies):,} × /livez", quantile(latencies, 0.99), MAX_P99_MS, " ms")


def main() -> None:
    port = int(sys.argv[1])
    while True:
        started = time.monotonic()
        try:
            told = "closed" if get(port, "/livez", timeout_s=TIMEOUT_S).status != 200 else ""
        except ConnectionRefusedError:
            told = "refused"
        except TimeoutError:
            told = ""  # as slow as it waited
        except (OSError, http.client.HTTPException):
            told = "closed"
        print(told or round((time.monotonic() - started) * 1000, 1), flush=True)
        time.sleep(max(0.0, INTERVAL_S - (time.monotonic() - started)))


if __name__ == "__main__":
    main()
