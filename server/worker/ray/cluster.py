"""The cluster: Ray is started or joined, the replicas are deployed if nobody has, and their comings and goings reach
the fleet.

Knows Ray and Ray Serve; knows nothing of drawings. Ray Serve places, watches and replaces replicas; which of them draws
what is the fleet's choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import ray
from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from server.errors import ConfigError
from server.settings import Settings
from server.sizes import MIB
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.ray.application import APP, DEPLOYMENT, bind, settings_of_replicas
from server.worker.ray.deployment import (
    AUTH_MODE,
    FAILED,
    explain_deploying,
    explain_joining,
    is_kept,
    is_open,
    lay_out,
    refuse_open,
)
from server.worker.ray.lease import ActorLease, FrontLease
from server.worker.ray.link import LinkBroken
from server.worker.ray.report import tell_jobs
from server.worker.ray.roll import ROLL
from server.worker.ray.roster import ReplicaRoster
from server.worker.ray.thread import RayThread

log = logging.getLogger("darkroom.worker")

NAMESPACE = "darkroom"
_FAILURES = (RayError, RayServeException, AioRpcError, asyncio.InvalidStateError, RuntimeError)
_STORE_BYTES = 512 * MIB  # Ray's memory for what crosses it: pictures on their way
_START_S = 120.0
_JOIN_S = 60.0
_LOOK_S = 1.0
_RETRY_S = 1.0

Shown = tuple[str, Any]  # what a front shows to replicas: its name, and its lease


class RayLink:
    """The way to one replica, by Ray Serve."""

    def __init__(self, handle: Any, replica: str, shown: Callable[[], Shown]) -> None:
        self._handle = handle
        self._replica = replica
        self._shown = shown

    async def greet(self) -> bytes:
        greeting: bytes = await self._call("greet", b"")
        return greeting

    def watch(self, body: bytes) -> AsyncGenerator[bytes, None]:
        return self._stream("watch", body)

    def draw(self, body: bytes) -> AsyncGenerator[bytes, None]:
        return self._stream("draw", body)

    async def tell(self, body: bytes) -> None:
        await self._call("tell", body)

    async def _call(self, method: str, body: bytes) -> Any:
        with _said_as_broken():
            response = self._ask(method, body, stream=False)
            try:
                return await response
            finally:
                response.cancel()

    async def _stream(self, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        with _said_as_broken():
            response = self._ask(method, body, stream=True)
            try:
                async for frame in response:
                    yield frame
            finally:
                response.cancel()  # leaving the loop, or cancelling the task, does not reach the replica

    def _ask(self, method: str, body: bytes, *, stream: bool) -> Any:
        handle = self._handle.options(method_name=method, stream=stream, session_id=self._replica)
        return handle.remote(*self._shown(), body)


@contextlib.contextmanager
def _said_as_broken() -> Iterator[None]:
    """Whatever Ray raises is a broken link; so is the end of a call that nobody here has cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LinkBroken("CancelledError") from None
    except _FAILURES as error:
        raise LinkBroken(type(error).__name__) from None


