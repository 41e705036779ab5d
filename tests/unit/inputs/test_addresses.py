"""Which spellings of a URL are accepted, and which addresses are public."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from server.inputs.addresses import WebAddress, is_public, parse_host, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com", WebAddress("http", "example.com", 80, "/")),
        ("HTTPS://Example.COM:8443/a%20b?c=d#e", WebAddress("https", "example.com", 8443, "/a%20b?c=d")),
        ("https://example.com?x=1", WebAddress("https", "example.com", 443, "/?x=1")),
        ("http://93.184.216.34/", WebAddress("http", IPv4Address("93.184.216.34"), 80, "/")),
        ("http://[2606:2800::1]:81/", WebAddress("http", IPv6Address("2606:2800::1"), 81, "/")),
        ("http://my_service/é?ü", WebAddress("http", "my_service", 80, "/%C3%A9?%C3%BC")),
        ("http://xn--bcher-kva.example/", WebAddress("http", "xn--bcher-kva.example", 80, "/")),
    ],
)
def test_unambiguous_urls(url: str, expected: WebAddress) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http:///etc/passwd",
        "http:example.com",
        "//example.com/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "javascript:alert(1)",
        " http://example.com/",
        "http://example.com/ ",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://a\\@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com:80@127.0.0.1/",
        "http://example.com/\r\nHost: x",
        "http://example.com/a\tb",
        "http://example.com/\0",
        "http://example.com/\ud800",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:99999999999/",
        "http://example.com:８０/",
        "http://example.com:-1/",
        "http://example.com:/",
        "http://example%2ecom/",
        "http://exa mple.com/",
        "http://example.com./",
        "http://.example.com/",
        "http://example..com/",
        "http://-example.com/",
        "http://" + "a" * 64 + ".com/",
        "http://" + "a." * 127 + "com/",
        "http://bücher.example/",
        "http://ⓔⓧⓐⓜⓟⓛⓔ.ⓒⓞⓜ/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0x/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://127.0.0.01/",
        "http://1.2.3.4.5/",
        "http://example.com.1/",
        "http://256.0.0.1/",
        "http://[127.0.0.1]/",
        "http://[::1/",
        "http://::1/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[v1.x]/",
        "http://[::1]x/",
    ],
)
def test_ambiguous_or_foreign_urls(url: str) -> None:
    assert parse_url(url) is None


def test_host_header_names_the_port_only_when_it_is_unusual() -> None:
    for url, authority in {
        "http://a.example:80/": "a.example",
        "https://a.example:80/": "a.example:80",
        "http://[2606::1]/": "[2606::1]",
        "https://[2606::1]:8443/": "[2606::1]:8443",
    }.items():
        where = parse_url(url)
        assert where is not None
        assert where.authority == authority


def test_hosts_are_compared_as_addresses_and_not_as_text() -> None:
    assert parse_host("[2606:0:0::0001]") == parse_host("[2606::1]")
    assert parse_host("LocalHost") == "localhost"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:169.254.169.254",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:10::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:2800::1%1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.216.34",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "64:ff9b::808:808",
    ],
)
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))
