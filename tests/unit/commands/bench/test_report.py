"""The report of ``darkroom bench``: figures as they were, in one file."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from server.commands.bench import report
from server.commands.bench.load import LoadResult, Sample
from server.commands.bench.mix import Mix, make_asks
from tests.unit.commands.bench.stub import EVERYTHING, Stub, run


def test_latencies_are_told_as_they_were() -> None:
    asks = make_asks(Mix(), 5, 1)
    samples = tuple(Sample(ask, 1.0, 1.0 + 0.1 * i, 2.0 + i) for i, ask in enumerate(asks))
    samples += (Sample(asks[0], 1.0, None, 6.0, "503 queue_full"),)
    shown = dict(report.figures(LoadResult("", samples, None)))
    assert shown["pictures a second"] == "1.00"  # five in the five seconds from 1 to 6
    assert shown["latency, mean"] == "3.00 s"
    assert shown["latency, p50"] == "3.00 s"
    assert shown["latency, p95"] == "4.80 s"
    assert shown["time to first step, p50"] == "200 ms"
    assert shown["time to first step, p95"] == "380 ms"
    assert "denoiser rows a batch" not in shown


@pytest.mark.anyio
async def test_what_a_step_costs_is_told_as_the_server_has_learnt_it() -> None:
    result = await run(Stub(), make_asks(EVERYTHING, 3, 1))
    shown = dict(report.figures(result))
    assert shown["step of m"] == "3.1 ms + 1.2 ms a row of 4096 pixels, at most 48 rows (learnt from 900 steps)"
    assert "step of n" not in shown
    guessed = replace(result, steps={"m": replace(result.steps["m"], guess=True)})
    assert dict(report.figures(guessed))["step of m"].endswith("(a guess)")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.foreign += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]


@pytest.mark.anyio
async def test_the_report_is_one_file_with_four_plots() -> None:
    text = report.page(await run(Stub(), make_asks(EVERYTHING, 30, 1)))
    page = _Page()
    page.feed(text)
    assert page.tags.count("svg") == 4
    assert page.tags.count("circle") == 2 * 30
    assert page.foreign == []
    assert "url(" not in text
    assert "the &lt;load&gt;" in text
