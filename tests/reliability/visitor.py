"""A client that knows which answer is right now, and notes every other.

Knows asks and expectations; knows nothing of disks and clocks.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.reliability.asks import Ask, Told, Wrong, drawn, error_code, judge, judge_picture
from tests.reliability.lives import House
from tests.reliability.wire import Answer, Closed, Refused, bearer, exchange, request_bytes

TIMEOUT_S = 180.0


class Skipped(Exception):
    """What this machine lacks."""


class Visitor:
    """Asks one after another; ``faults`` are the answers that were not right."""

    def __init__(self, house: House, case: str, seed: int) -> None:
        self.house = house
        self.count = 0
        self.faults: list[str] = []
        self._case = case
        self.rng = random.Random(f"{case}-{seed}")

    def note(self, when: str, what: str) -> None:
        self.faults.append(f"{self._case}, {when}: {what}")

    def draw(
        self, when: str, kind: str, *expected: str, steps: int = 4, ask: Ask | None = None, port: int | None = None
    ) -> list[Told]:
        """The pictures of an answer; ``expected`` are the right ones, as status and code, by default 200."""
        ask = ask or drawn(kind, self.rng, steps=steps, n=1)
        answer = self.send(when, ask, port=port)
        if answer is None:
            return []
        told = f"{answer.status} {error_code(answer)}".strip()
        if told not in (expected or ("200",)):
            self.note(when, f"{ask.kind} is {told}, not {' or '.join(expected or ('200',))}")
        if told != "200":
            return []
        try:
            return judge(ask, answer)
        except Wrong as wrong:
            self.note(when, str(wrong))
            return []

    def send(self, when: str, ask: Ask, *, port: int | None = None) -> Answer | None:
        headers = {**ask.headers, **bearer(self.house.key)}
        request = request_bytes(ask.method, ask.path, body=ask.body, headers=headers)
        try:
            answer = asyncio.run(exchange(port or self.house.port, request, timeout_s=TIMEOUT_S))
        except (Closed, Refused, TimeoutError) as error:
            self.note(when, f"{ask.kind}: {type(error).__name__}")
            return None
        self.count += 1
        return answer

    def fetch(self, when: str, pictures: Sequence[Told], *expected: int, port: int | None = None) -> None:
        """Fetch stored pictures; ``expected`` are the right statuses, by default 200."""
        for told in pictures:
            if told.link is None:
                self.note(when, "no URL was told")
                continue
            answer = self.send(when, Ask("a picture's fetch", "GET", told.link), port=port)
            if answer is None:
                continue
            if answer.status not in (expected or (200,)):
                self.note(
                    when, f"a picture's fetch is {answer.status}, not {' or '.join(map(str, expected or (200,)))}"
                )
            elif answer.status == 200:
                try:
                    judge_picture(told.seed, answer.body)
                except Wrong as wrong:
                    self.note(when, str(wrong))

    def healthy(self, when: str) -> None:
        """The server says that it is well, and nobody holds a permit."""
        for path in ("/livez", "/readyz"):
            answer = self.send(when, Ask(path, "GET", path))
            if answer is not None and answer.status != 200:
                self.note(when, f"{path} is {answer.status}")
        if held := self.house.permits_after():
            self.note(when, f"permits leaked: {held}")

    def no_leftovers(self, when: str) -> None:
        left = [name for name in self.house.leftovers() if name.endswith(".part")]
        if left:
            self.note(when, f"temporary files left: {len(left)}")

    @contextmanager
    def meanwhile(self, when: str, kind: str, *expected: str, steps: int) -> Iterator[list[Told]]:
        """What is done inside happens while a picture is drawn; afterwards the list has it."""
        found: list[Told] = []
        other = Visitor(self.house, self._case, self.rng.randrange(2**30))
        thread = threading.Thread(target=lambda: found.extend(other.draw(when, kind, *expected, steps=steps)))
        before = self.house.metrics().steps
        thread.start()
        while thread.is_alive() and self.house.metrics().steps <= before:
            thread.join(0.05)
        if not thread.is_alive():
            self.note(when, "the drawing ended before anything happened")
        try:
            yield found
        finally:
            thread.join(TIMEOUT_S + 10)
            self.count += other.count
            self.faults += other.faults


def field(answer: Answer, name: str) -> object:
    """A field of a JSON answer's first picture; None if it has none."""
    return json.loads(answer.body)["data"][0].get(name)
