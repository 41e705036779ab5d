"""The report of ``darkroom bench``: one HTML page that needs no other file, with figures, and plots in SVG.

Knows the result and how to draw it; sends nothing. A page of which no request was answered has no plots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from server.commands.bench.load import LoadResult, Sample, StepCurve

_WIDTH, _HEIGHT = 720, 260  # of a plot, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40  # margins
_COLOUR = "#7a828c"  # of a series that is no task's
_COLOURS = {"t2i": "#2f6fde", "i2i": "#d9822b", "inpaint": "#2e9e6b"}
_BINS = 48

Points = Sequence[tuple[float, float]]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
code { overflow-wrap: anywhere; }
table { border-collapse: collapse; } td { padding: .2rem 1.5rem .2rem 0; border-bottom: 1px solid #8884; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.axis { stroke: currentColor; opacity: .6; } .grid { stroke: currentColor; opacity: .15; }
.key { margin-right: 1rem; }
"""


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of ``values`` (not empty), interpolated between the two nearest."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def figures(result: LoadResult) -> list[tuple[str, str]]:
    """Names and values, for the screen and for the page."""
    good = result.good
    pictures = sum(sample.ask.pictures for sample in good)
    rows = [
        ("requests answered", f"{len(good)} of {len(result.samples)}"),
        ("pictures", str(pictures)),
        ("pictures a second", f"{result.pictures_per_s:.2f}"),
    ]
    if good:
        latencies = [sample.latency_s for sample in good]
        rows += [
            ("latency, mean", _seconds(sum(latencies) / len(latencies))),
            ("latency, p50", _seconds(percentile(latencies, 50))),
            ("latency, p95", _seconds(percentile(latencies, 95))),
        ]
    waits = [sample.wait_s for sample in good if sample.wait_s is not None]
    if waits:
        rows += [
            ("time to first step, p50", _seconds(percentile(waits, 50))),
            ("time to first step, p95", _seconds(percentile(waits, 95))),
        ]
    if result.rows_per_batch is not None:
        rows.append(("denoiser rows a batch", f"{result.rows_per_batch:.1f}"))
    rows += [(f"step of {model}", _step(step)) for model, step in sorted(result.steps.items())]
    rows += [(f"error: {code}", str(count)) for code, count in sorted(result.errors.items())]
    return rows


def _step(step: StepCurve) -> str:
    learnt = "a guess" if step.guess else f"learnt from {step.steps} steps"
    return (
        f"{step.fixed_ms:.1f} ms + {step.row_ms:.1f} ms a row of {step.pixels} pixels, at most {step.most_rows} rows "
        f"({learnt})"
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def page(result: LoadResult) -> str:
    """The whole report."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in figures(result))
    plots = _plots(result.good) if result.good else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Darkroom bench</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Darkroom bench</h1>\n<p><code>{escape(result.command)}</code></p>\n"
        f"<table>{rows}</table>\n{plots}</body></html>\n"
    )


def _plots(good: Sequence[Sample]) -> str:
    tasks = [task for task in _COLOURS if any(sample.ask.task == task for sample in good)]
    by_task = {task: [sample for sample in good if sample.ask.task == task] for task in tasks}
    keys = " ".join(f'<span class="key" style="color:{_COLOURS[task]}">● {task}</span>' for task in tasks)
    latency = {task: [(s.sent_s, s.latency_s) for s in samples] for task, samples in by_task.items()}
    work = {task: [(_steps(s), s.latency_s) for s in samples] for task, samples in by_task.items()}
    spread = {task: _cumulative([s.latency_s for s in samples]) for task, samples in by_task.items()}
    return "\n".join(
        (
            f"<p>{keys}</p>",
            "<h2>Latency of each request</h2>",
            plot(latency, _dots, "sent at, s", "latency, s"),
            "<h2>Latency against the steps asked for</h2>",
            plot(work, _dots, "steps × pictures", "latency, s"),
            "<h2>Share of requests answered within</h2>",
            plot(spread, _line, "latency, s", "% of requests"),
            "<h2>Pictures a second</h2>",
            plot({"all": _rate(good)}, _bars, "time, s", "pictures/s"),
        )
    )


def _steps(sample: Sample) -> float:
    return float(sample.ask.body["num_inference_steps"]) * sample.ask.pictures


def _cumulative(latencies: Sequence[float]) -> Points:
    return [(0.0, 0.0), *((value, 100 * (i + 1) / len(latencies)) for i, value in enumerate(sorted(latencies)))]


def _rate(good: Sequence[Sample]) -> Points:
    """Pictures a second in each of equal bins; a point is a bin's end."""
    bins = min(_BINS, max(1, len(good) // 2))
    width = max(sample.done_s for sample in good) / bins or 1.0
    made = [0.0] * bins
    for sample in good:
        made[min(bins - 1, int(sample.done_s / width))] += sample.ask.pictures / width
    return [((index + 1) * width, value) for index, value in enumerate(made)]


# Drawing. A mark turns a series' points, already in the plot's units, into SVG.

Mark = Callable[[Points, str], str]


def plot(series: Mapping[str, Points], mark: Mark, x_name: str, y_name: str) -> str:
    """One plot with both axes from zero; ``series`` by the task that it is of."""
    x_ticks = _ticks(max(x for points in series.values() for x, _ in points))
    y_ticks = _ticks(max(y for points in series.values() for _, y in points))

    def at_x(x: float) -> float:
        return round(_LEFT + x / x_ticks[-1] * (_WIDTH - _LEFT - _RIGHT), 1)

    def at_y(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - y / y_ticks[-1] * (_HEIGHT - _TOP - _BOTTOM), 1)

    floor = at_y(0)
    parts = [f'<line class="axis" x1="{_LEFT}" y1="{floor}" x2="{_WIDTH - _RIGHT}" y2="{floor}"/>']
    for x in x_ticks:
        parts.append(f'<text x="{at_x(x)}" y="{floor + 16}" text-anchor="middle">{x:g}</text>')
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at_y(y)}" x2="{_WIDTH - _RIGHT}" y2="{at_y(y)}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at_y(y) + 4}" text-anchor="end">{y:g}</text>')
    middle = (_HEIGHT - _BOTTOM) / 2
    parts.append(f'<text x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
    for name, points in series.items():
        parts.append(mark([(at_x(x), at_y(y)) for x, y in points], _COLOURS.get(name, _COLOUR)))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_name)}">{"".join(parts)}</svg>'


def _ticks(most: float) -> list[float]:
    """About five round numbers from 0 to at least ``most``."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [round(i * step, 12) for i in range(math.ceil(most / step - 1e-9) + 1)]


def _dots(points: Points, colour: str) -> str:
    return "".join(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}" fill-opacity=".7"/>' for x, y in points)


def _line(points: Points, colour: str) -> str:
    """In steps: level until the next point, then up."""
    path = f"M{points[0][0]} {points[0][1]}" + "".join(f"H{x}V{y}" for x, y in points[1:])
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _bars(points: Points, colour: str) -> str:
    floor, left, bars = _HEIGHT - _BOTTOM, float(_LEFT), []
    for x, y in points:
        bars.append(
            f'<rect x="{left + 1:.1f}" y="{y}" width="{max(1.0, x - left - 2):.1f}" height="{floor - y:.1f}" '
            f'fill="{colour}" fill-opacity=".8"/>'
        )
        left = x
    return "".join(bars)
