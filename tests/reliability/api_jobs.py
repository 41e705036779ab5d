"""The part of fuzz_api that lives with jobs: creates them by x-job-id, looks, lists, cancels, leaves, and compares.

A walk is seeded; which of two things that happen at once comes first is the machine's. What has to hold does not depend
on it: a job is answered once, ends once, stays as it ended, and its answer is its end.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.reliability.judging import judge
from tests.reliability.raw_http import Answer
from tests.reliability.record import Batch
from tests.reliability.servers import Target

SIZE = 100  # requests of a batch
_STATES = ("queued", "running", "done", "failed", "cancelled")
_ENDED = _STATES[2:]
_LONGEST_S = 0.4  # that a job is held
_SETTLED_S = 15.0
_NONE_SUCH = "nobody-has-this-one"


class Walk:
    """One walk, and what is known of its jobs."""

    def __init__(self, target: Target, result: Batch, rng: random.Random) -> None:
        self.target, self.result, self.rng = target, result, rng
        self.client = httpx.Client(base_url=target.url, headers=target.headers, trust_env=False, timeout=20)
        self.answers: dict[str, Future[httpx.Response | None]] = {}
        self.left: set[str] = set()  # jobs whose client does not wait
        self.seen: dict[str, str] = {}  # the last state of each
        self.prefix = f"walk-{rng.randrange(2**32):08x}-"

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """One request. None: its client left."""
        started = time.perf_counter()
        self.result.done += 1
        try:
            answer = self.client.request(method, path, **options)
        except httpx.TimeoutException:
            return None
        except httpx.TransportError as error:
            self.result.add("no answer", f"{method} {path}: {type(error).__name__}", str(options))
            return None
        self.result.counts[str(answer.status_code)] += 1
        plain = Answer(method, answer.status_code, dict(answer.headers), answer.content)
        plain.seconds = time.perf_counter() - started
        for kind, detail in judge(plain, secret=self.target.key):
            self.result.add(kind, f"{method} {path}: {detail}", str(options))
        return answer

    def create(self, pool: ThreadPoolExecutor, *, leaves: bool) -> None:
        name = f"{self.prefix}{len(self.answers)}"
        hold_s = self.rng.choice((0.0, 0.02, 0.1, _LONGEST_S))
        options: dict[str, Any] = {
            "json": {"prompt": f"paper:{hold_s} an apple", "size": "256x256", "response_format": "b64_json"},
            "headers": {"x-job-id": name},
        }
        if leaves:
            options["timeout"] = self.rng.choice((0.01, 0.05))
            self.left.add(name)
        path = self.rng.choice(("/v1/images/generations", "/api/images/generations"))
        self.answers[name] = pool.submit(self.ask, "POST", path, **options)

    def look(self) -> None:
        name = self._some()
        self.check(name, self.ask("GET", f"{self._root()}/images/jobs/{name}"), may_miss=True)

    def cancel(self) -> None:
        name = self._some()
        self.check(name, self.ask("DELETE", f"{self._root()}/images/jobs/{name}"), may_miss=True, ended=True)

    def cancel_twice(self, pool: ThreadPoolExecutor) -> None:
        name = self._some()
        both = [pool.submit(self.ask, "DELETE", f"/v1/images/jobs/{name}") for _ in range(2)]
        for answer in both:
            self.check(name, answer.result(), may_miss=True, ended=True)

    def list(self) -> None:
        answer = self.ask("GET", f"{self._root()}/images/jobs")
        if answer is None or answer.status_code != 200:
            return
        rows = answer.json()["data"]
        names = [row["id"] for row in rows]
        if len(names) != len(set(names)):
            self.result.add("jobs: listed twice", str(sorted(names)), "GET /v1/images/jobs")
        for row in rows:
            if row["id"] in self.answers:
                self.judge_row(row["id"], row)

    def reuse(self) -> None:
        """An id that a job has which still stands is not given to another."""
        name = self._some()
        if self.seen.get(name) != "done":
            return
        answer = self.ask("POST", "/v1/images/generations", json={"prompt": "b"}, headers={"x-job-id": name})
        if answer is not None and answer.status_code != 400:
            self.result.add("jobs: id given twice", f"{answer.status_code} for the id of a job that is done", name)

    def strange(self) -> None:
        name = self.rng.choice((_NONE_SUCH, "a", "%00", "é" * 8, "..", "a" * 3000, "walk-%2F-x", "list"))
        answer = self.ask(self.rng.choice(("GET", "DELETE")), f"/v1/images/jobs/{name}")
        if answer is not None and answer.status_code not in (400, 404, 405):
            self.result.add("jobs: stranger", f"{answer.status_code} for a job that does not exist", repr(name))

    def check(self, name: str, answer: httpx.Response | None, *, may_miss: bool, ended: bool = False) -> None:
        """One job's row, as GET and DELETE answer it."""
        if answer is None:
            return
        if answer.status_code == 404:
            if name in self.seen or not may_miss:
                self.result.add("jobs: lost", f"404 for a job that was {self.seen.get(name)}", name)
            return
        if answer.status_code != 200:
            self.result.add("jobs: refused", f"{answer.status_code} {answer.text[:200]}", name)
            return
        row = answer.json()
        if ended and row["status"] not in _ENDED:
            self.result.add("jobs: cancelled and not ended", str(row), name)
        self.judge_row(name, row)

    def judge_row(self, name: str, row: dict[str, Any]) -> None:
        status, before = row["status"], self.seen.get(name)
        if status not in _STATES or row["id"] != name:
            self.result.add("jobs: row", str(row), name)
        elif before in _ENDED and status != before:
            self.result.add("jobs: ended twice", f"{before}, then {status}", name)
        elif before is not None and _STATES.index(status) < _STATES.index(before):
            self.result.add("jobs: went back", f"{before}, then {status}", name)
        if (status in _ENDED) != (row["place"] is None) or row["progress"]["done"] > max(row["progress"]["of"], 0):
            self.result.add("jobs: row", str(row), name)
        if (status == "failed") != (row["error"] is not None) and status != "cancelled":
            self.result.add("jobs: row", str(row), name)
        self.seen[name] = status

    def settle(self) -> None:
        """Every job ends, and its answer is its end."""
        for name, future in self.answers.items():
            answer = future.result()
            if name in self.left:
                if answer is None:
                    self._end_of_the_left(name)
                continue
            row = self.ask("GET", f"/v1/images/jobs/{name}")
            self.check(name, row, may_miss=answer is None or answer.status_code not in (200, 409))
            expected = {200: "done", 409: "cancelled"}.get(answer.status_code if answer is not None else 0, "failed")
            if row is not None and row.status_code == 200 and row.json()["status"] != expected:
                status = answer.status_code if answer is not None else None
                self.result.add("jobs: answer is not the end", f"answered {status}, is {row.json()['status']}", name)

    def _end_of_the_left(self, name: str) -> None:
        """A job whose client left ends soon, if it ever began."""
        deadline = time.monotonic() + _SETTLED_S
        while time.monotonic() < deadline:
            row = self.ask("GET", f"/v1/images/jobs/{name}")
            if row is None or row.status_code == 404 or row.json()["status"] in _ENDED:
                return
            time.sleep(0.05)
        self.result.add("jobs: left and not ended", "its client has gone", name)

    def _some(self) -> str:
        return self.rng.choice(list(self.answers) or [_NONE_SUCH])

    def _root(self) -> str:
        return self.rng.choice(("/v1", "/api"))


