"""The part of fuzz_api that makes requests from openapi.json, and compares the answers with it.

schemathesis makes them, of fields as the document describes them and of fields that it rules out, and checks statuses,
content types, headers and the shape of answers. What the document rules out may be accepted: lenience is meant, and
openapi.json describes the canonical form only.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from functools import cache
from typing import Any

import httpx
import hypothesis
import hypothesis.errors
import requests
import schemathesis
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup

from tests.reliability.judging import judge
from tests.reliability.raw_http import Answer
from tests.reliability.record import Batch
from tests.reliability.servers import Target

SIZE = 200  # requests of a batch
_BODY_EXAMPLES, _OTHER_EXAMPLES = 20, 7  # of each operation; those with a body have far more to try
_TIMEOUT_S = 20.0
_CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def batch(target: Target, seed: int, index: int) -> Batch:
    """Ask every operation some times: with what the document allows in even batches, with what it rules out in odd."""
    result = Batch("schema", index)
    started = time.perf_counter()
    session = requests.Session()
    session.trust_env = False
    mode = schemathesis.GenerationMode.NEGATIVE if index % 2 else schemathesis.GenerationMode.POSITIVE
    operations = _operations(target)
    for operation in operations:
        has_body = operation.method.upper() == "POST"
        _try(operation, mode, result, target, session, seed, _BODY_EXAMPLES if has_body else _OTHER_EXAMPLES)
    # What others had nothing left to try for.
    _try(operations[0], mode, result, target, session, seed + 1, SIZE - result.done)
    session.close()
    result.seconds = time.perf_counter() - started
    return result


@cache
def _operations(target: Target) -> list[Any]:
    document = (
        httpx.get(f"{target.url}/openapi.json", headers=target.headers, trust_env=False).raise_for_status().json()
    )
    found = [row.ok() for row in schemathesis.openapi.from_dict(document).get_all_operations()]
    return sorted(found, key=lambda operation: operation.path != "/v1/images/generations")


def _try(
    operation: Any, mode: Any, result: Batch, target: Target, session: requests.Session, seed: int, examples: int
) -> None:
    if examples <= 0:
        return
    checks = CHECKS.get_by_names(_CHECKS)

    @hypothesis.seed(zlib.crc32(f"{seed} {result.index} {operation.label}".encode()))
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        sent = time.perf_counter()
        try:
            answer = case.call(base_url=target.url, headers=target.headers, session=session, timeout=_TIMEOUT_S)
        except (requests.RequestException, OSError) as error:
            result.add("no answer", f"{operation.label}: {type(error).__name__}", _shown(case))
            return
        result.done += 1
        result.counts[str(answer.status_code)] += 1
        headers = {name.lower(): value[0] for name, value in answer.headers.items()}
        plain = Answer(operation.method.upper(), answer.status_code, headers, answer.content or b"")
        plain.seconds = time.perf_counter() - sent
        for kind, detail in judge(plain, secret=target.key):
            result.add(kind, f"{operation.label}: {detail}", _shown(case))
        if str(answer.status_code) not in operation.definition.raw["responses"]:
            result.add("openapi: status not listed", f"{operation.label}: {answer.status_code}", _shown(case))
        try:
            case.validate_response(answer, checks=checks, headers=target.headers)
        except FailureGroup as group:
            for failure in group.exceptions:
                detail = f"{operation.label}: {answer.status_code}: {' '.join(str(failure).split())}"
                result.add(f"openapi: {failure.title}", detail, _shown(case))

    with contextlib.suppress(hypothesis.errors.Unsatisfiable, hypothesis.errors.InvalidArgument):
        ask()  # or it has nothing that could be ruled out


def _shown(case: Any) -> str:
    return str(case.as_curl_command())
