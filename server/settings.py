"""Settings: every knob of one server, read once from flags and ``DARKROOM_*`` variables, then frozen.

Knows names, bounds and defaults; opens no file and starts nothing. Units are part of the names.
``docs/settings.md`` lists every field; a test compares the two.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from server import setting_values as values
from server.errors import ConfigError
from server.sizes import MIB

ENV_PREFIX = "DARKROOM_"
URL_VARIABLE = "DARKROOM_URL"  # of commands that ask a server, not settings of one
API_KEY_VARIABLE = "DARKROOM_API_KEY"


def _default_data_dir() -> Path:
    try:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:  # a container's number without a name, and no HOME
        raise ConfigError("this user has no home folder: name a folder with DARKROOM_DATA_DIR (--data-dir)") from None
    return Path(base) / "darkroom"


class Settings(BaseSettings):
    """One server's settings. Fields are grouped as in docs/settings.md."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="darkroom serve",
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    # Where it listens
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public_url: Annotated[str | None, AfterValidator(values.http_url)] = Field(
        None, description="what clients type before the path; picture URLs start with it"
    )
    allow_open: bool = Field(False, description="serve anyone beyond loopback, or after the last key, without a key")
    tls_cert: Path | None = Field(
        None,
        description="serve HTTPS with this certificate, a PEM file with those that vouch for it behind it; read again"
        " when it changes; default: HTTP",
    )
    tls_key: Path | None = Field(None, description="the certificate's private key, a PEM file without a passphrase")
    cors_origins: Annotated[str | None, AfterValidator(values.cors_origins)] = Field(
        None,
        description="origins whose web pages may use this server, comma-separated: https://app.example.com; * is any,"
        " on a server with keys; default: none",
    )

    # What it serves
    models: Path | None = Field(
        None, description="models.yaml; default: the one in this folder, else the one that ships"
    )
    devices: Annotated[str, AfterValidator(values.devices)] = Field(
        "auto",
        description="what draws, with a worker for each: auto (every CUDA device, also AMD's, else the CPU), cpu, cuda,"
        " or a list: cuda:0,cuda:2, UUIDs of GPUs and MIG parts, cpu,cpu; mps (Apple) and xpu (Intel) are untested",
    )
    device: Annotated[str | None, AfterValidator(values.devices)] = Field(
        None, description="the old name of devices; only one of the two can be set"
    )
    cluster: Annotated[str | None, AfterValidator(values.cluster)] = Field(
        None,
        description="draw on the machines of a Ray cluster (pip install 'darkroom[ray]'): local starts one here,"
        " HOST:PORT joins the one whose head is there; default: without Ray",
    )
    cluster_replicas: Annotated[str | None, AfterValidator(values.replicas)] = Field(
        None,
        description="how many replicas a cluster has, one device each: 2; 1..3, by how many jobs there are; declared,"
        " by a Serve config, which is waited for; default: one for each device that it has as it is deployed",
    )
    cluster_jobs: int = Field(
        8,
        ge=1,
        le=100_000,
        description="within such a range, how many jobs there are for each replica, waiting ones included",
    )
    threads: Annotated[int | Literal["auto"], BeforeValidator(values.threads)] = Field(
        "auto",
        description="threads of each worker on the CPU, 1 to 1024; auto: the cores that this process may use (by its"
        " affinity and its control group), shared out, or OMP_NUM_THREADS if that is set",
    )
    mcp: bool = Field(
        True, description="serve agents at /mcp, where the extra is installed (pip install 'darkroom[mcp]')"
    )
    fetch: Annotated[str, AfterValidator(values.fetch)] = Field(
        "public",
        description="what an image URL may point to: public, off, or hosts (name, address, host:port), comma-separated",
    )

    sdapi: bool = Field(True, description="answer AUTOMATIC1111's API under /sdapi/v1 too; off: 404 there")
    webhooks: Annotated[str, AfterValidator(values.webhooks)] = Field(
        "off",
        description="which URLs may be told that an async job has ended: off, public (https alone), or hosts as fetch",
    )

    # How it shares the device
    idle_s: float = Field(
        0.0,
        ge=0,
        description="a model idle for so long leaves for host memory (on the CPU: for the disk); 0: never",
    )
    idle_unload_s: float = Field(
        0.0, ge=0, description="and after this for the disk, the worker with the last of them; 0: never"
    )
    device_memory: Annotated[str | None, AfterValidator(values.device_memory)] = Field(
        None,
        description="most memory of each device to use: 12GiB, or a share as 50%; default: all that is free at start",
    )

    # Where it keeps things
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="keys, what they used, secrets, async jobs, what checks at load found and, by default, pictures",
    )
    store: Annotated[str, AfterValidator(values.store)] = Field(
        "local", description="local, or s3://bucket/prefix (credentials from the usual AWS_* variables)"
    )
    s3_endpoint: str | None = Field(None, description="S3-compatible endpoint URL, for a store that is not AWS")
    signing_key: Annotated[SecretStr | None, AfterValidator(values.signing_key)] = Field(
        None,
        description="secret that signs picture URLs (16 characters or more); default: made once, kept in data_dir",
    )
    url_lifetime_s: int = Field(3600, ge=1, le=7 * 86400, description="how long a picture URL lives")
    sweep_interval_s: float = Field(60.0, gt=0, description="how often expired pictures are deleted")
    picture_metadata: bool = Field(True, description="write prompt, model, seed and steps into the picture")
    provenance: bool = Field(
        True, description="write into the picture that a model made it: IPTC's digital source type, as XMP"
    )
    c2pa_cert: Path | None = Field(
        None,
        description="sign pictures with this certificate (pip install 'darkroom[c2pa]'), a PEM file with those that"
        " vouch for it behind it; default: they are not signed",
    )
    c2pa_key: Path | None = Field(None, description="that certificate's private key, a PEM file without a passphrase")

    # How much it takes
    queue_size: int = Field(64, ge=1, le=100_000, description="jobs admitted at once, running ones included")
    running_jobs: int = Field(
        64, ge=1, le=256, description="jobs that draw at a time on a device and share steps; others wait their turn"
    )
    key_jobs: int = Field(0, ge=0, description="jobs that one key may have at once; 0: no limit of its own")
    async_jobs: int = Field(
        1000,
        ge=1,
        le=10_000,
        description="unfinished jobs of Prefer: respond-async; they wait on the disk, and half of queue_size at most is"
        " theirs",
    )
    max_connections: int | None = Field(
        None, ge=16, le=1_000_000, description="connections at once; default: the descriptors of the process − 256"
    )
    max_connections_per_address: int = Field(
        0, ge=0, description="connections at once from one address; 0: no such limit, as all have one behind a proxy"
    )
    max_body_bytes: int = Field(64 * MIB, ge=1024, description="largest request body")
    max_held_bytes: int = Field(
        512 * MIB,
        ge=2048,
        description="bytes of bodies and answers held at a time; twice max_body_bytes or more, which is the default if"
        " that is larger",
    )
    max_image_bytes: int = Field(20 * MIB, ge=1024, description="largest input picture, encoded")
    max_image_pixels: int = Field(50_000_000, ge=1, description="largest input picture, width × height")
    max_input_images: int = Field(16, ge=1, le=64, description="most input pictures in one request")

    # How long it waits
    header_timeout_s: float = Field(10.0, gt=0, description="for the request line and headers to arrive")
    body_timeout_s: float = Field(60.0, gt=0, description="for the whole body to arrive")
    write_timeout_s: float = Field(60.0, gt=0, description="for a client to take more of an answer that waits for it")
    fetch_timeout_s: float = Field(10.0, gt=0, description="for an image URL to be fetched")
    webhook_timeout_s: float = Field(10.0, gt=0, description="for a webhook to be answered")
    job_timeout_s: float = Field(
        600.0, gt=0, description="from admission to the last picture; of an async job, from its permit"
    )
    step_timeout_s: float = Field(300.0, gt=0, description="without a sign of life from a busy worker, it is replaced")
    load_timeout_s: float = Field(
        900.0, gt=0, description="without a sign of life from a worker that loads a model, it is replaced"
    )
    hub_headers_s: float = Field(
        30.0,
        ge=0,
        le=55,
        description="until an unfinished /api/v2/image sends headers; its clients repeat after 60",
    )
    drain_timeout_s: float = Field(30.0, ge=0, description="for running jobs to finish after SIGTERM or SIGINT")

    # What it says
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_prompts: bool = Field(False, description="write prompts to the log")

    @property
    def held_bytes(self) -> int:
        """The budget of bytes: ``max_held_bytes``, or what the largest bodies need."""
        return max(self.max_held_bytes, 2 * self.max_body_bytes)

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins that ``cors_origins`` names; ``("*",)`` is any."""
        return () if self.cors_origins is None else values.origin_list(self.cors_origins)

    @property
    def device_words(self) -> tuple[str, ...]:
        """What ``devices``, or ``device`` in its place, names."""
        return tuple(word.strip() for word in (self.device or self.devices).split(","))

    @property
    def device_kind(self) -> str:
        """The kind of the first device: auto, cpu, cuda, mps or xpu."""
        first = self.device_words[0]
        return "cuda" if first.startswith(("cuda", "GPU-", "MIG-")) else first

    @property
    def devices_as_set(self) -> str:
        """The setting with its value, for a message: under the name that it was set by."""
        name = "devices" if self.device is None else "device"
        return f"{ENV_PREFIX}{name.upper()} (--{name}) = {getattr(self, name)}"

    @property
    def cluster_as_set(self) -> str:
        """The setting with its value, for a message."""
        return f"{ENV_PREFIX}CLUSTER (--cluster) = {self.cluster}"

    @property
    def replicas(self) -> tuple[int, int] | None:
        """The least and the most replicas of a cluster; None where the setting does not say."""
        return (
            None if self.cluster_replicas is None or self.is_declared else values.replica_range(self.cluster_replicas)
        )

    @property
    def is_declared(self) -> bool:
        """Does a Serve config say what there is to be of a cluster, and no front?"""
        return self.cluster_replicas == values.DECLARED

    @property
    def replicas_as_set(self) -> str:
        """The setting with its value, for a message."""
        return f"{ENV_PREFIX}CLUSTER_REPLICAS (--cluster-replicas) = {self.cluster_replicas}"

    @property
    def scheme(self) -> str:
        """Of the URLs at which the server itself answers."""
        return "http" if self.tls_cert is None else "https"

    @property
    def on_loopback(self) -> bool:
        """Does the server listen where only this machine reaches it?"""
        return values.is_loopback(self.host.strip("[]"))

    @property
    def this_machine_only(self) -> bool:
        """Does nobody reach the server from elsewhere? A public_url beyond loopback says that a proxy lets them in."""
        return self.on_loopback and (self.public_url is None or values.is_loopback(values.host_of(self.public_url)))


def read_settings(argv: list[str] | None = None, **overrides: Any) -> Settings:
    """Read the settings: overrides, then flags, then the environment, then defaults.

    Raises ConfigError naming the setting, its value and its bound. ``argv=None`` reads no flags.
    """
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {URL_VARIABLE, API_KEY_VARIABLE}
    strangers = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name.upper() not in known)
    if strangers:
        raise ConfigError(f"{strangers[0]}: no such setting; `darkroom serve --help` lists them")
    try:
        settings = Settings(**overrides) if argv is None else CliApp.run(Settings, cli_args=argv, **overrides)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item) for item in error.errors())) from None
    if settings.device is not None and "devices" in settings.model_fields_set:
        raise ConfigError(
            f"{settings.devices_as_set}: is the old name of {ENV_PREFIX}DEVICES (--devices), which is set too; leave"
            " one of the two out"
        )
    _require_pair("tls", settings.tls_cert, settings.tls_key, "HTTPS needs")
    _require_pair("c2pa", settings.c2pa_cert, settings.c2pa_key, "signing pictures needs")
    if settings.cluster_replicas is not None and settings.cluster is None:
        raise ConfigError(
            f"{settings.replicas_as_set}: there is no cluster; set {ENV_PREFIX}CLUSTER (--cluster) too, or leave this"
            " out"
        )
    if settings.is_declared and settings.cluster == "local":
        raise ConfigError(
            f"{settings.replicas_as_set}: a cluster that the server starts itself has no Serve config; name the head of"
            f" one that has, with {ENV_PREFIX}CLUSTER (--cluster), or how many replicas there are to be"
        )
    if settings.mcp and "mcp" in settings.model_fields_set and not values.has_mcp():  # by itself: where it can be
        raise ConfigError(f"{ENV_PREFIX}MCP (--mcp) = true: needs a package that is not installed: {values.MCP_EXTRA}")
    written = "max_held_bytes" in settings.model_fields_set  # its default grows with the largest body
    if written and settings.max_held_bytes < settings.held_bytes:
        raise ConfigError(
            f"{ENV_PREFIX}MAX_HELD_BYTES (--max-held-bytes) = {settings.max_held_bytes}: must be twice max_body_bytes"
            f" or more, which is {settings.held_bytes}"
        )
    return settings


def _require_pair(name: str, certificate: Path | None, key: Path | None, who: str) -> None:
    if (certificate is None) != (key is None):
        there, missing = ("cert", "key") if key is None else ("key", "cert")
        raise ConfigError(
            f"{ENV_PREFIX}{name.upper()}_{there.upper()} (--{name}-{there}) is set and"
            f" {ENV_PREFIX}{name.upper()}_{missing.upper()} (--{name}-{missing}) is not: {who} the certificate and its"
            " key"
        )


def _explain(item: ErrorDetails) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "settings"
    shown = "" if name == "signing_key" else f" = {item.get('input')!r}"
    why = item["msg"].removeprefix("Value error, ")  # pydantic's mark of what our own checks say
    return f"{ENV_PREFIX}{name.upper()} (--{name.replace('_', '-')}){shown}: {why}"
