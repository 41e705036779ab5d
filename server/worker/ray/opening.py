"""What has to be right before Ray is imported: that it is there, its token, and its environment.

Ray reads its environment as it is imported, and gives it to all that it starts. Knows variables and the settings;
imports Ray last of all.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING

from server.errors import ConfigError
from server.settings import API_KEY_VARIABLE, ENV_PREFIX, Settings
from server.worker.devices import WorkerDevice
from server.worker.ray import token
from server.worker.ray.deployment import AUTH_MODE

if TYPE_CHECKING:
    from server.worker.ray.cluster import Cluster

_SECRETS = (f"{ENV_PREFIX}SIGNING_KEY", API_KEY_VARIABLE)
_REACH_S = 5.0


def open_cluster(settings: Settings, devices: Sequence[WorkerDevice]) -> Cluster:
    """The cluster of the setting, not yet connected. Raises ConfigError naming the setting and a remedy.

    ``devices`` are those of this machine, for a cluster of its own.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(f"{settings.cluster_as_set}: Ray is not installed; `pip install 'darkroom[ray]'` brings it")
    kinds = {device.kind for device in devices if device.kind}
    if len(kinds) > 1:
        raise ConfigError(
            f"{settings.devices_as_set}: a cluster has replicas of one kind; name CUDA devices or cpu, not both"
        )
    if unknown := kinds & {"mps", "xpu"}:
        raise ConfigError(
            f"{settings.devices_as_set}: Ray places nothing on {unknown.pop()}; name CUDA devices or cpu, or leave"
            " DARKROOM_CLUSTER (--cluster) out"
        )
    if settings.cluster == "local":
        own = token.make_own(settings)
        os.environ.pop(token.TOKEN, None)
        os.environ[token.TOKEN_PATH] = str(own)
        if shown := [device for device in devices if device.visible]:  # Ray, too, is to see no others
            os.environ[shown[0].visible_by] = ",".join(device.visible for device in shown)
    else:
        token.check_given(settings)
        _reach(settings)
    prepare(os.environ, loopback=_is_loopback(settings))
    from server.worker.ray.cluster import Cluster

    return Cluster(settings, devices)


def prepare(environment: MutableMapping[str, str], *, loopback: bool) -> None:
    """Set what Ray is to find in its environment, here and in all that it starts."""
    environment[AUTH_MODE] = "token"
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: all else on the machine would come before it
    environment.pop("RAY_ADDRESS", None)  # the setting alone says which cluster
    for name in _SECRETS:  # read already, and no matter of replicas
        environment.pop(name, None)
    if loopback:
        # Ray writes 127.0.0.1 as the address of the first interface, and then nothing finds the other. Not with this.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def head_of(settings: Settings) -> tuple[str, int]:
    """Host and port of the head that is joined."""
    host, _, port = (settings.cluster or "").rpartition(":")
    return host.strip("[]"), int(port)


def _is_loopback(settings: Settings) -> bool:
    return settings.cluster == "local" or head_of(settings)[0] in ("127.0.0.1", "localhost", "::1")


def _reach(settings: Settings) -> None:
    """Ray itself tries for minutes, and says little."""
    try:
        socket.create_connection(head_of(settings), timeout=_REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"{settings.cluster_as_set}: no cluster can be reached there ({error.strerror or error}); see that `ray"
            " start --head` runs there, and that this machine reaches its port"
        ) from None
