"""``darkroom bench`` against a server that is not there: what it sends, what it counts, what it shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import httpx
import pytest
from rich.progress import Progress

from server.cli import main
from server.commands.bench import load, report
from server.commands.bench.load import Ask, Mix, Outcome, Result

EVERYTHING = Mix(
    sizes=("256x256", "512x512"), steps=(4, 9), guidance=(1.0, 5.0), tasks=load.TASKS, counts=(1, 2), model="m"
)


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def told(done: int) -> bytes:
    return event("darkroom.progress", state="running" if done else "queued", done=done, of=4)


Body = dict[str, object]
Story = Callable[[Body], AsyncIterator[bytes]]


class Stub:
    """Answers every request at once: the numbers in ``refused`` with 503, the others with ``story``, by default the
    news of a step and pictures."""

    def __init__(self, refused: frozenset[int] = frozenset(), story: Story | None = None) -> None:
        self.bodies: list[dict[str, object]] = []
        self.keys: set[str | None] = set()
        self.most_at_once = 0
        self._refused = refused
        self._story = story or drawn
        self._at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            lines = [f'darkroom_engine{{counter="unet_forwards"}} {10.0 + len(self.bodies)}']
            lines += [f'darkroom_engine{{counter="unet_rows"}} {20.0 + 6 * len(self.bodies)}']
            lines += ['darkroom_engine{counter="vae_forwards"} 999.0', 'darkroom_engine{counter="vae_rows"} 999.0']
            return httpx.Response(200, text="\n".join(lines))
        self.keys.add(request.headers.get("authorization"))
        number = len(self.bodies)
        self.bodies.append(json.loads(request.content))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0.002)
        self._at_once -= 1
        if number in self._refused:
            return httpx.Response(503, json={"error": {"code": "queue_full"}})
        return httpx.Response(200, content=self._story(self.bodies[number]))


async def drawn(body: Body) -> AsyncIterator[bytes]:
    for done in range(3):
        yield told(done)
    for index in range(cast(int, body["n"])):
        yield event("image_edit.completed" if "image" in body else "image_generation.completed", index=index)


def run(stub: Callable[..., object], asks: list[Ask], *, clients: int = 3, rate: float | None = None) -> Result:
    async def go() -> Result:
        transport = httpx.MockTransport(stub)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://stub") as client:
            with Progress(disable=True) as progress:
                return await load.run(
                    client, asks, clients=clients, rate=rate, seed=1, command="the <load>", progress=progress
                )

    return asyncio.run(go())


def test_the_same_seed_sends_the_same_requests() -> None:
    assert load.make_asks(EVERYTHING, 20, 7) == load.make_asks(EVERYTHING, 20, 7)
    assert load.make_asks(EVERYTHING, 20, 7) != load.make_asks(EVERYTHING, 20, 8)


def test_a_mix_asks_for_everything_in_it() -> None:
    asks = load.make_asks(EVERYTHING, 200, 1)
    bodies = [ask.body for ask in asks]
    assert {body["size"] for body in bodies} == {"256x256", "512x512"}
    assert {body["num_inference_steps"] for body in bodies} == {4, 5, 6, 7, 8, 9}
    assert {body["guidance_scale"] for body in bodies} == {1.0, 5.0}
    assert {body["n"] for body in bodies} == {1, 2}
    for ask in asks:
        assert ("image" in ask.body, "mask" in ask.body) == (ask.task != "t2i", ask.task == "inpaint")


def test_closed_clients_wait_for_their_answers() -> None:
    stub = Stub()
    result = run(stub, load.make_asks(Mix(), 12, 1), clients=3)
    assert stub.most_at_once == 3
    assert len(result.good) == len(stub.bodies) == 12


def test_poisson_arrivals_wait_for_nobody() -> None:
    stub = Stub()
    result = run(stub, load.make_asks(Mix(), 12, 1), rate=50_000.0)
    assert stub.most_at_once > 3
    assert len(result.good) == 12


def test_errors_are_counted_by_code_and_are_no_pictures() -> None:
    result = run(Stub(refused=frozenset({0, 5})), load.make_asks(Mix(counts=(2,)), 8, 1))
    assert result.errors == {"503 queue_full": 2}
    assert dict(report.figures(result))["pictures"] == "12"
    assert dict(report.figures(result))["error: 503 queue_full"] == "2"


def test_a_broken_connection_is_an_error_like_any() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    result = run(broken, load.make_asks(Mix(), 3, 1))
    assert result.errors == {"ConnectError": 3}
    assert result.pictures_per_s == 0
    assert "<svg" not in report.page(result)


def test_rows_a_batch_are_the_denoisers_since_the_load_began() -> None:
    assert run(Stub(), load.make_asks(Mix(), 5, 1)).rows_per_batch == 6.0


def test_latencies_are_told_as_they_were() -> None:
    asks = load.make_asks(Mix(), 5, 1)
    outcomes = tuple(Outcome(ask, 1.0, 1.0 + 0.1 * i, 2.0 + i) for i, ask in enumerate(asks))
    outcomes += (Outcome(asks[0], 1.0, None, 6.0, "503 queue_full"),)
    shown = dict(report.figures(Result("", outcomes, None)))
    assert shown["pictures a second"] == "1.00"  # five in the five seconds from 1 to 6
    assert shown["latency, mean"] == "3.00 s"
    assert shown["latency, p50"] == "3.00 s"
    assert shown["latency, p95"] == "4.80 s"
    assert shown["time to first step, p50"] == "200 ms"
    assert shown["time to first step, p95"] == "380 ms"
    assert "denoiser rows a batch" not in shown


def test_the_first_step_is_told_from_the_last() -> None:
    """What was shown was the time to the answer's first byte, which came when all was drawn."""

    async def slow(body: Body) -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n" + told(0)
        await asyncio.sleep(0.05)
        whole = told(1)
        yield whole[:20]  # events come in whatever pieces
        yield whole[20:]
        await asyncio.sleep(0.2)
        yield told(4) + event("image_generation.completed", index=0)

    stub = Stub(story=slow)
    (outcome,) = run(stub, load.make_asks(Mix(), 1, 1)).outcomes
    assert not outcome.error
    assert outcome.first_step_s is not None
    assert 0.05 <= outcome.first_step_s - outcome.sent_s < outcome.latency_s - 0.15
    assert stub.bodies[0]["stream"] is stub.bodies[0]["stream_progress"] is True


