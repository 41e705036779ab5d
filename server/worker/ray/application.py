"""The application that Ray Serve runs: one deployment, whose replicas host a worker process each.

Deployed by the first front that joins a cluster, or by a Serve config (``deploy/serve.yaml``), whose import path is
``server.worker.ray.application:build``. What is an argument there replaces all replicas when it changes; what stands in
``user_config`` changes in place.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field
from ray import serve
from ray.serve.config import RequestRouterConfig

from server.settings import Settings
from server.worker.ray import scaling
from server.worker.ray.deployment import OF_REPLICAS, Layout, ongoing_requests
from server.worker.ray.replica import Replica
from server.worker.ray.router import FleetRouter

APP, DEPLOYMENT = "darkroom", "replica"


class Arguments(BaseModel, extra="forbid"):
    """What ``args`` of a Serve config may have."""

    device: Literal["cuda", "cpu"] = "cuda"
    share: int = Field(1, ge=1)  # so many replicas may be on one machine: each promises its models a part of its memory


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application, for a Serve config. How many replicas there are, and their settings, it says itself."""
    given = Arguments.model_validate(arguments)
    on_cpu = given.device == "cpu"
    resources = {"num_cpus": 1} if on_cpu else {"num_cpus": 0, "num_gpus": 1}
    return bind(Settings(), Layout(1, 1, resources, given.share, None), {})


def bind(settings: Settings, layout: Layout, user_config: dict[str, Any]) -> serve.Application:
    """The application with this layout. ``settings`` are a front's: how much it sends, and for how long."""
    replicas: dict[str, Any] = {"num_replicas": layout.least}
    if layout.least < layout.most:
        replicas = {
            "autoscaling_config": {
                "min_replicas": layout.least,
                "max_replicas": layout.most,
                "target_ongoing_requests": settings.cluster_jobs,
                "policy": {"policy_function": f"{scaling.__name__}:{scaling.by_jobs.__name__}"},
            }
        }
    deployment = serve.deployment(Replica).options(
        name=DEPLOYMENT,
        **replicas,
        ray_actor_options=layout.resources,
        user_config=user_config,
        max_ongoing_requests=ongoing_requests(settings),
        graceful_shutdown_timeout_s=settings.job_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        request_router_config=RequestRouterConfig(request_router_class=FleetRouter),
    )
    return deployment.bind(layout.share)


def settings_of_replicas(settings: Settings, layout: Layout) -> dict[str, Any]:
    """The settings of a front that matter to its replicas."""
    given = settings.model_dump(include=set(OF_REPLICAS))
    return {**given, "data_dir": str(settings.data_dir.absolute()), "threads": layout.threads}
