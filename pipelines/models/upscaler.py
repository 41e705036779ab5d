"""A super-resolution network on a device, and pictures that it makes larger: in overlapping tiles, pass by pass.

Knows torch, tiles and memory that runs short; knows neither drawings nor messages. On the CPU each tile is one thread's
(``Crew``); elsewhere tiles of one size are batched, on a stream of their own, so that an engine's steps go between.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pipelines.errors import BadPicture, LoadRefused, OutOfMemory, is_out_of_memory
from pipelines.facts import seal
from pipelines.facts import upscaler as facts
from pipelines.facts.upscaler import Network, UpscalerShape
from pipelines.models import upscaler_nets
from pipelines.models.crew import Crew
from pipelines.models.device import Machine, choose_dtype
from pipelines.pictures.tiles import Pass, Tile, passes, tiles
from pipelines.plan import UpscalerFile

log = logging.getLogger("darkroom.loader")

# Sides of a tile, pixels of what a network is given: overlaps are computed twice, so large ones cost less, and take
# more memory: of an RRDBNet about 10 KiB a pixel in bfloat16, at its largest layers, for each thread; many
# threads take half.
_SIDES = {Network.RRDB: 256, Network.COMPACT: 256}
_FEW = 4  # threads
_DEVICE_SIDES = {Network.RRDB: 256, Network.COMPACT: 512}  # with memory of its own
_MIN_SIDE = 32
_MAX_BATCH = 8  # tiles of one forward, where they are batched

Tick = Callable[[int, int], None]  # tiles done, of so many


def _unheard(done: int, of: int) -> None:
    """Nobody wants to know."""


def dtype_on(setting: str, device: torch.device, machine: Machine | None = None) -> torch.dtype:
    """The dtype of a network for a model whose own is ``setting``. On the CPU auto is bfloat16 where that multiplies it
    in hardware: what is added to a picture is float32 all the same."""
    machine = machine or Machine()
    if device.type != "cpu":
        return choose_dtype(setting, device, machine)
    fast = setting != "float32" and machine.has_cpu_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def load(file: UpscalerFile, device: torch.device, dtype: str = "auto") -> Upscaler:
    """The network of a file, on ``device``. Raises LoadRefused for a file that is missing, broken or another network's,
    and where its weights are not numbers."""
    path = Path(file.path)
    try:
        shape = facts.tell(path)
        seal.compare(path.parent, frozenset((path.name,)), seal.name_for(path.name))
        with torch.device("meta"):
            net = upscaler_nets.build(shape)
        weights = safetensors.torch.load_file(path)
    except OSError as error:
        raise LoadRefused(f"{path.name} cannot be read: {error.strerror}") from error
    except safetensors.SafetensorError as error:
        raise LoadRefused(f"{path.name} cannot be read: {error}") from error
    prefix = facts.prefix_of(weights)
    kind = dtype_on(dtype, device)
    # What overflows in float16 is told here as well.
    weights = {name.removeprefix(prefix): tensor.to(kind) for name, tensor in weights.items()}
    broken = next((name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None)
    if broken is not None:
        raise LoadRefused(f"{path.name}: {broken} has values that are no numbers in {kind}: fetch it anew")
    net.load_state_dict(weights, assign=True)
    net = net.requires_grad_(False).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    log.info("upscaler loaded", extra={"upscaler": file.name, "network": str(shape), "dtype": str(kind)})
    return Upscaler(file.name, shape, net)


def load_all(files: Iterable[UpscalerFile], device: torch.device, dtype: str) -> dict[str, Upscaler]:
    """Those of a model, by name. One that cannot be used is told to the log: the model draws without it."""
    found = {}
    for file in files:
        try:
            found[file.name] = load(file, device, dtype)
        except LoadRefused as refusal:
            log.error("upscaler cannot be used", extra={"upscaler": file.name, "reason": str(refusal)})
    return found


def weight_bytes(file: UpscalerFile, device: torch.device, dtype: str) -> int:
    """Bytes that its weights will take; none of one that cannot be used."""
    try:
        return facts.weight_bytes(Path(file.path), dtype_on(dtype, device).itemsize)
    except (LoadRefused, OSError):
        return 0


class Upscaler:
    """One network. Its ``module`` may be moved between devices while nothing is enlarged."""

    def __init__(self, name: str, shape: UpscalerShape, module: nn.Module) -> None:
        self.name = name
        self.shape = shape
        self.module = module
        self._stream: Any = None

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def enlarge(
        self, pictures: Sequence[Image.Image], factor: float, *, crew: Crew | None = None, tick: Tick = _unheard
    ) -> list[Image.Image]:
        """Pictures of one size, RGB or RGBA, at least ``factor`` times as large, and less than twice that.

        Alpha is enlarged as a grey picture of its own, where it says anything. ``tick`` is called after each tile, on
        this thread; what it raises ends the work, and is raised. Raises OutOfMemory where even small tiles do not fit,
        and BadPicture for what is no number.
        """
        planes, alphas = _planes(pictures)
        with torch.inference_mode(), self._on_stream():
            made = self._enlarged(planes, passes(self.shape.scale, factor), crew or Crew(1), tick)
        found, grey = made[: len(pictures)], iter(made[len(pictures) :])
        images = []
        for picture, alpha, colours in zip(pictures, alphas, found, strict=True):
            image = Image.fromarray(colours)
            if picture.mode == "RGBA":
                image.putalpha(Image.fromarray(next(grey)).convert("L") if alpha else 255)
            images.append(image)
        return images

    def _enlarged(self, planes: Tensor, steps: Sequence[Pass], crew: Crew, tick: Tick) -> np.ndarray[Any, Any]:
        """(P, h, w, 3) bytes → (P, H, W, 3) bytes."""
        source = planes.permute(0, 3, 1, 2).to(self.device)  # (P, 3, h, w)
        is_cpu = self.device.type == "cpu"
        side = (_SIDES if is_cpu else _DEVICE_SIDES)[self.shape.network]
        side = side // 2 if is_cpu and crew.threads > _FEW else side
        for number, step in enumerate(steps):
            is_last = number == len(steps) - 1
            progress = partial(self._tell, tick, number, len(steps))
            source, side = self._pass(source, step, side, crew, progress, as_bytes=is_last)
        made: np.ndarray[Any, Any] = source.permute(0, 2, 3, 1).numpy() if steps else planes.numpy()
        return made

    @staticmethod
    def _tell(tick: Tick, number: int, of: int, share: float) -> None:
        """Passes count alike: the last is most of the work, but nobody is told wrong that the end is near."""
        tick(round(1000 * (number + share)), 1000 * of)

    def _pass(
        self, source: Tensor, step: Pass, side: int, crew: Crew, progress: Callable[[float], None], *, as_bytes: bool
    ) -> tuple[Tensor, int]:
        """What comes out of one pass, and the side of the tiles that fitted into memory."""
        height, width = step.shrunk(*source.shape[2:])
        if (height, width) != tuple(source.shape[2:]):
            smaller = F.interpolate(source, (height, width), mode="bicubic", antialias=True)
            source = smaller.clamp_(0, 1)
        scale, multiple = self.shape.scale, self.shape.unshuffle
        padded = _padded(source, multiple)
        planes, high, wide = len(source), height * scale // step.pool, width * scale // step.pool
        rows, columns = padded.shape[2] * scale // step.pool, padded.shape[3] * scale // step.pool
        place = "cpu" if as_bytes else self.device
        kind = torch.uint8 if as_bytes else torch.float32
        out = torch.empty((planes, rows, columns, 3), dtype=kind, device=place).permute(0, 3, 1, 2)
        batch = _MAX_BATCH
        while True:
            cut = list(
                tiles(
                    padded.shape[2],
                    padded.shape[3],
                    side,
                    self.shape.overlap,
                    multiple=multiple,
                    at_least=-(-crew.threads // planes) if self.device.type == "cpu" else 1,
                )
            )
            parts = [(plane, tile) for plane in range(planes) for tile in cut]
            try:
                self._tiles(padded, parts, step, out, crew, batch, progress)
                return out[:, :, :high, :wide], side
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if batch == 1 and side <= _MIN_SIDE:
                    raise OutOfMemory("the device has no room for even a small tile of the upscaler") from None
            if batch > 1 and self.device.type != "cpu":
                batch = 1  # the next are as large, one at a time
            else:
                batch, side = 1, max(_MIN_SIDE, side // 2)
            log.warning("upscaling with less memory", extra={"upscaler": self.name, "tile": side, "batch": batch})

    def _tiles(
        self,
        source: Tensor,
        parts: list[tuple[int, Tile]],
        step: Pass,
        out: Tensor,
        crew: Crew,
        batch: int,
        progress: Callable[[float], None],
    ) -> None:
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            progress(done / len(parts))

        if self.device.type == "cpu":
            crew.run((partial(self._forward, source, [part], step, out) for part in parts), lambda: tell(1))
            return
        for group in (parts[first : first + batch] for first in range(0, len(parts), batch)):
            self._forward(source, group, step, out)
            tell(len(group))

    def _forward(self, source: Tensor, parts: list[tuple[int, Tile]], step: Pass, out: Tensor) -> None:
        """One forward of tiles of one size; what comes out is written where it belongs."""
        with torch.inference_mode():
            seen = [source[plane : plane + 1, :, tile.down.seen, tile.across.seen] for plane, tile in parts]
            pixels = seen[0] if len(seen) == 1 else torch.cat(seen)
            if not pixels.dtype.is_floating_point:
                pixels = pixels.float().div_(255)
            made = self.module(pixels.contiguous(memory_format=torch.channels_last))
            if not bool(torch.isfinite(made.sum())):
                raise BadPicture(f"the upscaler {self.name} makes what is no number")
            if step.pool > 1:
                made = F.avg_pool2d(made, step.pool)
            made = made.mul_(255).round_().clamp_(0, 255) if out.dtype is torch.uint8 else made.clamp_(0, 1)
            made = made.to(out.dtype).to(out.device)
            times = self.shape.scale // step.pool
            for (plane, tile), result in zip(parts, made, strict=True):
                inner = (slice(None), _times(tile.down.inner, times), _times(tile.across.inner, times))
                out[(plane, slice(None), _times(tile.down.core, times), _times(tile.across.core, times))] = result[
                    inner
                ]

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """On CUDA beside the engine's stream, whose steps need not wait."""
        if self.device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._stream.synchronize()  # the weights may move then


def _planes(pictures: Sequence[Image.Image]) -> tuple[Tensor, list[bool]]:
    """The colours of all pictures, then as grey pictures the alphas that say anything, (P, h, w, 3) bytes; and of which
    pictures those are."""
    planes = [np.array(picture.convert("RGB")) for picture in pictures]
    alphas = [picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255) for picture in pictures]
    for picture, says in zip(pictures, alphas, strict=True):
        if says:
            planes.append(np.array(picture.getchannel("A").convert("RGB")))
    return torch.from_numpy(np.stack(planes)), alphas


def _padded(source: Tensor, multiple: int) -> Tensor:
    """With its last lines repeated until ``multiple`` divides both sides."""
    down, across = -source.shape[2] % multiple, -source.shape[3] % multiple
    if not (down or across):
        return source
    rows = torch.cat([source, source[:, :, -1:].expand(-1, -1, down, -1)], dim=2)
    return torch.cat([rows, rows[..., -1:].expand(-1, -1, -1, across)], dim=3)


def _times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