def batch(target: Target, seed: int, index: int) -> Batch:
    """One walk."""
    result, rng = Batch("jobs", index), random.Random(f"jobs {seed} {index}")
    started = time.perf_counter()
    walk = Walk(target, result, rng)
    with ThreadPoolExecutor(6) as pool, ThreadPoolExecutor(2) as pairs:
        steps: list[tuple[Callable[[], None], int]] = [
            (lambda: walk.create(pool, leaves=False), 8),
            (lambda: walk.create(pool, leaves=True), 2),
            (walk.look, 6),
            (walk.cancel, 4),
            (lambda: walk.cancel_twice(pairs), 1),
            (walk.list, 3),
            (walk.reuse, 1),
            (walk.strange, 1),
        ]
        while result.done < SIZE - len(walk.answers):  # settling asks for each once more
            rng.choices([step for step, _ in steps], [weight for _, weight in steps])[0]()
            if rng.random() < 0.3:
                time.sleep(rng.choice((0.0, 0.01, 0.05)))
        walk.settle()
        while result.done < SIZE:
            walk.list()
        walk.client.close()
    result.seconds = time.perf_counter() - started
    return result


def busy(target: Target) -> str | None:
    """The permits that are still out when nobody asks for anything any more; None when all have come back."""
    deadline = time.monotonic() + _SETTLED_S
    while True:
        text = httpx.get(f"{target.url}/metrics", headers=target.headers, trust_env=False, timeout=20).text
        rows = [row for family in text_string_to_metric_families(text) for row in family.samples]
        held = {row.labels["state"]: row.value for row in rows if row.name == "darkroom_queue_jobs" and row.value}
        if not held:
            return None
        if time.monotonic() > deadline:
            return f"still held: {held}"
        time.sleep(0.2)
