"""Idle models: those that nobody has asked for leave the device, then host memory, and with the last the process.

Knows the limits of models.yaml and of the settings, and the worker; knows neither messages nor devices.
"""

from __future__ import annotations

import asyncio

from pipelines.plan import ModelPlan
from server.catalog.catalog import Catalog
from server.catalog.entries import parse_duration
from server.settings import Settings
from server.worker.fleet import Fleet
from server.worker.member import Member
from server.worker.served import ServedCatalog
from server.worker.status import ModelState

LOOK_S = 1.0
_LOADED = (ModelState.READY, ModelState.OFFLOADED, ModelState.LOADING)


async def watch_idle(settings: Settings, served: ServedCatalog, fleet: Fleet) -> None:
    """Look every second at every device, for as long as the server runs."""
    while True:
        await asyncio.sleep(LOOK_S)
        for member in fleet.members:
            IdleWatch(settings, served, member).look()


class IdleWatch:
    """Looks for what has been idle for too long on one device."""

    def __init__(self, settings: Settings, served: ServedCatalog, worker: Member) -> None:
        self._settings = settings
        self._served = served
        self._worker = worker

    def look(self) -> None:
        """Send away what has been idle for too long. Ends the process when nothing is left of it."""
        worker, catalog = self._worker, self._served.current
        if worker.asleep or not worker.up:
            return
        on_cpu = worker.device.partition(":")[0] == "cpu"
        ends: list[float] = []
        for key, plan in catalog.served_plans.items():
            idle_s, unload_s = self._limits(catalog, plan)
            if on_cpu:  # host memory is where it is
                idle_s, unload_s = 0.0, min(filter(None, (idle_s, unload_s)), default=0.0)
            if unload_s:
                ends.append(unload_s)
            if worker.in_use(plan):
                continue
            state, rested_s = worker.models[key].state, worker.rest.idle_s(key)
            if unload_s and rested_s >= unload_s and state in (ModelState.READY, ModelState.OFFLOADED):
                worker.leave(plan, ModelState.UNLOADED)
            elif idle_s and rested_s >= idle_s and state is ModelState.READY:
                worker.leave(plan, ModelState.OFFLOADED)
        loaded = any(status.state in _LOADED for status in worker.models.values())
        if ends and not loaded and not worker.busy and worker.rest.idle_s() >= min(ends):
            worker.sleep()

    def _limits(self, catalog: Catalog, plan: ModelPlan) -> tuple[float, float]:
        """Seconds until a model leaves for host memory, and for the disk; 0: never."""
        if plan.keep:
            return 0.0, 0.0
        if plan.only_enlarges:
            return self._settings.idle_s, self._settings.idle_unload_s
        entry = catalog.models[plan.key].entry
        idle_s = self._settings.idle_s if entry.idle is None else parse_duration(entry.idle)
        unload_s = self._settings.idle_unload_s if entry.idle_unload is None else parse_duration(entry.idle_unload)
        return idle_s, unload_s
