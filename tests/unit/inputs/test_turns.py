"""Turns at few places, and decoders that are shared by them."""

from __future__ import annotations

import threading
import time
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from server.errors import BadImage
from server.inputs import decoders as decoders_module
from server.inputs.decoders import Decoders
from server.inputs.turns import FairTurns

pytestmark = pytest.mark.anyio


async def test_one_principal_never_holds_every_place() -> None:
    turns = FairTurns(3, per_principal=2)
    release, holding = anyio.Event(), []

    async def hold(principal: str) -> None:
        async with turns.turn(principal):
            holding.append(principal)
            await release.wait()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(hold, "a")
        await anyio.wait_all_tasks_blocked()
        assert holding == ["a", "a"]
        group.start_soon(hold, "b")
        await anyio.wait_all_tasks_blocked()
        assert holding == ["a", "a", "b"]
        release.set()
    assert sorted(holding) == ["a"] * 5 + ["b"]


async def test_turns_go_round_the_principals() -> None:
    turns, order = FairTurns(1, per_principal=1), []

    async def take(principal: str) -> None:
        async with turns.turn(principal):
            order.append(principal)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for principal in "aaaabc":
            group.start_soon(take, principal)
    assert order.index("c") <= 3, "a key with one request waits for one round, not for the whole of another's"


async def test_places_come_back_from_those_who_leave() -> None:
    """While they wait, while they hold, and in the very moment that their turn comes."""
    turns = FairTurns(1, per_principal=1)
    for pause in (0, 1, 2):
        async with anyio.create_task_group() as group:
            scopes: list[anyio.CancelScope] = []

            async def take(principal: str, scopes: list[anyio.CancelScope] = scopes) -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    async with turns.turn(principal):
                        await anyio.sleep(0.01)

            for principal in "aabb":
                group.start_soon(take, principal)
            for _ in range(pause):
                await anyio.sleep(0.005)
            await anyio.lowlevel.checkpoint()
            for scope in scopes[:3]:
                scope.cancel()
        with anyio.fail_after(1):
            async with turns.turn("c"):
                pass


async def test_uploads_of_one_key_do_not_make_another_wait_for_a_decoder() -> None:
    """Four uploads held both decoders, and another key's edit waited 63 s."""
    decoders, free = Decoders(), threading.Event()
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(partial(decoders.decoding("greedy").run, lambda: free.wait(10), param="image"))
        await anyio.sleep(0.05)
        with anyio.fail_after(1):
            assert await decoders.decoding("honest").run(lambda: "decoded", param="image") == "decoded"
        free.set()


async def test_the_pictures_of_one_request_share_a_bound_on_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_module, "MAX_DECODING_S", 0.02)

    def work() -> None:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass

    decoders = Decoders()
    decoding = decoders.decoding("a")
    await decoding.run(work, param="image")
    with pytest.raises(BadImage, match=r"^image: the pictures of this request take more than 0.02 s to decode\. Send"):
        await decoding.run(work, param="image")
    await decoders.decoding("a").run(work, param="image")  # another request has its own time


async def test_a_refused_picture_gives_its_place_back() -> None:
    decoders = Decoders()

    def refuse() -> None:
        raise BadImage("image: no.", param="image")

    for _ in range(10):
        with pytest.raises(BadImage):
            await decoders.decoding("a").run(refuse, param="image")
    assert await decoders.decoding("a").run(lambda: 1, param="image") == 1