def test_a_drawing_that_fails_on_the_way_is_an_error_with_its_code() -> None:
    async def failing(body: Body) -> AsyncIterator[bytes]:
        yield told(1)
        yield event("error", error={"code": "out_of_device_memory"})

    result = run(Stub(story=failing), load.make_asks(Mix(), 2, 1))
    assert result.errors == {"200 out_of_device_memory": 2}


def test_too_few_pictures_are_an_error() -> None:
    async def short(body: Body) -> AsyncIterator[bytes]:
        yield told(1)
        yield event("image_generation.completed", index=0)

    result = run(Stub(story=short), load.make_asks(Mix(counts=(2,)), 1, 1))
    assert result.errors == {"1 of 2 pictures": 1}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.foreign += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]


def test_the_report_is_one_file_with_four_plots() -> None:
    text = report.page(run(Stub(), load.make_asks(EVERYTHING, 30, 1)))
    page = _Page()
    page.feed(text)
    assert page.tags.count("svg") == 4
    assert page.tags.count("circle") == 2 * 30
    assert page.foreign == []
    assert "url(" not in text
    assert "the &lt;load&gt;" in text


def test_the_command_says_when_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "http://127.0.0.1:9", "--requests", "1", "--out", str(tmp_path / "bench.html")])
    assert ended.value.code == 2
    assert "nobody answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "t2v"], "--tasks"),
        (["--rate", "0"], "--rate"),
        (["--guidance", "x"], "--guidance"),
        (["--steps", "9-4"], "--steps"),
        (["--key", "@/no/such/file"], "--key"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *flags])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
