"""A residency whose models are no more than their bytes, and a record of what it did."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch

from pipelines.errors import LoadRefused
from pipelines.models.residency import Place, Residency
from pipelines.plan import ModelPlan

GIB = 1 << 30


class Weights:
    """As much of a loaded model as residency asks of it."""

    def __init__(self, plan: ModelPlan, house: House) -> None:
        self.plan = plan
        self.has_host_copy = False
        self.tables = ["by size"]
        self._house = house

    def weight_bytes(self) -> int:
        return self._house.size_of(self.plan)

    def host_bytes(self) -> int:
        return self._house.size_of(self.plan)

    def move(self, device: torch.device) -> None:
        self._house.moving.set()
        assert self._house.may_move.wait(60)
        if device.type == self._house.no_way_to:
            raise self._house.moving_error
        self.has_host_copy = self.has_host_copy or device.type == "cpu"

    def forget_tables(self) -> None:
        self.tables.clear()

    def forget_host_copy(self) -> None:
        self.has_host_copy = False


class House:
    """A residency with room for two models of 1 GiB (on CUDA, host memory has room for so many), and a record of what
    it did."""

    def __init__(self, *, broken: str = "", device: str = "cpu", on_host: int = 2, **sizes: int) -> None:
        self.loads: list[str] = []
        self.moves: list[tuple[str, Place]] = []
        self.broken = broken
        self.loading_s = 0.0
        self.error: Exception | None = None
        self.moving, self.may_move = threading.Event(), threading.Event()
        self.may_move.set()
        self.no_way_to, self.moving_error = "", RuntimeError("can't allocate memory")
        self.sizes = sizes
        self.residency = Residency(
            self._load,
            self.size_of,
            self._moved,
            device=torch.device(device),
            budget=3 * GIB,  # a quarter of it is for working
            host_budget=on_host * GIB,
        )

    def size_of(self, plan: ModelPlan) -> int:
        return self.sizes.get(plan.key, GIB)

    def _load(self, plan: ModelPlan) -> Any:
        self.loads.append(plan.key)
        time.sleep(self.loading_s)
        if self.error is not None:
            raise self.error
        if plan.key == self.broken:
            raise LoadRefused("torn")
        return Weights(plan, self)

    def _moved(self, plan: ModelPlan, place: Place, reason: str, seconds: float) -> None:
        self.moves.append((plan.key, place))

    def use(self, key: str, *, keep: bool = False, offload: bool = False) -> ModelPlan:
        plan = ModelPlan(key, f"/models/{key}", "other", keep=keep, offload=offload)
        self.residency.pin(plan)
        return plan

    def visit(self, *keys: str) -> None:
        for key in keys:
            self.residency.unpin(self.use(key))

    def places(self) -> dict[str, Place]:
        return dict(move for move in self.moves if move[1] is not Place.LOADING)

    def leaving(self) -> list[str]:
        return [plan.key for plan, resident in self.residency._residents.items() if resident.leaving]

    def pins(self, plan: ModelPlan) -> int:
        return self.residency._residents[plan].pins

    def begin(self, key: str) -> threading.Event:
        """Use a model on a thread of its own; set once it has come."""
        came = threading.Event()

        def bring() -> None:
            self.use(key)
            came.set()

        threading.Thread(target=bring, daemon=True).start()
        return came
