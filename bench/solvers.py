"""How near a sampler and a spacing come to the converged picture, at as many forwards.

    nice python -m bench.solvers                      # all figures: half an hour to an hour on two cores
    python -m bench.solvers --kinds v --steps 8 15    # some of them
    python -m bench.solvers --sheet sheet.png         # and what eyes see of it, for each kind one file

The weights that ship draw 24 prompts, each with its own noise, with the schedulers that the engine makes. They are one
net in two guises that are exact changes of variables of each other: ``v`` as trained (velocity of a schedule of noise),
and ``flow`` as a rectified flow, whose levels are shifted by 1 or 3 (``flow``, ``flow3``), as FLUX's pipelines bring
them. A step is one forward of both rows of guidance. Converged is what 120 steps of a solver of order 2 or more give.

Nothing is timed: a busy machine gives the same figures. Writes bench/out/solvers.md, and keeps what it drew beside it,
in bench/out/solvers/: remove that where the schedulers have changed.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from bench import tables
from pipelines.engine.spacing import densify
from pipelines.engine.view import make_scheduler
from pipelines.facts.spacing import DENSE_START, SPACINGS
from pipelines.models.loader import quiet_libraries
from pipelines.pictures.likeness import psnr, ssim

KEPT = tables.OUT / "solvers"  # latents that are drawn
WEIGHTS = Path(__file__).parents[1] / "weights" / "darkroom-mini"
PROMPTS = (
    "a cat", "a rocket", "a red apple", "a castle", "a guitar", "a dog on a blue background", "a ship at sunset",
    "一隻貓", "two dogs", "three bananas", "an owl above a tree", "a fox with a hat", "a car in the snow", "a pizza",
    "an elephant on a yellow background", "a teapot", "a bicycle", "a robot", "a mushroom in the forest", "a snail",
    "a lion and a crown", "a piano", "a strawberry", "an airplane at night",
)  # fmt: skip
STEPS = (8, 12, 15, 18, 22, 30)
GUIDANCE, SEED = 2.5, 100
CONVERGED = 120  # steps
NOISE = ("ddim", "euler", "dpmpp_2m", "unipc")
FLOW = ("flow_euler", "flow_dpmpp_2m", "flow_unipc")
KINDS = {"v": NOISE, "flow": FLOW, "flow3": FLOW}
SHIFTS = {"flow": 1.0, "flow3": 3.0}
TRAINED = 1000  # timesteps
SHEET_STEPS = 12


class Net:
    """The weights that ship, asked as a model of one kind would be."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(
            WEIGHTS, local_files_only=True, torch_dtype=torch.float32
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.is_flow = kind in SHIFTS
        self.own = self.pipeline.scheduler
        if self.is_flow:
            self.own = diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFTS[kind])
        signal = self.pipeline.scheduler.alphas_cumprod.double()
        noise = (1 - signal).clamp(min=1e-12)
        self._log_ratio = 0.5 * (signal.clamp(min=1e-12).log() - noise.log())  # falls with the timestep
        positive, negative = self.pipeline.encode_prompt(
            list(PROMPTS), "cpu", 1, True, negative_prompt=[""] * len(PROMPTS)
        )
        self._embeds = torch.cat([negative, positive])
        self.pipeline.unet.to(memory_format=torch.channels_last)
        for name, module in self.pipeline.unet.named_modules():
            if name.endswith((".attn2.to_k", ".attn2.to_v")) or name == "add_embedding":
                self._remember(module)
        self.wanted: torch.Tensor | None = None  # rows; None: all

    def schedule(self, sampler: str, steps: int, spacing: str = "default") -> Any:
        scheduler = make_scheduler(self.own, sampler)
        if spacing == DENSE_START:
            densify(scheduler, steps)
        if self.is_flow:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
        else:
            scheduler.set_timesteps(steps)
        return scheduler

    def draw(self, sampler: str, steps: int, spacing: str, stepped: Callable[[], object]) -> torch.Tensor:
        """The latents (24, 4, 16, 16) of the pictures."""
        scheduler = self.schedule(sampler, steps, spacing)
        noise = [
            torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(SEED + n)) for n in range(len(PROMPTS))
        ]
        latents = torch.cat(noise) * getattr(scheduler, "init_noise_sigma", 1.0)
        for timestep in scheduler.timesteps:
            rows = latents
            if hasattr(scheduler, "scale_model_input"):
                rows = scheduler.scale_model_input(latents, timestep)
            without, told = self._ask(torch.cat([rows, rows]), float(timestep)).chunk(2)
            output = without + GUIDANCE * (told - without)
            latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
            stepped()
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The pictures (24, 3, 128, 128), 0..1."""
        vae = self.pipeline.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return (decoded / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]

    def ask(self, rows: torch.Tensor, timestep: float, chosen: Sequence[int]) -> list[torch.Tensor]:
        """What the net says of the chosen prompts' rows: (2, 4, 16, 16) each, without the prompt and with it."""
        whole = torch.cat([rows, rows])
        answer = self._ask(whole, timestep) if len(chosen) == len(PROMPTS) else self._ask_some(whole, timestep, chosen)
        return list(torch.stack(answer.chunk(2), dim=1))

    def _ask_some(self, rows: torch.Tensor, timestep: float, chosen: Sequence[int]) -> torch.Tensor:
        wanted = [*chosen, *(len(PROMPTS) + n for n in chosen)]
        self.wanted = torch.tensor(wanted)
        try:
            return self._ask(rows[self.wanted], timestep)
        finally:
            self.wanted = None

    def _ask(self, rows: torch.Tensor, timestep: float) -> torch.Tensor:
        if not self.is_flow:
            return self._velocity(rows, timestep)
        signal, noise, trained = self._place(timestep / TRAINED)
        rows = rows * (signal + noise)
        velocity = self._velocity(rows, trained)
        return (signal * velocity + noise * rows) - (signal * rows - noise * velocity)

    def _velocity(self, rows: torch.Tensor, timestep: float) -> torch.Tensor:
        embeds = self._embeds if self.wanted is None else self._embeds[self.wanted]
        asked = self.pipeline.unet(rows, torch.tensor(timestep), encoder_hidden_states=embeds, return_dict=False)
        answer: torch.Tensor = asked[0]
        return answer

    def _remember(self, module: torch.nn.Module) -> None:
        """What a module makes of the prompts is the same in every step: a third of the time."""
        forward = module.forward
        kept: list[torch.Tensor] = []

        def remembered(*args: Any) -> torch.Tensor:
            if not kept:  # first, all rows are asked for
                kept.append(forward(*args))
            return kept[0] if self.wanted is None else kept[0][self.wanted]

        module.forward = remembered

    def _place(self, level: float) -> tuple[float, float, float]:
        """Signal, noise and the net's own timestep at a level of the flow."""
        if level >= 1 - 1e-9:
            return 0.0, 1.0, TRAINED - 1.0
        ratio = math.log((1 - level) / level)
        above = int((self._log_ratio > ratio).sum())
        timestep = float(min(above, TRAINED - 1))
        if 0 < above < TRAINED:
            high, low = float(self._log_ratio[above - 1]), float(self._log_ratio[above])
            timestep = above - 1 + (high - ratio) / (high - low)
        signal = 1 / math.sqrt(1 + math.exp(-2 * ratio))
        return signal, math.sqrt(1 - signal * signal), timestep


