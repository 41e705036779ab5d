"""The cluster: Ray is started or joined, the replicas are deployed if nobody has, and their comings and goings reach
the fleet.

Knows Ray and Ray Serve; knows nothing of drawings. Ray Serve places, watches and replaces replicas; which of them draws
what is the fleet's choice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import ray
from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from server.errors import ConfigError
from server.settings import Settings
from server.sizes import MIB
from server.worker.devices import WorkerDevice
from server.worker.fleet import Fleet
from server.worker.ray.deployment import (
    AUTH_MODE,
    explain_deploying,
    explain_joining,
    is_kept,
    is_open,
    lay_out,
    refuse_open,
)
from server.worker.ray.link import LinkBroken
from server.worker.ray.replica import FrontLease, Replica
from server.worker.ray.roll import ROLL
from server.worker.ray.roster import ReplicaRoster
from server.worker.ray.router import FleetRouter
from server.worker.ray.thread import RayThread

log = logging.getLogger("darkroom.worker")

APP, DEPLOYMENT, NAMESPACE = "darkroom", "replica", "darkroom"
_OF_WORKERS = ("log_level", "step_timeout_s", "load_timeout_s", "job_timeout_s", "device_memory", "data_dir")
_FAILURES = (RayError, RayServeException, AioRpcError, asyncio.InvalidStateError, RuntimeError)
_STORE_BYTES = 512 * MIB  # Ray's memory for what crosses it: pictures on their way
_START_S = 120.0
_JOIN_S = 60.0


class RayLink:
    """The way to one replica, by Ray Serve."""

    def __init__(self, handle: Any, replica: str, front: str, lease: Any) -> None:
        self._handle = handle
        self._replica = replica
        self._front = front
        self._lease = lease

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
        response = self._ask(method, body, stream=False)
        try:
            return await response
        except _FAILURES as error:
            raise LinkBroken(type(error).__name__) from None
        finally:
            response.cancel()

    async def _stream(self, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        response = self._ask(method, body, stream=True)
        try:
            async for frame in response:
                yield frame
        except _FAILURES as error:
            raise LinkBroken(type(error).__name__) from None
        finally:
            response.cancel()  # leaving the loop, or cancelling the task, does not reach the replica

    def _ask(self, method: str, body: bytes, *, stream: bool) -> Any:
        handle = self._handle.options(method_name=method, stream=stream, session_id=self._replica)
        return handle.remote(self._front, self._lease, body)


class Cluster:
    """The machines that this server draws on."""

    def __init__(self, settings: Settings, devices: Sequence[WorkerDevice]) -> None:
        """``devices`` are those of this machine, for a cluster of its own."""
        self._settings = settings
        self._devices = devices
        self._front = secrets.token_hex(8)
        self._thread = RayThread()
        self._handle: Any = None
        self._lease: Any = None
        self._roster: ReplicaRoster | None = None

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

    async def stop(self) -> None:
        """Let no replica join any more, and watch none."""
        ROLL.listen(None)
        if self._roster is not None:
            await self._roster.stop()

    async def close(self) -> None:
        """Leave the cluster, once nothing is drawn there for this server; one of its own ends with this."""
        await self._thread.submit_if_started(ray.shutdown)

    def _link(self, replica: str) -> RayLink:
        return RayLink(self._handle, replica, self._front, self._lease)

    def _join(self) -> None:
        try:
            self._init()
        except Exception as error:
            raise ConfigError(f"{self._settings.cluster_as_set}: {explain_joining(error)}") from error

    def _connect(self) -> None:
        context = ray.get_runtime_context()
        log.info("cluster joined", extra={"address": context.gcs_address, "front": self._front})
        try:
            if self._settings.cluster != "local":
                self._refuse_open()
            serve.start(proxy_location="Disabled")
            deployed = serve.status().applications.get(APP)
            if deployed is None or not is_kept(deployed.status.value):
                self._deploy()
            self._handle = serve.get_deployment_handle(DEPLOYMENT, APP)
            self._handle._init()  # the router lives from here on, and is told which replicas there are
            here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False)
            lease = ray.remote(FrontLease).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
            self._lease = lease.remote()
            ray.get(self._lease.alive.remote(), timeout=_START_S)
        except ConfigError:
            ray.shutdown()
            raise
        except Exception as error:
            ray.shutdown()
            raise ConfigError(f"{self._settings.cluster_as_set}: {explain_deploying(error)}") from error

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

    def _deploy(self) -> None:
        """Ask Ray Serve for a replica for each device."""
        layout = lay_out(self._settings, self._devices, ray.nodes())
        deployment = serve.deployment(Replica).options(
            name=DEPLOYMENT,
            num_replicas=layout.count,
            ray_actor_options=layout.resources,
            # Beside every drawing, one stream for each front that watches; two rolls of it, so that Serve never queues.
            max_ongoing_requests=2 * self._settings.running_jobs + 16,
            graceful_shutdown_timeout_s=self._settings.job_timeout_s,
            graceful_shutdown_wait_loop_s=0.5,
            health_check_period_s=2.0,
            health_check_timeout_s=10.0,
            request_router_config=RequestRouterConfig(request_router_class=FleetRouter),
        )
        settings = self._settings.model_dump(include=set(_OF_WORKERS))
        settings["data_dir"] = str(self._settings.data_dir.absolute())
        app = deployment.bind(settings, layout.threads, layout.share)
        serve.run(app, name=APP, route_prefix=None)
