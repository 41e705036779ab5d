"""What the value of a setting may be: one check for each setting that a bound alone does not describe.

Every check returns its value, or raises ValueError with what it must be. None is a setting that is not set.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from server.sizes import memory_of

DECLARED: Final = "declared"
MCP_EXTRA: Final = "pip install 'darkroom[mcp]'"
_MAX_THREADS = 1024  # of a worker
_DEVICE = re.compile(r"cpu|mps|xpu|cuda:\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,99}", re.ASCII)
_MAX_DEVICES = 64
_HEAD = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,253}):(?P<port>\d{1,5})", re.ASCII)
_REPLICAS = re.compile(r"(?P<least>\d{1,4})(\.\.(?P<most>\d{1,4}))?", re.ASCII)
_MAX_REPLICAS = 1000
_MIN_SECRET_LENGTH = 16
ANY_ORIGIN: Final = "*"
# Extensions and desktop programs have schemes of their own: chrome-extension://…, tauri://localhost, app://obsidian.md
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def http_url(value: str | None) -> str | None:
    """A URL that clients type before the path, without a slash at its end."""
    if value is None:
        return None
    if not value.startswith(("http://", "https://")) or "?" in value or "#" in value or not host_of(value):
        raise ValueError("must start with http:// or https://, name a host and carry no query")
    return value.rstrip("/")


def cors_origins(value: str | None) -> str | None:
    """Origins of web pages."""
    if value is not None:
        origin_list(value)
    return value


def origin_list(text: str) -> tuple[str, ...]:
    """The origins that ``text`` names, each as browsers write it: small letters, no port that the scheme has anyway."""
    words = [word.strip() for word in text.split(",")]
    if words == [ANY_ORIGIN]:
        return (ANY_ORIGIN,)
    return tuple(_origin(word) for word in words)


def _origin(word: str) -> str:
    if word == ANY_ORIGIN:
        raise ValueError("* stands alone: it names every origin")
    if word.lower() == "null":
        raise ValueError("null is what every page without an origin sends, a file's and a stranger's sandbox's alike")
    match = _ORIGIN.fullmatch(word.removesuffix("/").lower())
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        raise ValueError(
            "must be origins, comma-separated, as https://app.example.com or http://localhost:5173: scheme, host and"
            " perhaps a port, in ASCII, without a path; or * alone"
        )
    own = match["port"] is None or _DEFAULT_PORTS.get(match["scheme"]) == int(match["port"])
    return f"{match['scheme']}://{match['host']}" + ("" if own else f":{int(match['port'])}")


def store(value: str) -> str:
    """Where pictures are kept."""
    if value != "local" and not (value.startswith("s3://") and len(value) > len("s3://")):
        raise ValueError("must be local or s3://bucket/prefix")
    return value


def devices(value: str | None) -> str | None:
    """What draws: one word, or a list."""
    if value is None or value.strip() in ("auto", "cuda"):
        return value
    words = [word.strip() for word in value.split(",")]
    if len(words) > _MAX_DEVICES or not all(_DEVICE.fullmatch(word) for word in words):
        raise ValueError(
            "must be auto, cpu, cuda, mps, xpu, or a list, comma-separated, of cpu, cuda:NUMBER, GPU-UUID and MIG-UUID"
        )
    return value


def threads(value: object) -> object:
    """Threads of a worker; the text of a number becomes one."""
    if value == "auto" or (isinstance(value, int) and 1 <= value <= _MAX_THREADS):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= _MAX_THREADS:
        return int(value)
    raise ValueError(f"must be auto or a number from 1 to {_MAX_THREADS}")


def cluster(value: str | None) -> str | None:
    """Which Ray cluster."""
    head = _HEAD.fullmatch(value) if value is not None else None
    if value not in (None, "local") and (head is None or not 0 < int(head["port"]) < 65536):
        raise ValueError("must be local, or HOST:PORT of the head of a Ray cluster (Ray's own port is 6379)")
    return value


def replicas(value: str | None) -> str | None:
    """How many replicas a cluster has."""
    if value is not None and value != DECLARED:
        replica_range(value)
    return value


def replica_range(text: str) -> tuple[int, int]:
    """The least and the most replicas that ``text`` names."""
    match = _REPLICAS.fullmatch(text.strip())
    least = int(match["least"]) if match is not None else 0
    most = int(match["most"] or least) if match is not None else 0
    if match is not None and not least:
        raise ValueError(
            "begins at 1 or more: Ray Serve hears from the replicas how many jobs there are, and where there is none"
            " nobody would start the first"
        )
    if not 0 < least <= most <= _MAX_REPLICAS:
        raise ValueError(
            f"must be a number of replicas as 2, or a range as 1..3, of {_MAX_REPLICAS} at most, or {DECLARED}"
        )
    return least, most


def fetch(value: str) -> str:
    """What an image URL may point to."""
    if not value.strip() or any("/" in host or not host.strip() for host in value.split(",")):
        raise ValueError("must be public, off, or hosts, comma-separated, without a scheme")
    return value


def webhooks(value: str) -> str:
    """Which URLs may be told that a job has ended."""
    if not value.strip() or any("/" in host or not host.strip() for host in value.split(",")):
        raise ValueError("must be off, public, or hosts, comma-separated, without a scheme")
    return value


def device_memory(value: str | None) -> str | None:
    """Bytes, or a share of them."""
    if value is not None:
        memory_of(value, 1 << 40)
    return value


def has_mcp() -> bool:
    """Is the package there that agents are served with? Of its first major version there is another beside it."""
    return importlib.util.find_spec("mcp_types") is not None


def signing_key(value: SecretStr | None) -> SecretStr | None:
    """A secret that nobody guesses."""
    if value is not None and len(value.get_secret_value()) < _MIN_SECRET_LENGTH:
        raise ValueError(f"must have {_MIN_SECRET_LENGTH} characters or more")
    return value


def host_of(url: str) -> str:
    """The host of a URL, in small letters; empty where it has none that can be read."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Is it a name or an address by which only this machine is reached?"""
    if host.rstrip(".") == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
