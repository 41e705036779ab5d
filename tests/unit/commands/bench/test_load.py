"""The load of ``darkroom bench``: what it sends, and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from server.commands.bench import report
from server.commands.bench.mix import Mix, make_asks
from tests.unit.commands.bench.stub import Body, Stub, event, run, told

pytestmark = pytest.mark.anyio


async def test_closed_clients_wait_for_their_answers() -> None:
    stub = Stub()
    result = await run(stub, make_asks(Mix(), 12, 1), clients=3)
    assert stub.most_at_once == 3
    assert len(result.good) == len(stub.bodies) == 12


async def test_poisson_arrivals_wait_for_nobody() -> None:
    stub = Stub()
    result = await run(stub, make_asks(Mix(), 12, 1), rate=50_000.0)
    assert stub.most_at_once > 3
    assert len(result.good) == 12


async def test_errors_are_counted_by_code_and_are_no_pictures() -> None:
    result = await run(Stub(refused=frozenset({0, 5})), make_asks(Mix(counts=(2,)), 8, 1))
    assert result.errors == {"503 queue_full": 2}
    assert dict(report.figures(result))["pictures"] == "12"
    assert dict(report.figures(result))["error: 503 queue_full"] == "2"


async def test_a_broken_connection_is_an_error_like_any() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    result = await run(broken, make_asks(Mix(), 3, 1))
    assert result.errors == {"ConnectError": 3}
    assert result.pictures_per_s == 0
    assert "<svg" not in report.page(result)


async def test_rows_a_batch_are_the_denoisers_since_the_load_began() -> None:
    assert (await run(Stub(), make_asks(Mix(), 5, 1))).rows_per_batch == 6.0


async def test_the_first_step_is_told_from_the_last() -> None:
    """What was shown was the time to the answer's first byte, which came when all was drawn."""

    async def slow(body: Body) -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n" + told(0)
        await asyncio.sleep(0.05)
        whole = told(1)
        yield whole[:20]  # events come in whatever pieces
        yield whole[20:]
        await asyncio.sleep(0.2)
        yield told(4) + event("image_generation.completed", index=0)

    stub = Stub(answer=slow)
    (sample,) = (await run(stub, make_asks(Mix(), 1, 1))).samples
    assert not sample.error
    assert sample.first_step_s is not None
    assert 0.05 <= sample.first_step_s - sample.sent_s < sample.latency_s - 0.15
    assert stub.bodies[0]["stream"] is stub.bodies[0]["stream_progress"] is True


async def test_a_drawing_that_fails_on_the_way_is_an_error_with_its_code() -> None:
    async def failing(body: Body) -> AsyncIterator[bytes]:
        yield told(1)
        yield event("error", error={"code": "out_of_device_memory"})

    result = await run(Stub(answer=failing), make_asks(Mix(), 2, 1))
    assert result.errors == {"200 out_of_device_memory": 2}


async def test_too_few_pictures_are_an_error() -> None:
    async def short(body: Body) -> AsyncIterator[bytes]:
        yield told(1)
        yield event("image_generation.completed", index=0)

    result = await run(Stub(answer=short), make_asks(Mix(counts=(2,)), 1, 1))
    assert result.errors == {"1 of 2 pictures": 1}
