"""Settings: a bad one stops start-up with its name, its value and its bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import ConfigError
from server.settings import Settings, read_settings
from server.sizes import MIB, memory_of


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("DARKROOM_")]:
        monkeypatch.delenv(name)


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_QEUE_SIZE", "5")
    with pytest.raises(ConfigError, match="DARKROOM_QEUE_SIZE"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "70000", "65535"),
        ("port", "http", "integer"),
        ("queue_size", "0", "1"),
        ("url_lifetime_s", "0", "1"),
        ("step_timeout_s", "0", "greater than 0"),
        ("device", "tpu", "cuda"),
        ("cluster", "auto", "local"),
        ("cluster", "ray://head:10001", "HOST:PORT"),
        ("cluster", "head", "HOST:PORT"),
        ("cluster", "head:0", "HOST:PORT"),
        ("cluster_replicas", "0", "begins at 1 or more"),
        ("cluster_replicas", "0..3", "begins at 1 or more"),
        ("cluster_replicas", "3..1", "a range as 1..3"),
        ("cluster_replicas", "1-3", "a range as 1..3"),
        ("cluster_replicas", "1..9999", "of 1000 at most"),
        ("cluster_jobs", "0", "greater than or equal to 1"),
        ("log_level", "loud", "debug"),
        ("threads", "0", "auto or a number from 1 to 1024"),
        ("threads", "1025", "auto or a number from 1 to 1024"),
        ("threads", "1000000000000", "auto or a number from 1 to 1024"),
        ("threads", "two", "auto or a number from 1 to 1024"),
        ("public_url", "pictures.example", "http"),
        ("public_url", "http://x/?a=1", "query"),
        ("store", "ftp://x", "s3://bucket"),
        ("fetch", "http://host/", "scheme"),
        ("allow_open", "perhaps", "bool"),
        ("cors_origins", "", "scheme, host"),
        ("cors_origins", "app.example.com", "scheme, host"),
        ("cors_origins", "https://app.example.com/path", "without a path"),
        ("cors_origins", "https://*.example.com", "scheme, host"),
        ("cors_origins", "https://bücher.example", "in ASCII"),
        ("cors_origins", "https://app.example.com:0", "scheme, host"),
        ("cors_origins", "https://app.example.com:99999", "scheme, host"),
        ("cors_origins", "https://a.example,,https://b.example", "scheme, host"),
        ("cors_origins", "https://a.example,*", "stands alone"),
        ("cors_origins", "null", "every page without an origin"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_name_value_and_bound(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"DARKROOM_{name.upper()}", value)
    with pytest.raises(ConfigError) as refused:
        read_settings()
    for part in (f"DARKROOM_{name.upper()}", f"--{name.replace('_', '-')}", repr(value), says):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        (None, ()),
        ("*", ("*",)),
        (" https://App.Example.com/ , http://localhost:5173", ("https://app.example.com", "http://localhost:5173")),
        ("https://a.example:443,http://a.example:80,https://a.example:80",
         ("https://a.example", "http://a.example", "https://a.example:80")),
        ("chrome-extension://abcdef,tauri://localhost,http://[::1]:3000",
         ("chrome-extension://abcdef", "tauri://localhost", "http://[::1]:3000")),
    ],
)  # fmt: skip
def test_origins_are_read_as_browsers_write_them(value: str | None, origins: tuple[str, ...]) -> None:
    assert read_settings(cors_origins=value).origins == origins


@pytest.mark.parametrize(("value", "replicas"), [("2", (2, 2)), ("1..3", (1, 3)), ("declared", None), (None, None)])
def test_replicas_are_a_number_or_a_range(value: str | None, replicas: tuple[int, int] | None) -> None:
    assert Settings(cluster="head:6379", cluster_replicas=value).replicas == replicas


@pytest.mark.parametrize(
    ("cluster", "replicas", "says"),
    [(None, "1..3", "there is no cluster"), ("local", "declared", "has no Serve config")],
)
def test_replicas_without_the_cluster_for_them_are_refused(cluster: str | None, replicas: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        read_settings(None, cluster=cluster, cluster_replicas=replicas)
    assert f"DARKROOM_CLUSTER_REPLICAS (--cluster-replicas) = {replicas}" in str(refused.value)


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_SIGNING_KEY", "canary")
    with pytest.raises(ConfigError) as refused:
        read_settings()
    assert "canary" not in str(refused.value)
    assert "canary" not in repr(Settings(signing_key="canary-canary-canary"))


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "1")
    monkeypatch.setenv("DARKROOM_QUEUE_SIZE", "7")
    settings = read_settings(["--port", "2", "--data-dir", str(tmp_path), "--no-picture-metadata"])
    assert (settings.port, settings.queue_size, settings.picture_metadata) == (2, 7, False)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_on_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).on_loopback is loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_bind_without_keys_refuses_to_start(host: str, tmp_path: Path) -> None:
    from server.app import create_app
    from server.edge.keys import Keyring

    with pytest.raises(ConfigError, match="darkroom keys create"):
        create_app(Settings(host=host, data_dir=tmp_path))
    create_app(Settings(host=host, data_dir=tmp_path, allow_open=True))
    Keyring(tmp_path / "keys.json").create("someone")
    create_app(Settings(host=host, data_dir=tmp_path))


def test_the_budget_of_bytes_is_never_under_two_bodies() -> None:
    assert Settings().held_bytes == 512 * MIB
    assert Settings(max_body_bytes=400 * MIB).held_bytes == 800 * MIB  # as it was set before there was a budget
    assert Settings(max_body_bytes=4 * MIB, max_held_bytes=8 * MIB).held_bytes == 8 * MIB
    with pytest.raises(ConfigError, match=r"max-held-bytes.*twice max_body_bytes"):
        read_settings(max_held_bytes=100 * MIB)


@pytest.mark.parametrize(
    ("text", "means"),
    [("12GiB", 12 << 30), ("9 MiB", 9 << 20), ("1.5GB", 1_500_000_000), ("50%", 512), ("0.25", 256)],
)
def test_device_memory_is_bytes_or_a_share(text: str, means: int) -> None:
    assert memory_of(text, 1024) == means


@pytest.mark.parametrize("text", ["", "0", "101%", "1.5", "12", "-1GiB", "lots", "1TiB", "0GiB"])
def test_device_memory_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"DEVICE_MEMORY.*must be like 12GiB"):
        read_settings(device_memory=text)


def test_threads_are_a_number_or_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().threads == "auto"
    monkeypatch.setenv("DARKROOM_THREADS", "4")
    assert read_settings().threads == 4
    assert read_settings(["--threads", "auto"]).threads == "auto"
