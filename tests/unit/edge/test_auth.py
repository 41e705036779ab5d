from __future__ import annotations

import base64
from pathlib import Path
from unittest.mock import ANY

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.edge.auth import Auth, is_open
from server.edge.keys import LOCAL, Keyring, Principal
from server.errors import NotFound, Unauthorized, Unavailable
from server.settings import Settings
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import settings_for

pytestmark = pytest.mark.anyio

HOST = (b"host", b"localhost")


async def whoever(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "who", "principal": scope.get("state", {}).get("principal")})


async def who(
    auth: Auth, *headers: tuple[bytes, bytes], method: str = "GET", path: str = "/pictures"
) -> Principal | None:
    sent: list[Message] = await exchange(auth, http_scope(method, path, [HOST, *headers]))
    principal: Principal | None = sent[0]["principal"]
    return principal


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + key.encode("latin-1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


@pytest.fixture
def auth(settings: Settings) -> Auth:
    return Auth(whoever, settings=settings, keyring=Keyring.in_memory({"alice": "dk_alice"}))


async def test_a_key_makes_a_principal(auth: Auth) -> None:
    assert await who(auth, bearer("dk_alice")) == Principal("alice", ANY)
    assert await who(auth, (b"authorization", b"bEARER  dk_alice ")) == Principal("alice", ANY)
    assert await who(auth, bearer("dk_alice"), path="/livez") == Principal("alice", ANY)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"Bearer", b"Bearer ", b"dk_alice", b"Basic dk_alice", b"Bearer dk_alic", b"Bearer dk_alicee"),
        *(b"Bearer dk_alice x", b"Bearer\tdk_alice", b"Bearer dk_alice\xe9", b"Bearer " + b"x" * 10_000),
    ],
)
async def test_anything_else_is_refused(auth: Auth, value: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        await who(auth, (b"authorization", value))
    assert "dk_" not in caught.value.message


async def test_two_headers_are_none(auth: Auth) -> None:
    with pytest.raises(Unauthorized):
        await who(auth, bearer("dk_alice"), bearer("dk_alice"))
    with pytest.raises(Unauthorized):
        await who(auth)


OPEN = [
    "/livez",
    "/readyz",
    "/__blocklet__.js",
    "/",
    "/favicon.ico",
    "/files/a",
    "/files/a/b.png",
    "/page/x.css",
]
CLOSED = [
    *(
        "/metrics",
        "/docs",
        "/docs/swagger.js",
        "/openapi.json",
        "/v1/models",
        "/api/v2/status",
        "/nowhere",
        "",
    ),
    *(
        "//livez",
        "/livez/",
        "/livez/../pictures",
        "/LIVEZ",
        "/livez\0",
        "/livez;x",
        "/livez?x",
        "/./livez",
        "livez",
    ),
    *("/files", "/filesystem", "/page", "//files/a", "/x/files/a", "*", "/__blocklet__.json"),
]


@pytest.mark.parametrize("path", OPEN)
async def test_a_stranger_may_look_at_the_open_paths(auth: Auth, path: str) -> None:
    assert await who(auth, path=path) is None
    assert await who(auth, path=path, method="HEAD") is None
    assert await who(auth, bearer("wrong"), path=path) is None
    for method in ("POST", "PUT", "DELETE"):
        with pytest.raises(Unauthorized):
            await who(auth, path=path, method=method)


@pytest.mark.parametrize("path", CLOSED)
async def test_every_other_path_is_closed(auth: Auth, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        with pytest.raises(Unauthorized):
            await who(auth, path=path, method=method)


@pytest.mark.parametrize("path", [*OPEN, *CLOSED])
async def test_a_preflight_has_no_key(auth: Auth, path: str) -> None:
    """Browsers ask OPTIONS before they send a key: that was 401, and no page of another origin got further."""
    assert await who(auth, path=path, method="OPTIONS") is None
    assert await who(auth, bearer("wrong"), path=path, method="OPTIONS") is None


@pytest.mark.parametrize("name", [b"api-key", b"x-api-key"])
@pytest.mark.parametrize(
    "beside",
    [(), ((b"authorization", b"Bearer "),), ((b"authorization", b"Basic dXNlcjpwYXNz"),), (bearer("dk_alice"),)],
    ids=["alone", "empty Authorization", "a proxy's Authorization", "the same key"],
)
async def test_azures_header_is_a_key_too(auth: Auth, name: bytes, beside: tuple[tuple[bytes, bytes], ...]) -> None:
    """Azure-style clients send api-key and nothing else, and were answered 401."""
    assert await who(auth, (name, b"dk_alice"), *beside) == Principal("alice", ANY)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"api-key", b"dk_alice"), bearer("dk_bob")],
        [(b"api-key", b"dk_bob"), (b"x-api-key", b"dk_alice")],
        [(b"api-key", b"wrong"), bearer("dk_alice")],
        [(b"api-key", b"dk_alice"), bearer("dk_alice"), bearer("dk_alice")],
        [(b"x-api-key", b"dk_alice"), (b"x-api-key", b"dk_alice")],
        [(b"api-key", b"dk_alice"), (b"authorization", b"Bearer dk_alice x")],
        [(b"api-key", b"dk_alice"), (b"authorization", b"dk_alice")],
        [(b"api-key", b"Bearer dk_alice")],
        [(b"api-key", b"dk_alice\xe9")],
        [(b"api-key", b"x" * 10_000)],
        [(b"api-key", b"")],
    ],
)
async def test_keys_that_disagree_are_none(settings: Settings, headers: list[tuple[bytes, bytes]]) -> None:
    ring = Keyring.in_memory({"alice": "dk_alice", "bob": "dk_bob"})
    with pytest.raises(Unauthorized) as caught:
        await who(Auth(whoever, settings=settings, keyring=ring), *headers)
    assert "dk_" not in caught.value.message


