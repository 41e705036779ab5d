"""The part of fuzz_api that mutates real bodies and heads, and sends them as bytes."""

from __future__ import annotations

import base64
import random
import time
import zlib
from collections.abc import Sequence

from tests.reliability.cases import Case, Draft, bases
from tests.reliability.judging import MAX_SECONDS, judge
from tests.reliability.mutations import MUTATIONS, WEIGHTS
from tests.reliability.raw_http import Connection, Exchange
from tests.reliability.record import Batch
from tests.reliability.servers import Target

SIZE = 250  # requests of a batch
MAX_SMALLER = 12  # tries to make a finding's request smaller
_PROBE = "GET"
_DRAWN_S = 120.0  # for an answer when a model draws, on a CPU that has other work too


def batch(part: str, target: Target, seed: int, index: int) -> Batch:
    """Send the batch's requests and judge every answer."""
    rng = random.Random(f"{part} {seed} {index}")
    result = Batch(part, index)
    started = time.perf_counter()
    connection = Connection(target.address, timeout_s=_patience_s(part))
    for _ in range(SIZE):
        case = _case(rng)
        draft, exchange = _send(connection, target, case)
        result.done += 1
        for answer in exchange.answers:
            result.counts[str(answer.status)] += 1
        for kind, detail in _wrong(draft, exchange, target, part):
            smallest = _smallest(case, kind, target, part) if len(result.findings) < MAX_SMALLER else case
            result.add(kind, f"{smallest}: {detail}", _shown(smallest, target))
    connection.close()
    result.seconds = time.perf_counter() - started
    return result


def _case(rng: random.Random) -> Case:
    names = list(bases())
    with_bodies = names[: names.index("cancel")]
    base = rng.choice(with_bodies if rng.random() < 0.85 else names)
    count = rng.choice((0, 1, 1, 1, 2, 2, 3, 4))
    chosen = rng.choices(list(WEIGHTS), [weight for _, weight in WEIGHTS.values()], k=count)
    return Case(base, tuple((name, rng.randrange(2**32)) for name in chosen))


def _send(connection: Connection, target: Target, case: Case) -> tuple[Draft, Exchange]:
    draft = case.draft(MUTATIONS)
    if not draft.whole and draft.method in ("HEAD", "CONNECT"):
        draft.method = _PROBE  # nobody could tell where its answer ends, if something else is answered first
    host, port = target.address
    payload = draft.render(f"{host}:{port}", target.key)
    methods: Sequence[str] = [draft.method]
    if draft.before or draft.after:
        methods = [*[_PROBE] * draft.before.count(b"GET "), draft.method, *[_PROBE] * draft.after.count(b"GET ")]
    exchange = connection.exchange(payload, methods, whole=draft.whole)
    if draft.whole and not exchange.answers and not exchange.hung:  # an idle connection that the server had closed
        connection.close()
        exchange = connection.exchange(payload, methods, whole=True)
    return draft, exchange


def _wrong(draft: Draft, exchange: Exchange, target: Target, part: str) -> list[tuple[str, str]]:
    limit_s = _patience_s(part) / 2
    wrong = [found for answer in exchange.answers for found in judge(answer, secret=target.key, max_seconds=limit_s)]
    if exchange.hung:
        wrong.append(("hang", "neither answered nor closed in time"))
    elif draft.whole and not exchange.answers:
        wrong.append(("no answer", "closed without an answer"))
    return wrong


def _patience_s(part: str) -> float:
    return _DRAWN_S if part == "model" else 2 * MAX_SECONDS


def _smallest(case: Case, kind: str, target: Target, part: str) -> Case:
    """The case with as few mutations as still show the same kind of thing."""
    if kind in ("slow", "hang"):
        return case
    for smaller in case.smaller():
        connection = Connection(target.address, timeout_s=_patience_s(part))
        draft, exchange = _send(connection, target, smaller)
        connection.close()
        if kind in [found for found, _ in _wrong(draft, exchange, target, part)]:
            return _smallest(smaller, kind, target, part)
    return case


def _shown(case: Case, target: Target) -> str:
    """The bytes without the key; long ones packed."""
    sent = case.draft(MUTATIONS).render("127.0.0.1", "KEY")
    return repr(sent) if len(sent) < 4000 else "zlib, base64: " + base64.b64encode(zlib.compress(sent, 9)).decode()
