"""URLs that mean the inside of the network, in the spellings that have fooled servers."""

from __future__ import annotations

_HOSTS = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1.2.3",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "127.000.000.001",
    "127.0.0.1.",
    "0x7f.1",
    "00000177.1",
    "127.0.0.1%00.example.com",
    "①②⑦.⓪.⓪.①",
    "１２７．０．０．１",
    "127。0。0。1",
    "127.0.0.1%2e",
    "256.127.0.1",
    "4294967297",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[::1%25lo]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "localhost.localdomain",
    "ip6-localhost",
    "inside.example",
    "mixed.example",
    "six.example",
    "rebound.example",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "metadata.google.internal",
    "224.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "203.0.113.7",
]
_FORMS = [
    "http://user@127.0.0.1:PORT/",
    "http://public.example@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@public.example/",
    "http://public.example#@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@public.example/",
    "http://public.example\\@127.0.0.1:PORT/",
    "http://public.example:80@127.0.0.1:PORT/",
    "http:127.0.0.1:PORT/",
    "http:/127.0.0.1:PORT/",
    "http:///127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "http://127.0.0.1:PORT;public.example/",
    "http://[127.0.0.1]:PORT/",
    "http://127.0.0.1:0PORT/",
    "HTTP://127.0.0.1:PORT/",
    "hTTps://127.0.0.1:PORT/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "gopher://127.0.0.1:PORT/_x",
    "ftp://127.0.0.1:PORT/",
    "dict://127.0.0.1:PORT/",
    "ws://127.0.0.1:PORT/",
    "unix:///var/run/docker.sock",
    "jar:http://127.0.0.1:PORT/!/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "ldap://127.0.0.1:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://localhost%00:PORT/",
]
_SPACED = (
    "http://127.0.0.1\t:{port}/",
    "\thttp://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/\r\nX: y",
    "http://127.0\n.0.1:{port}/",
)


def urls(port: int) -> list[str]:
    """All of them, with the port of the canaries, and those whose scheme has one without it."""
    hosts = [f"http://{host}:{port}/" for host in _HOSTS]
    bare = [f"http://{host}/" for host in ("127.0.0.1", "[::1]", "localhost", "2130706433")]
    forms = [form.replace("PORT", str(port)) for form in _FORMS]
    return [*hosts, *bare, *forms, *(form.format(port=port) for form in _SPACED)]


def names(own: list[str]) -> dict[str, list[list[str]]]:
    """What the scripted resolver answers: inside names, names of both, and names whose answer changes."""
    inside: dict[str, list[list[str]]] = {
        "inside.example": [["127.0.0.1"]],
        "mixed.example": [["93.184.216.34", "127.0.0.1"]],
        "six.example": [["::1"]],
        "rebound.example": [["127.0.0.1"], ["93.184.216.34"]],
        "metadata.google.internal": [["169.254.169.254"]],
        "public.example": [["93.184.216.34"]],
        "own.example": [own],
    }
    for name in ("localhost", "a.localhost", "localhost.localdomain", "ip6-localhost"):
        inside[name] = [["127.0.0.1", "::1"]]
    return inside