async def test_an_empty_header_of_a_key_is_absent(auth: Auth) -> None:
    """Programs send the header of a key that nobody has entered; it must not spoil the one that is there."""
    assert await who(auth, (b"x-api-key", b" "), bearer("dk_alice")) == Principal("alice", ANY)


async def test_connections_beyond_the_limit_serve_health_and_keys(settings: Settings) -> None:
    async def ask(ring: Keyring, path: str, *headers: tuple[bytes, bytes]) -> Principal | None:
        spare = {"state": {"spare_connection": True}}
        app = Auth(whoever, settings=settings, keyring=ring)
        sent = await exchange(app, http_scope("GET", path, [HOST, *headers], **spare))
        principal: Principal | None = sent[0]["principal"]
        return principal

    keyed = Keyring.in_memory({"alice": "dk_alice"})
    assert await ask(keyed, "/livez") is None
    assert await ask(keyed, "/pictures", bearer("dk_alice")) == Principal("alice", ANY)
    for ring, path in ((keyed, "/"), (keyed, "/files/x"), (Keyring.in_memory(), "/pictures")):
        with pytest.raises(Unavailable):
            await ask(ring, path)


@pytest.mark.parametrize(
    "path",
    [
        "/files/../pictures",
        "/files/a/../../pictures",
        "/page/..",
        "/files//a",
        "/files/./a",
        "/page/..\\x",
        "/page/\0",
    ],
)
def test_nothing_climbs_out_of_an_open_folder(path: str) -> None:
    with pytest.raises(NotFound):
        is_open(http_scope(path=path))


async def test_without_keys_the_caller_is_local(settings: Settings) -> None:
    assert await who(Auth(whoever, settings=settings, keyring=Keyring.in_memory())) == LOCAL


async def test_the_first_key_closes_the_server_and_revoking_the_last_does_not_open_it(settings: Settings) -> None:
    ring = Keyring.in_memory()
    auth = Auth(whoever, settings=settings, keyring=ring)
    assert await who(auth) == LOCAL
    key = ring.create("alice")
    with pytest.raises(Unauthorized):
        await who(auth)
    assert await who(auth, bearer(key)) == Principal("alice", ANY)
    ring.revoke("alice")
    with pytest.raises(Unauthorized):
        await who(auth)


async def test_beyond_loopback_no_keys_means_no_entry(tmp_path: Path) -> None:
    closed = Auth(whoever, settings=settings_for(tmp_path, host="0.0.0.0"), keyring=Keyring.in_memory())
    with pytest.raises(Unauthorized):
        await who(closed)
    allowed = settings_for(tmp_path, host="0.0.0.0", allow_open=True)
    assert await who(Auth(whoever, settings=allowed, keyring=Keyring.in_memory())) == LOCAL


