"""What GET …/models says of a model's seals: whether it has them, and what verifying found last.

Knows where seals and results lie; reads each again only when its file has changed, and looks whether it has at most
once a second, off the event loop: models may lie on another machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anyio import to_thread

from pipelines.errors import LoadRefused
from pipelines.facts import sealed
from pipelines.facts.sealed import Sealed
from pipelines.plan import ModelPlan
from server.catalog.catalog import Catalog
from server.storage.verified import VerifiedFolders

LOOK_S = 1.0  # between two looks at files; going to a thread for each answer cost as much as all else of it
MAX_KEPT = 10_000  # seals; then all are read again

_Stamp = tuple[int, int] | None  # mtime_ns and size; None: there is no file


class _Kept(NamedTuple):
    seal: _Stamp
    result: _Stamp
    state: dict[str, Any] | None


class SealStates:
    """The states of all models of one server."""

    def __init__(self, data_dir: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._verified = VerifiedFolders(data_dir)
        self._kept: dict[Path, _Kept] = {}
        self._clock = clock
        self._looking = asyncio.Lock()
        self._catalog: Catalog | None = None  # whose models the last look was at
        self._looked_s = 0.0  # by the clock
        self._seen: dict[str, dict[str, Any] | None] = {}

    async def look(self, catalog: Catalog) -> Mapping[str, dict[str, Any] | None]:
        """The state of each of its plans, by key, as it was at most a second ago."""
        if not self._is_fresh(catalog):
            async with self._looking:  # who came meanwhile takes what the first has seen
                if not self._is_fresh(catalog):
                    began = self._clock()
                    plans = catalog.plans.values()
                    self._seen = await to_thread.run_sync(lambda: {plan.key: self.of(plan) for plan in plans})
                    self._catalog, self._looked_s = catalog, began
        return self._seen

    def _is_fresh(self, catalog: Catalog) -> bool:
        return self._catalog is catalog and self._clock() - self._looked_s < LOOK_S

    def of(self, plan: ModelPlan) -> dict[str, Any] | None:
        """The state of a plan's weights and sealed adapters together; None where none of its weights is sealed."""
        found = [(each, self._state(each)) for each in sealed.of(plan)]
        if not any(state for each, state in found if not each.is_spare and each.key != "config"):
            return None
        states = [state for each, state in found if state is not None or not each.is_spare]
        told = [state for state in states if state is not None]
        damaged = next((state for state in told if state["state"] == "damaged"), None)
        if damaged is not None:
            return damaged
        if len(told) < len(states) or any(state["state"] == "unknown" for state in told):
            return {"state": "unknown", "verified_at": None}
        return {"state": "intact", "verified_at": min(state["verified_at"] for state in told)}

    def _state(self, each: Sealed) -> dict[str, Any] | None:
        stamps = _stamp(each.manifest), _stamp(self._verified.path(str(each.path)))
        kept = self._kept.get(each.manifest)
        if kept is None or kept[:2] != stamps:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            kept = self._kept[each.manifest] = _Kept(*stamps, self._read(each))
        return kept.state

    def _read(self, each: Sealed) -> dict[str, Any] | None:
        try:
            found = each.read()
        except LoadRefused:
            return {"state": "damaged", "verified_at": None}
        if found is None:
            return None
        last = self._verified.last(str(each.path), found.sha256)
        if last is None:
            return {"state": "unknown", "verified_at": None}
        return {"state": "intact" if last.intact else "damaged", "verified_at": last.at}


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