class Cluster:
    """The machines that this server draws on."""

    def __init__(self, settings: Settings, devices: Sequence[WorkerDevice]) -> None:
        """``devices`` are those of this machine, for a cluster of its own."""
        self._settings = settings
        self._devices = devices
        self._thread = RayThread()
        self._handle: Any = None
        self._shown: Shown = "", None
        self._holding: asyncio.Task[None] | None = None
        self._roster: ReplicaRoster | None = None
        self._telling: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Start or join Ray, and see that there are replicas. Raises ConfigError naming the setting and a remedy."""
        self._thread.start()
        try:
            self._thread.submit(self._join).result(_JOIN_S)
        except TimeoutError:
            raise ConfigError(
                f"{self._settings.cluster_as_set}: what is there does not answer as Ray within {_JOIN_S:.0f} s; name"
                " the port of `ray start --head` (6379, if none is set)"
            ) from None
        self._thread.submit(self._connect).result()

    def start(self, fleet: Fleet) -> None:
        """Have replicas join the fleet, and leave it."""
        loop = asyncio.get_running_loop()
        roster = self._roster = ReplicaRoster(fleet, self._link)
        ROLL.listen(lambda replicas: loop.call_soon_threadsafe(roster.update, replicas))
        self._telling = loop.create_task(tell_jobs(fleet), name="tell-jobs")
        self._holding = asyncio.create_task(self._hold(), name="lease")

    async def stop(self) -> None:
        """Let no replica join any more, and watch none."""
        ROLL.listen(None)
        for task in (self._telling, self._holding):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._roster is not None:
            await self._roster.stop()

    async def close(self) -> None:
        """Leave the cluster, once nothing is drawn there for this server; one of its own ends with this."""
        await self._thread.submit_if_started(ray.shutdown)

    def _link(self, replica: str) -> RayLink:
        return RayLink(self._handle, replica, lambda: self._shown)

    def _join(self) -> None:
        try:
            self._init()
        except Exception as error:
            raise ConfigError(f"{self._settings.cluster_as_set}: {explain_joining(error)}") from error

    def _connect(self) -> None:
        context = ray.get_runtime_context()
        log.info("cluster joined", extra={"address": context.gcs_address})
        try:
            if self._settings.cluster != "local":
                self._refuse_open()
            serve.start(proxy_location="Disabled")
            if self._settings.is_declared:
                self._await_declared()
            elif not is_kept(self._state()):
                self._deploy()
            self._handle = serve.get_deployment_handle(DEPLOYMENT, APP)
            self._handle._init()  # the router lives from here on, and is told which replicas there are
            self._shown = self._show()
            ray.get(self._shown[1].alive.remote(), timeout=_START_S)
            log.info("lease begins", extra={"front": self._shown[0]})
        except ConfigError:
            ray.shutdown()
            raise
        except Exception as error:
            ray.shutdown()
            raise ConfigError(f"{self._settings.cluster_as_set}: {explain_deploying(error)}") from error

    def _show(self) -> Shown:
        """A lease that begins, and the name that this front has with it: what ends with one ends with no other."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        lease = ray.remote(FrontLease).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        return secrets.token_hex(8), lease.remote()

    async def _hold(self) -> None:
        """See that replicas are shown a lease that holds: with one that has ended, all that they are asked ends."""
        while True:
            await ActorLease(self._shown[1]).ended()
            log.error("the lease of this front has ended, making another", extra={"front": self._shown[0]})
            await asyncio.sleep(_RETRY_S)  # it may end again at once
            try:
                shown = await asyncio.wrap_future(self._thread.submit(self._show))
                async with asyncio.timeout(_START_S):
                    await shown[1].alive.remote()
            except Exception as error:  # whatever it is: without a lease nothing can be drawn
                log.error("no other lease", extra={"reason": f"{type(error).__name__}: {error}"})
            else:
                self._shown = shown
                log.info("lease begins", extra={"front": shown[0]})

    def _init(self) -> None:
        shared = {"namespace": NAMESPACE, "configure_logging": False, "log_to_driver": False}
        if self._settings.cluster == "local":
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **shared,
            )
        else:
            ray.init(address=self._settings.cluster, **shared)

    def _refuse_open(self) -> None:
        """Raise ConfigError unless every machine asks for the token: Ray joins with one what asks for none, too."""

        def mode() -> str:  # inside, so that it crosses by value: a machine may have no Darkroom
            import os

            return os.environ.get("RAY_AUTH_MODE", "")  # what Ray starts there inherits it from what started Ray

        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                call = ray.remote(mode).options(num_cpus=0, scheduling_strategy=there)
                asked[call.remote()] = node["NodeManagerHostname"]
        answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_JOIN_S)
        open_, silent = [], [asked[each] for each in late]
        for each in answered:
            try:
                if is_open({AUTH_MODE: ray.get(each)}):
                    open_.append(asked[each])
            except RayError:
                silent.append(asked[each])
        refuse_open(self._settings, open_, silent)

    def _state(self) -> str:
        """How the application stands, as Ray Serve calls it; empty: there is none."""
        deployed = serve.status().applications.get(APP)
        return "" if deployed is None else str(deployed.status.value)

    def _await_declared(self) -> None:
        """Return when a Serve config has declared the application. Raises ConfigError where that has failed."""
        if not is_kept(state := self._state()):
            log.info("waiting for the application that a Serve config is to declare", extra={"application": APP})
        while not is_kept(state):
            if state == FAILED:
                raise ConfigError(
                    f"{self._settings.replicas_as_set}: the Serve config of the application {APP} could not be"
                    " deployed; on the head /tmp/ray/session_latest/logs/serve says why"
                )
            time.sleep(_LOOK_S)
            state = self._state()

    def _deploy(self) -> None:
        """Ask Ray Serve for a replica for each device."""
        layout = lay_out(self._settings, self._devices, ray.nodes())
        app = bind(self._settings, layout, settings_of_replicas(self._settings, layout))
        serve.run(app, name=APP, route_prefix=None)