@pytest.mark.parametrize(
    ("public_url", "open_"),
    [
        (None, True),
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000/base", True),
        ("http://[::1]:8000", True),
        ("https://pictures.example.com", False),
        ("http://10.0.0.7:8000", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("http://0.0.0.0:8000", False),
    ],
)
async def test_a_public_url_beyond_loopback_is_no_server_of_this_machine_only(
    tmp_path: Path, public_url: str | None, open_: bool
) -> None:
    """Behind a proxy, without keys, it served strangers while its log said: this machine only."""
    settings = settings_for(tmp_path, public_url=public_url)
    auth = Auth(whoever, settings=settings, keyring=Keyring.in_memory())
    if open_:
        assert await who(auth) == LOCAL
        return
    with pytest.raises(Unauthorized):
        await who(auth)
    allowed = settings_for(tmp_path, public_url=public_url, allow_open=True)
    assert await who(Auth(whoever, settings=allowed, keyring=Keyring.in_memory())) == LOCAL


async def test_a_server_that_had_keys_stays_closed_after_a_restart(tmp_path: Path, settings: Settings) -> None:
    """The restart after the last key was revoked opened the server to everybody who reached it."""
    path = tmp_path / "keys.json"
    Keyring(path).create("alice")
    assert Keyring(path).revoke("alice")
    auth = Auth(whoever, settings=settings, keyring=Keyring(path))
    with pytest.raises(Unauthorized):
        await who(auth)
    key = Keyring(path).create("bob")
    assert await who(Auth(whoever, settings=settings, keyring=Keyring(path)), bearer(key)) == Principal("bob", ANY)
    assert Keyring(path).revoke("bob")
    allowed = settings_for(tmp_path, allow_open=True)
    assert await who(Auth(whoever, settings=allowed, keyring=Keyring(path))) == LOCAL


async def test_a_key_made_and_revoked_between_two_looks_at_the_file_closes_the_server(
    tmp_path: Path, settings: Settings
) -> None:
    path, now = tmp_path / "keys.json", [0.0]
    auth = Auth(whoever, settings=settings, keyring=Keyring(path, clock=lambda: now[0]))
    assert await who(auth) == LOCAL
    Keyring(path).create("alice")
    assert Keyring(path).revoke("alice")
    now[0] += 5
    with pytest.raises(Unauthorized):
        await who(auth)


async def test_a_websocket_is_closed(auth: Auth) -> None:
    sent = await exchange(auth, {"type": "websocket", "path": "/livez", "headers": []})
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_lifespan_passes(auth: Auth) -> None:
    assert (await exchange(auth, {"type": "lifespan"}))[0]["type"] == "who"


def basic(pair: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + base64.b64encode(pair)


OPTIONS = "/sdapi/v1/options"


@pytest.mark.parametrize("pair", [b"anybody:dk_alice", b":dk_alice", b"dk_alice:", b"dk_alice", "é:dk_alice".encode()])
async def test_automatic1111s_clients_send_keys_by_basic_authentication(auth: Auth, pair: bytes) -> None:
    for path in (OPTIONS, "/internal/ping", "/controlnet/model_list"):
        assert await who(auth, basic(pair), path=path) == Principal("alice", ANY)
    with pytest.raises(Unauthorized):
        await who(auth, basic(pair), path="/v1/models")


@pytest.mark.parametrize("pair", [b"", b":", b"dk_alice:other", b"other:dk", b"a:dk_alice:", b"\xff:dk_alice", b":a b"])
async def test_other_pairs_are_refused(auth: Auth, pair: bytes) -> None:
    with pytest.raises(Unauthorized, match="Basic") as caught:
        await who(auth, basic(pair), path=OPTIONS)
    assert "dk_" not in caught.value.message


@pytest.mark.parametrize("value", [b"Basic", b"Basic  ", b"basic !!", b"Basic a b", b"Basic " + b"A" * 60_000])
async def test_malformed_pairs_are_refused(auth: Auth, value: bytes) -> None:
    with pytest.raises(Unauthorized):
        await who(auth, (b"authorization", value), path=OPTIONS)


async def test_a_proxys_basic_stands_beside_a_key_of_ours(auth: Auth) -> None:
    for pair in (b"proxy:password", b""):
        headers = (basic(pair), (b"x-api-key", b"dk_alice"))
        assert await who(auth, *headers, path=OPTIONS) == Principal("alice", ANY)
    with pytest.raises(Unauthorized):  # one header twice
        await who(auth, basic(b":dk_alice"), basic(b":dk_alice"), path=OPTIONS)
