"""Does leaving out steps come nearer to the converged picture than drawing fewer? By sampler, at as many forwards.

    nice python -m bench.step_cache                       # all figures: half an hour on two quiet cores
    python -m bench.step_cache --kinds v --steps 20

The nets, prompts and measures are those of bench/solvers.py, and what it drew is taken from where it keeps it. Each
prompt has a step cache of its own, as each run has. Nothing is timed. Writes bench/out/step_cache.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from bench import tables
from bench.solvers import CONVERGED, GUIDANCE, KEPT, KINDS, PROMPTS, SEED, Net, median, sheet
from pipelines.engine.step_cache import StepCache
from pipelines.facts import step_cache
from pipelines.facts.spacing import DENSE_START, MIN_DENSE_STEPS
from pipelines.models.loader import quiet_libraries
from pipelines.pictures.likeness import psnr, ssim

STEPS = (16, 20, 30, 50)
STRENGTHS = (0.5, 1.0)
_NET = "net"


def draw(
    net: Net, sampler: str, steps: int, strength: float, stepped: Callable[[], object]
) -> tuple[torch.Tensor, list[int]]:
    """The latents, and how many forwards each took."""
    scheduler = net.schedule(sampler, steps)
    caches = [
        StepCache(lambda count: step_cache.rule(type(scheduler).__name__, scheduler.config, count, strength))
        for _ in PROMPTS
    ]
    times = [float(time) / 1000 for time in scheduler.timesteps]
    noise = [torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(SEED + n)) for n in range(len(PROMPTS))]
    latents = torch.cat(noise) * getattr(scheduler, "init_noise_sigma", 1.0)
    forwards = [0] * len(PROMPTS)
    for cache in caches:
        cache.told(times)
    for step, timestep in enumerate(scheduler.timesteps):
        rows = latents
        if hasattr(scheduler, "scale_model_input"):
            rows = scheduler.scale_model_input(latents, timestep)
        answers: list[torch.Tensor | None] = []
        for cache in caches:
            question = cache.question()
            cache.decide(None if question is None else float(question.number))
            answers.append(cache.answer(_NET))
        computed = [n for n, answer in enumerate(answers) if answer is None]
        if computed:
            outputs = net.ask(rows, float(timestep), computed)
            for n, output in zip(computed, outputs, strict=True):
                caches[n].keep(_NET, output, is_main=True)
                answers[n] = output
                forwards[n] += 1
        for cache in caches:
            cache.stepped(step + 1, steps)
        both = torch.stack([answer for answer in answers if answer is not None], dim=1)
        output = both[0] + GUIDANCE * (both[1] - both[0])
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
        stepped()
    return latents, forwards


def run(kind: str, samplers: Sequence[str], steps: Sequence[int], sheet_path: Path | None, progress: Progress) -> str:
    net = Net(kind)
    converged_net = "flow3" if net.is_flow else kind
    bar = progress.add_task(kind, total=None)

    def plain(sampler: str, count: int, spacing: str = "default", of: str = kind) -> torch.Tensor:
        file = KEPT / f"{of}-{sampler}-{spacing}-{count}.safetensors"
        if not file.exists():
            latents = (net if of == kind else Net(of)).draw(sampler, count, spacing, lambda: progress.advance(bar))
            save_file({"latents": latents.contiguous()}, file)
        return net.decode(load_file(file)["latents"])

    converged = plain(KINDS[kind][-1], CONVERGED, of=converged_net)
    rows, shown = [], {}
    for sampler in (sampler for sampler in KINDS[kind] if sampler in samplers):
        for count in steps:
            full = plain(sampler, count)
            for strength in STRENGTHS:
                latents, forwards = draw(net, sampler, count, strength, lambda: progress.advance(bar))
                pictures = net.decode(latents)
                spent = sum(forwards) / len(forwards)
                as_many = math.ceil(spent - 1e-9)
                fewer = plain(sampler, as_many)
                dense = plain(sampler, as_many, DENSE_START) if as_many >= MIN_DENSE_STEPS else fewer
                near, than = psnr(pictures, converged), psnr(fewer, converged)
                wins = sum(ours > theirs for ours, theirs in zip(near, than, strict=True))
                dense_wins = sum(a > b for a, b in zip(near, psnr(dense, converged), strict=True))
                if count == 30:
                    shown[f"{sampler} {strength}"] = pictures
                rows.append(
                    (
                        f"`{sampler}`, {count}",
                        f"{strength:g}",
                        f"{spent:.1f}",
                        _told(full, converged),
                        _told(pictures, converged),
                        f"{_told(fewer, converged)}, {wins}",
                        f"{_told(dense, converged)}, {dense_wins}",
                    )
                )
    if sheet_path is not None and shown:
        order = sorted(range(len(PROMPTS)), key=psnr(next(iter(shown.values())), converged).__getitem__)
        chosen = [order[0], order[len(order) // 4], order[len(order) // 2]]
        sheet(converged, shown, chosen).save(sheet_path.with_stem(f"{sheet_path.stem}-{kind}"))
        progress.console.print(f"{kind}: converged, {', '.join(shown)}: {[PROMPTS[n] for n in chosen]}")
    head = (kind, "strength", "forwards", "all steps", "left out", "fewer steps, beaten by", "dense start, beaten by")
    return tables.table(head, rows)


def _told(pictures: torch.Tensor, converged: torch.Tensor) -> str:
    return f"{median(psnr(pictures, converged)):.1f} ({median(ssim(pictures, converged)):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--samplers", nargs="+", default=[sampler for kind in KINDS.values() for sampler in kind])
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--sheet", type=Path, metavar="PATH", help="pictures of 30 steps; KIND is added")
    arguments = parser.parse_args()
    quiet_libraries()
    KEPT.mkdir(parents=True, exist_ok=True)
    found = []
    with torch.inference_mode(), Progress() as progress:
        for kind in arguments.kinds:
            found.append(run(kind, arguments.samplers, arguments.steps, arguments.sheet, progress))
            print(found[-1], flush=True)
    (tables.OUT / "step_cache.md").write_text(f"{tables.machine()}\n\n" + "\n\n".join(found) + "\n")


if __name__ == "__main__":
    main()
