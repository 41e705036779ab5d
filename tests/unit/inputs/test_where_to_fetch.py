"""Ports and own addresses: a public address is not enough to be fetched from."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest

from server.errors import BadImage, ConfigError
from server.inputs import own_addresses
from server.inputs.addresses import Address, parse_host_and_port
from server.inputs.fetch import Fetcher
from server.inputs.guard import is_elsewhere
from server.inputs.own_addresses import is_own

PUBLIC = "93.184.216.34"


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Addresses and ports that were dialled; each refuses the connection."""
    seen: list[tuple[str, int]] = []

    async def connect_tcp(self: Any, host: str, port: int, **_: Any) -> Any:
        seen.append((host, port))
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", (PUBLIC, port))])
    return seen


async def refusal(setting: str, url: str) -> str:
    async def nothing(url: str) -> bytes | None:
        return None

    with pytest.raises(BadImage) as caught:
        await Fetcher(setting, timeout_s=5, max_bytes=1000, own=nothing).fetch(url, param="image")
    return caught.value.message


@pytest.mark.anyio
@pytest.mark.parametrize("port", [1, 22, 79, 81, 2375, 6379, 8000, 8080, 8443, 65535])
@pytest.mark.parametrize("host", ["images.example", PUBLIC, "[2606:4700::1111]"])
async def test_public_means_the_ports_of_the_web(host: str, port: int, dialled: list[tuple[str, int]]) -> None:
    """Any port of any public address was asked, also of services that only forgot to be private."""
    assert "on port 80 or 443" in await refusal("public", f"http://{host}:{port}/")
    assert dialled == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "port"),
    [("http://a.example/", 80), ("http://a.example:443/", 443), ("http://a.example:80/", 80)],
)
async def test_the_ports_of_the_web_are_asked(url: str, port: int, dialled: list[tuple[str, int]]) -> None:
    await refusal("public", url)
    assert dialled == [(PUBLIC, port)]


@pytest.mark.anyio
async def test_a_listed_host_has_its_port_or_any(dialled: list[tuple[str, int]]) -> None:
    setting = "one.example:8443, any.example, [fd00::1]:9000, fd00::2, 10.0.0.7:81"
    for url in (
        "http://one.example:8443/",
        "http://any.example:1234/",
        "http://[fd00::1]:9000/",
        "http://[fd00::2]:9000/",
        "http://10.0.0.7:81/",
    ):
        await refusal(setting, url)
    assert dialled == [(PUBLIC, 8443), (PUBLIC, 1234), ("fd00::1", 9000), ("fd00::2", 9000), ("10.0.0.7", 81)]
    for url in ("http://one.example/", "https://one.example/", "http://[fd00::1]/", "http://10.0.0.7/"):
        await refusal(setting, url)
    assert len(dialled) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Minio.internal:9000", ("minio.internal", 9000)),
        ("minio", ("minio", None)),
        ("10.0.0.7:65535", (ip_address("10.0.0.7"), 65535)),
        ("[fd00::1]:443", (ip_address("fd00::1"), 443)),
        ("[fd00::1]", (ip_address("fd00::1"), None)),
        ("fd00::1", (ip_address("fd00::1"), None)),
        ("fd00::1:443", (ip_address("fd00::1:443"), None)),
    ],
)
def test_hosts_as_owners_list_them(text: str, expected: tuple[str | Address, int | None]) -> None:
    assert parse_host_and_port(text) == expected


@pytest.mark.parametrize(
    "text",
    ["a:", "a:0", "a:65536", "a:123456", "a:http", "a: 80", ":80", "[::1", "[::1]80", "[a]:80", "a:b:c"],
)
def test_ports_that_are_none_stop_at_the_door(text: str) -> None:
    assert parse_host_and_port(text) is None
    with pytest.raises(ConfigError, match="DARKROOM_FETCH"):
        Fetcher(text, timeout_s=1, max_bytes=1, own=lambda _: None)  # type: ignore[arg-type, return-value]


# --- own addresses ---


@pytest.mark.anyio
@pytest.mark.parametrize("url", [f"http://{PUBLIC}/", "http://a.example/", "http://[64:ff9b::5db8:d822]/"])
async def test_a_public_address_of_this_machine_is_refused(
    url: str, dialled: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever listens on all interfaces could be asked by the address that a firewall guards."""
    monkeypatch.setattr(own_addresses, "_has", lambda address: str(address) == PUBLIC)
    message = await refusal("public", url)
    assert dialled == []
    assert message == await refusal("public", "http://127.0.0.1/"), "what exists here is nobody's business"
    await refusal("a.example", "http://a.example/")
    assert dialled == [(PUBLIC, 80)], "a listed host may be this machine"


def test_the_kernel_says_what_is_ours() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.1"))
    assert not is_own(ip_address("2001:db8::1"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((PUBLIC, 9))
        except OSError:
            pytest.skip("no route from here")
        mine = asked.getsockname()[0]
    assert is_own(ip_address(mine))
    assert is_own(ip_address("64:ff9b::" + mine))


def test_a_second_address_of_an_interface_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets to it come from the first address: only binding tells."""
    monkeypatch.setattr(own_addresses, "_source_to", lambda address: None)
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.7"))


def test_a_host_that_may_bind_foreign_addresses_owns_them_no_more_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_addresses, "_can_bind", lambda address: True)  # ip_nonlocal_bind
    assert not is_own(ip_address(PUBLIC))
    assert is_own(ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    "address",
    ["::ffff:93.184.216.34", "::93.184.216.34", "2002:5db8:d822::1", "64:ff9b:1::5db8:d822", "2001:0:5db8:d822::1"],
)
def test_other_spellings_of_an_ipv4_address_are_not_public_at_all(address: str) -> None:
    assert not is_elsewhere(ip_address(address))


def test_an_address_with_a_zone_is_never_public() -> None:
    assert not is_elsewhere(ip_address("2606:4700::1111%eth0"))
