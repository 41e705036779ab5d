"""What GET …/models says of a model's seals: whether it has them, and what verifying found last.

Knows where seals and results lie; reads each again only when its file has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import LoadRefused
from pipelines.facts import sealed
from pipelines.facts.sealed import Sealed
from pipelines.plan import ModelPlan
from server.storage.verified import VerifiedFolders

MAX_KEPT = 10_000  # seals; then all are read again

_Stamp = tuple[int, int] | None  # mtime_ns and size; None: there is no file


class _Kept(NamedTuple):
    seal: _Stamp
    result: _Stamp
    state: dict[str, Any] | None


class SealStates:
    """The states of all models of one server."""

    def __init__(self, data_dir: Path) -> None:
        self._verified = VerifiedFolders(data_dir)
        self._kept: dict[Path, _Kept] = {}

    def of(self, plan: ModelPlan) -> dict[str, Any] | None:
        """The state of a plan's weights and sealed adapters together; None where none of its weights is sealed."""
        found = [(each, self._state(each)) for each in sealed.of(plan)]
        weights = [state for each, state in found if not each.is_spare]
        if not any(weights):
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
