"""The roster of a cluster: replicas that come and go, as members that join the fleet and leave it.

Knows links, greetings and names; knows no Ray. A replica that has another version of Darkroom is left out: its messages
might be read wrongly.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Collection

import msgspec

from server import __version__
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.ray import messages
from server.worker.ray.link import Link, LinkBroken
from server.worker.ray.member import SILENT_S, ServeMember

log = logging.getLogger("darkroom.worker")

_RETRY_S = 1.0


class ReplicaRoster:
    """The replicas that there are now. All methods run on the event loop's thread."""

    def __init__(self, fleet: Fleet, link: Callable[[str], Link], *, silent_s: float = SILENT_S) -> None:
        """``link`` makes the way to a replica, by its ID."""
        self._fleet = fleet
        self._link = link
        self._silent_s = silent_s
        self._greetings: dict[str, asyncio.Task[None]] = {}  # by ID
        self._members: dict[str, ServeMember] = {}
        self._left_out: dict[str, str] = {}  # their names there
        self._retirements: set[asyncio.Task[None]] = set()

    def update(self, replicas: Collection[str]) -> None:
        """These replicas can be sent requests now."""
        for replica in [each for each in replicas if each not in self._greetings]:
            self._greetings[replica] = asyncio.create_task(self._greet(replica), name=f"greet-{replica}")
        for replica in [each for each in self._greetings if each not in replicas]:
            self._greetings.pop(replica).cancel()
            self._fleet.left_out.pop(self._left_out.pop(replica, ""), None)
            member = self._members.pop(replica, None)
            if member is not None:
                log.info("replica leaves", extra={"device": member.name, "replica": replica})
                self._fleet.part(member)
                task = asyncio.create_task(member.retire(), name=f"retire-{replica}")
                self._retirements.add(task)
                task.add_done_callback(self._retirements.discard)

    async def stop(self) -> None:
        """Watch no replica any more. The fleet stops its members itself."""
        for task in (*self._greetings.values(), *self._retirements):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _greet(self, replica: str) -> None:
        """Ask a new replica who it is, until it says so."""
        link = self._link(replica)
        while True:
            try:
                async with asyncio.timeout(self._silent_s):
                    here = messages.read_here(await link.greet())
                break
            except Exception as error:  # whatever it is: a replica that nobody greets would never draw
                known = isinstance(error, LinkBroken | TimeoutError | msgspec.DecodeError)
                extra = {"replica": replica, "reason": type(error).__name__}
                log.warning("replica does not answer", exc_info=not known, extra=extra)
                await asyncio.sleep(_RETRY_S)
        name = self._name(here)
        if here.version != __version__:
            reason = f"it runs Darkroom {here.version}, and this server {__version__}; install one version on both"
            log.error("replica left out", extra={"device": name, "replica": replica, "reason": reason})
            self._left_out[replica] = name
            self._fleet.left_out[name] = reason
            return
        log.info("replica joins", extra={"device": name, "replica": replica})
        kind = here.device.partition(":")[0]
        device = WorkerDevice(name, kind, other_names=(here.machine,))

        build = functools.partial(ServeMember, link=link, silent_s=self._silent_s)
        self._members[replica] = self._fleet.join(device, build)

    def _name(self, here: messages.Here) -> str:
        """``machine/device``, unlike any other: where several have no number of their own, they get one."""
        base, taken = f"{here.machine}/{here.device}", set(self._fleet.names())
        numbered = (f"{base}:{number}" for number in range(len(taken) + 1))
        free = numbered if ":" not in here.device else (base, *numbered)
        return next(name for name in free if name not in taken)
