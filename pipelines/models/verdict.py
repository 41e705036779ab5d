"""What the check at load found of a model, as a value that can be kept, sent and given back.

Knows what the check decides; does not know how. What it found depends on the weights, the libraries and the device
alone: of the same plan on the same device, it need not be found twice. What steps cost is learnt while the model
serves, and is a guess for the next time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from pipelines.engine.adapters import Adapters
from pipelines.engine.collate import Part, Path
from pipelines.engine.learning import Curve, StepCosts
from pipelines.engine.shared import SharedModule


class Checked(Protocol):
    """What of a loaded model the check at load looks at and decides."""

    shares: bool
    reason: str
    adapters: Adapters
    shared_modules: dict[int, SharedModule]

    def weight_bytes(self) -> int: ...


class ModuleVerdict(msgspec.Struct, frozen=True):
    """Of one shared module: which arguments and outputs are rows, and what steps cost, as far as it is learnt."""

    parts: tuple[tuple[Path, Part], ...]
    output_parts: tuple[tuple[Path, Part], ...]
    pixels: float
    costs: Curve | None = None
    apart: bool = False  # are its calls made one by one?
    fills: bool = True  # may its calls with what ControlNets add meet those without?


class Verdict(msgspec.Struct, frozen=True):
    """Of a model of ``weight_bytes``: may its runs share steps, and if not, why; may runs with different adapters?"""

    weight_bytes: int
    shares: bool
    reason: str
    mixed: bool
    modules: dict[str, ModuleVerdict]  # by component
    small: bool = False  # found with a smaller picture, as the native size is too slow for checks

    @staticmethod
    def of(model: Checked, *, small: bool = False) -> Verdict:
        """What was found of a model that was checked."""
        modules = {
            shared.name: ModuleVerdict(
                tuple(shared.parts.items()),
                tuple(shared.output_parts.items()),
                shared.pixels,
                shared.costs.curve() if shared.is_denoiser else None,
                shared.apart,
                shared.fills,
            )
            for shared in model.shared_modules.values()
        }
        return Verdict(model.weight_bytes(), model.shares, model.reason, model.adapters.mixed, modules, small)

    def with_costs(self, costs: Mapping[str, Curve]) -> Verdict:
        """The same with what was learnt since of some components' steps; itself where that has not moved by a tenth."""
        modules = dict(self.modules)
        for name, curve in costs.items():
            old = modules[name].costs
            if old is None or curve.moved(old):
                modules[name] = msgspec.structs.replace(modules[name], costs=curve)
        return self if modules == self.modules else msgspec.structs.replace(self, modules=modules)

    def fits(self, model: Checked) -> bool:
        """Is it of such a model? Its folder may have been given other weights meanwhile."""
        names = {shared.name for shared in model.shared_modules.values()}
        return self.weight_bytes == model.weight_bytes() and self.modules.keys() == names

    def give(self, model: Checked) -> None:
        """Let the model have what was found of it."""
        model.shares, model.reason, model.adapters.mixed = self.shares, self.reason, self.mixed
        for shared in model.shared_modules.values():
            found = self.modules[shared.name]
            shared.parts, shared.output_parts = dict(found.parts), dict(found.output_parts)
            shared.pixels, shared.apart = found.pixels, found.apart
            shared.fills = found.fills and shared.takes_residuals
            if found.costs is not None:
                shared.costs = StepCosts(found.costs)
