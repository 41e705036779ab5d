"""Clients that each ask, wait for the answer and ask again, on a thread of their own; and what became of every ask.

Knows sockets and verdicts; knows nothing of processes. The thread is niced: on Linux niceness is a thread's, so that
the servers which a suite's main thread starts keep theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType

from tests.reliability.asks import Ask, Mix, Told, Wrong, error_code, judge, judge_picture
from tests.reliability.wire import Answer, Closed, Refused, bearer, exchange, request_bytes

NICENESS = 10
TIMEOUT_S = 300.0


class Load:
    """``clients`` at a time, from the first ``with`` on. ``allowed`` are codes of errors that count as answers."""

    def __init__(
        self,
        port: int,
        key: str | None,
        mix: Mix,
        *,
        clients: int,
        allowed: frozenset[str] = frozenset(),
        first: int = 0,
    ) -> None:
        self.port = port
        self.key = key
        self.outcomes: Counter[str] = Counter()  # by status, or how it ended without one
        self.faults: list[str] = []
        self.pictures = 0  # that answers brought
        self.names: dict[str, int] = {}  # of stored pictures whose URLs were told, with their seeds
        self.closed_pictures = 0  # asked for by connections that a dying front closed
        self.in_flight = 0
        self._mix = mix
        self._clients = clients
        self._allowed = allowed
        self._next = first
        self._fronts = 0  # that were killed
        self._dying = False
        self._paused = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopped = True
        self._thread.join(TIMEOUT_S + 10)

    def pause(self, *, within_s: float = TIMEOUT_S) -> None:
        """Ask no more, and wait until every answer has come."""
        self._paused = True
        deadline = time.monotonic() + within_s
        while self.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.in_flight:
            self.faults.append(f"{self.in_flight} asks without an answer")

    def go_on(self) -> None:
        self._paused = False

    def front_dies(self) -> None:
        """From here on, until ``front_is_dead``, what is in flight may be closed."""
        self._dying = True

    def front_is_dead(self) -> None:
        self._fronts += 1
        self._dying = False

    def _lives_since(self, fronts: int) -> bool:
        return self._fronts == fronts and not self._dying

    def take_faults(self) -> list[str]:
        taken, self.faults = self.faults, []
        return taken

    def _run(self) -> None:
        os.nice(NICENESS)
        asyncio.run(self._main())

    async def _main(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        while not self._stopped:
            if self._paused:
                await asyncio.sleep(0.02)
                continue
            number, self._next = self._next, self._next + 1
            ask = self._mix.ask(number)
            self.in_flight += 1
            try:
                await self._one(ask)
            except Exception as error:  # a fault of this suite's own must not end its load in silence
                self.faults.append(f"{ask.kind}: {type(error).__name__}: {error}"[:200])
            finally:
                self.in_flight -= 1

    async def _one(self, ask: Ask) -> None:
        request = request_bytes(ask.method, ask.path, body=ask.body, headers={**ask.headers, **bearer(self.key)})
        while True:
            fronts = self._fronts
            try:
                answer = await exchange(self.port, request, timeout_s=TIMEOUT_S)
            except Refused:
                if self._stopped or self._paused:
                    return
                await asyncio.sleep(0.1)
                continue
            except Closed as closed:
                self.outcomes["closed"] += 1
                self.closed_pictures += len(ask.seeds)
                if self._lives_since(fronts):
                    self.faults.append(f"{ask.kind}: closed although the front lives: {closed}")
            except TimeoutError:
                self.outcomes["unanswered"] += 1
                self.faults.append(f"{ask.kind}: no answer within {TIMEOUT_S:g} s")
            else:
                await self.judge(ask, answer)
            return

    async def judge(self, ask: Ask, answer: Answer) -> list[Told]:
        """Count an answer, and fetch what it promises."""
        code = error_code(answer) if answer.status >= 400 or ask.kind.startswith(("stream", "hub")) else ""
        self.outcomes[f"{answer.status} {code}".strip()] += 1
        if code in self._allowed and not answer.rest:
            return []
        try:
            found = judge(ask, answer)
            for told in found:
                await self._keep(ask, told)
        except Wrong as wrong:
            self.faults.append(str(wrong))
            return []
        self.pictures += len(found)
        return found

    async def _keep(self, ask: Ask, told: Told) -> None:
        if told.name is None or told.link is None:
            return
        if told.name in self.names:
            raise Wrong(f"{ask.kind}: a picture told twice")
        self.names[told.name] = told.seed
        fronts = self._fronts
        try:
            answer = await exchange(self.port, request_bytes("GET", told.link), timeout_s=TIMEOUT_S)
        except (Refused, Closed):
            if self._lives_since(fronts):
                raise Wrong("a picture's fetch was closed although the front lives") from None
            return
        if answer.status != 200:
            raise Wrong(f"{ask.kind}: a told picture is {answer.status}")
        judge_picture(told.seed, answer.body)


async def told_of_job(port: int, key: str | None, job: str) -> tuple[str, int]:
    """A job's status and the steps that it has done; ``none`` while there is no such job."""
    request = request_bytes("GET", f"/v1/images/jobs/{job}", headers=bearer(key))
    answer = await exchange(port, request, timeout_s=30)
    if answer.status != 200:
        return "none", 0
    row = json.loads(answer.body)
    return str(row["status"]), int(row["progress"]["done"]) if row["progress"] else 0


def niced(work: Callable[[], Awaitable[None]]) -> threading.Thread:
    """A niced thread that has begun to run ``work``."""

    async def main() -> None:
        await work()

    def run() -> None:
        os.nice(NICENESS)
        asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
