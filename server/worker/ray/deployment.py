"""What is asked of Ray Serve, and whether it may be: replicas for which devices, in a cluster that asks for its token.

Knows settings, and nodes and states as Ray tells them; calls nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from server.errors import ConfigError
from server.settings import Settings
from server.worker import cores
from server.worker.devices import WorkerDevice

AUTH_MODE = "RAY_AUTH_MODE"
MAX_FRONTS = 8  # that draw all they can at a time; what is more waits in Ray Serve, and is given up there
# Ray Serve goes on with these by itself: it starts the replicas that are missing. What has failed it leaves alone.
_KEPT = ("DEPLOYING", "RUNNING", "UNHEALTHY")
FAILED = "DEPLOY_FAILED"


# What Ray Serve's user_config may have: settings of a worker, each replica's own.
OF_REPLICAS = ("threads", "device_memory", "data_dir", "step_timeout_s", "load_timeout_s", "log_level")


@dataclass(frozen=True)
class Layout:
    """The replicas of one deployment."""

    least: int
    most: int  # by how many jobs there are
    resources: dict[str, int]  # of each, as Ray names them
    share: int  # so many may be on one machine
    threads: int | None  # of each on the CPU; None: as many as its machine has cores for


def lay_out(settings: Settings, devices: Sequence[WorkerDevice], nodes: Sequence[Mapping[str, Any]]) -> Layout:
    """A replica for each device. Raises ConfigError where a GPU is named, and the cluster knows of none.

    ``devices`` are those of this machine, for a cluster of its own; else those on the CPU that are named.
    """
    own = settings.cluster == "local"
    gpus = [int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"]]
    named = [device for device in devices if device.kind == "cpu"]
    on_cpu = bool(named) or (not sum(gpus) and settings.device_kind == "auto")
    if own and (named or len(devices) > 1):
        count = len(devices)
    else:
        count = len(named) if named else sum(gpus)
    least, most = settings.replicas or (max(1, count), max(1, count))
    if settings.replicas is not None and len(named) > 1:
        raise ConfigError(
            f"{settings.replicas_as_set}: is how many replicas there are, and {settings.devices_as_set} says it too;"
            " name cpu once"
        )
    # Where it is said how many, a cluster may get its GPUs later: a machine that comes when it is wanted.
    if not on_cpu and not sum(gpus) and (own or settings.replicas is None):
        where = "Ray finds no GPU on this machine" if own else "no machine of the cluster has a GPU at the moment"
        raise ConfigError(
            f"{settings.devices_as_set}: {where} (`ray status` lists what it has); join those that have one first, or"
            " name cpu as often as there are to be replicas without one"
        )
    if own and not on_cpu and most > max(1, count):
        raise ConfigError(
            f"{settings.replicas_as_set}: this machine has {max(1, count)} GPU(s) for them, and each replica needs one;"
            " set fewer"
        )
    resources = {"num_cpus": 0 if own else 1} if on_cpu else {"num_cpus": 0, "num_gpus": 1}
    share = most if own else max(gpus, default=1)
    threads = settings.threads if isinstance(settings.threads, int) else None
    if threads is None:
        threads = next((device.threads for device in named), None)
    if threads is None and own and on_cpu and most > 1:
        threads = cores.read().threads(most)
    return Layout(least, most, resources, max(1, share), threads)


def read_user_config(given: Mapping[str, Any]) -> Settings:
    """The settings of a replica, as Ray Serve's user_config has them. Raises RuntimeError, for Ray's log, naming what
    is wrong with it and a remedy."""
    if strangers := sorted(given.keys() - set(OF_REPLICAS)):
        known = ", ".join(OF_REPLICAS)
        raise RuntimeError(f"user_config.{strangers[0]}: no setting of a replica; it may have {known}")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise RuntimeError(f"user_config.{name}: {first['msg'].removeprefix('Value error, ')}") from None


def ongoing_requests(settings: Settings) -> int:
    """So many requests are taken on by a replica at a time: more would wait in Ray Serve, which is slow to go on.

    Of each front those are its drawings, the watch, and what it tells: one after another.
    """
    return MAX_FRONTS * (settings.running_jobs + 2)


def is_kept(state: str) -> bool:
    """Does an application in this state, as Ray Serve calls it, become whole without being deployed anew?"""
    return state in _KEPT


def is_open(environment: Mapping[str, str]) -> bool:
    """Does what Ray starts in this environment do what anybody says, without asking for the token?"""
    return environment.get(AUTH_MODE, "").lower() != "token"


def refuse_open(settings: Settings, open_: Sequence[str], silent: Sequence[str]) -> None:
    """Raise ConfigError if any machines of a cluster are open, or do not say."""
    if open_:
        raise ConfigError(
            f"{settings.cluster_as_set}: {', '.join(sorted(open_))} of it run what any stranger sends, without asking"
            f" for the token; `ray stop` there, `export {AUTH_MODE}=token RAY_AUTH_TOKEN_PATH=…`, then `ray start`, the"
            " head first"
        )
    if silent:
        raise ConfigError(
            f"{settings.cluster_as_set}: {', '.join(sorted(silent))} of it do not say whether they ask for the token;"
            " `ray status` says whether they are there, and `ray stop` on such a machine takes it out"
        )


_JOINING = {
    "Version mismatch": "the cluster runs another Ray or Python; install the same versions of both on all machines",
    "Failed to connect to Ray cluster": "it lets nobody in with this token, or is no Ray; name the file with the"
    " cluster's own token by RAY_AUTH_TOKEN_PATH, and the port of `ray start --head`",
    "uthenticat": "the cluster refuses this token; name the file with its own by RAY_AUTH_TOKEN_PATH",
    "AuthToken": "the cluster refuses this token; name the file with its own by RAY_AUTH_TOKEN_PATH",
    "raylet": "this machine is no node of it; `ray start --address=HEAD:PORT --num-cpus=0` here makes it one",
    "node to connect": "this machine is no node of it; `ray start --address=HEAD:PORT --num-cpus=0` here makes it one",
}


def explain_joining(error: Exception) -> str:
    """What Ray says of a cluster that it cannot join, with a remedy."""
    text = _line(error)
    remedy = next((remedy for sign, remedy in _JOINING.items() if sign in text), "the log of Ray says why")
    return f"{remedy} ({type(error).__name__}: {text[:300]})"


def explain_deploying(error: Exception) -> str:
    """What Ray Serve says of replicas that it cannot start, with a remedy."""
    return (
        "it was joined, and its replicas do not start; on their machines the logs of Ray say why, in"
        f" /tmp/ray/session_latest/logs ({type(error).__name__}: {_line(error)[:300]})"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