@dataclass(frozen=True)
class Cell:
    """One sampler with one spacing at so many steps: how near each picture is to the converged one."""

    sampler: str
    spacing: str
    steps: int
    psnr: list[float]  # dB, by prompt
    ssim: list[float]


def median(values: Sequence[float]) -> float:
    return statistics.median_low(values)


def table(kind: str, cells: Sequence[Cell], steps: Sequence[int]) -> str:
    """Medians of PSNR and SSIM; for a dense start also of how many prompts it is nearer than the default."""
    found = {(cell.sampler, cell.spacing, cell.steps): cell for cell in cells}
    lines = [
        f"| {kind} | {' | '.join(f'{count} steps' for count in steps)} |",
        "|---|" + "--:|" * len(steps),
    ]
    for sampler in KINDS[kind]:
        for spacing in SPACINGS:
            row = [f"`{sampler}`" + (", dense start" if spacing == DENSE_START else "")]
            for count in steps:
                cell = found[sampler, spacing, count]
                text = f"{median(cell.psnr):.1f} ({median(cell.ssim):.4f})"
                if spacing == DENSE_START:
                    plain = found[sampler, "default", count]
                    nearer = sum(ours > theirs for ours, theirs in zip(cell.psnr, plain.psnr, strict=True))
                    text += f", {nearer}"
                row.append(text)
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def sheet(converged: torch.Tensor, drawn: dict[str, torch.Tensor], prompts: Sequence[int]) -> Image.Image:
    """A row a prompt: the converged picture, then what each of ``drawn`` made of it."""
    rows = [torch.cat([each[n] for each in (converged, *drawn.values())], dim=2) for n in prompts]
    pixels = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def run(kind: str, steps: Sequence[int], sheet_path: Path | None, progress: Progress) -> str:
    net = Net(kind)
    *_, other, last = KINDS[kind]
    plan = [(sampler, spacing, count) for count in steps for sampler in KINDS[kind] for spacing in SPACINGS]
    bar = progress.add_task(kind, total=CONVERGED * 3 // 2 + sum(count for _, _, count in plan))

    def draw(sampler: str, count: int, spacing: str = "default", net: Net = net) -> torch.Tensor:
        # Kept, as it takes long: a bench that was broken off goes on where it was.
        file = KEPT / f"{net.kind}-{sampler}-{spacing}-{count}.safetensors"
        if file.exists():
            progress.advance(bar, count)
            return net.decode(load_file(file)["latents"])
        latents = net.draw(sampler, count, spacing, lambda: progress.advance(bar))
        save_file({"latents": latents.contiguous()}, file)
        return net.decode(latents)

    # Whatever the shift of its levels, a flow leads to one picture.
    converged = draw(last, CONVERGED, net=Net("flow3") if net.is_flow else net)
    cells, drawn = [], {}
    for sampler, spacing, count in plan:
        pictures = draw(sampler, count, spacing)
        cells.append(Cell(sampler, spacing, count, psnr(pictures, converged), ssim(pictures, converged)))
        if count == SHEET_STEPS:
            drawn[f"{sampler} {spacing}"] = pictures
    if sheet_path is not None and drawn:
        # The prompts that the plainest sampler draws worst, middling and best.
        order = sorted(range(len(PROMPTS)), key=psnr(next(iter(drawn.values())), converged).__getitem__)
        chosen = [order[0], order[len(order) // 4], order[len(order) // 2]]
        sheet(converged, drawn, chosen).save(sheet_path.with_stem(f"{sheet_path.stem}-{kind}"))
        progress.console.print(f"{kind}: converged, {', '.join(drawn)}: {[PROMPTS[n] for n in chosen]}")
    agree = median(psnr(draw(other, CONVERGED // 2), converged))
    return (
        f"{table(kind, cells, steps)}\n\n{CONVERGED // 2} steps of `{other}` are {agree:.1f} dB from {CONVERGED} of"
        f" `{last}`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--sheet", type=Path, metavar="PATH", help=f"pictures of {SHEET_STEPS} steps; KIND is added")
    arguments = parser.parse_args()
    quiet_libraries()
    KEPT.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), Progress() as progress:
        found = [run(kind, arguments.steps, arguments.sheet, progress) for kind in arguments.kinds]
    text = "\n\n".join(found)
    (tables.OUT / "solvers.md").write_text(f"{tables.machine()}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
