from __future__ import annotations

from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.edge.auth import Auth, is_open
from server.edge.keys import LOCAL, Keyring, Principal
from server.errors import NotFound, Unauthorized, Unavailable
from server.settings import Settings
from tests.unit.edge.asgi import exchange, http_scope
from tests.unit.edge.live import settings_for

HOST = (b"host", b"localhost")


async def whoever(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "who", "principal": scope.get("state", {}).get("principal")})


def who(auth: Auth, *headers: tuple[bytes, bytes], method: str = "GET", path: str = "/pictures") -> Principal | None:
    sent: list[Message] = exchange(auth, http_scope(method, path, [HOST, *headers]))
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


def test_a_key_makes_a_principal(auth: Auth) -> None:
    assert who(auth, bearer("dk_alice")) == Principal("alice")
    assert who(auth, (b"authorization", b"bEARER  dk_alice ")) == Principal("alice")
    assert who(auth, bearer("dk_alice"), path="/livez") == Principal("alice")


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"Bearer", b"Bearer ", b"dk_alice", b"Basic dk_alice", b"Bearer dk_alic", b"Bearer dk_alicee"),
        *(b"Bearer dk_alice x", b"Bearer\tdk_alice", b"Bearer dk_alice\xe9", b"Bearer " + b"x" * 10_000),
    ],
)
def test_anything_else_is_refused(auth: Auth, value: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        who(auth, (b"authorization", value))
    assert "dk_" not in caught.value.message


def test_two_headers_are_none(auth: Auth) -> None:
    with pytest.raises(Unauthorized):
        who(auth, bearer("dk_alice"), bearer("dk_alice"))
    with pytest.raises(Unauthorized):
        who(auth)


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
def test_a_stranger_may_look_at_the_open_paths(auth: Auth, path: str) -> None:
    assert who(auth, path=path) is None
    assert who(auth, path=path, method="HEAD") is None
    assert who(auth, bearer("wrong"), path=path) is None
    for method in ("POST", "PUT", "DELETE"):
        with pytest.raises(Unauthorized):
            who(auth, path=path, method=method)


@pytest.mark.parametrize("path", CLOSED)
def test_every_other_path_is_closed(auth: Auth, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        with pytest.raises(Unauthorized):
            who(auth, path=path, method=method)


@pytest.mark.parametrize("path", [*OPEN, *CLOSED])
def test_a_preflight_has_no_key(auth: Auth, path: str) -> None:
    """Browsers ask OPTIONS before they send a key: that was 401, and no page of another origin got further."""
    assert who(auth, path=path, method="OPTIONS") is None
    assert who(auth, bearer("wrong"), path=path, method="OPTIONS") is None


@pytest.mark.parametrize("name", [b"api-key", b"x-api-key"])
@pytest.mark.parametrize(
    "beside",
    [(), ((b"authorization", b"Bearer "),), ((b"authorization", b"Basic dXNlcjpwYXNz"),), (bearer("dk_alice"),)],
    ids=["alone", "empty Authorization", "a proxy's Authorization", "the same key"],
)
def test_azures_header_is_a_key_too(auth: Auth, name: bytes, beside: tuple[tuple[bytes, bytes], ...]) -> None:
    """Azure-style clients send api-key and nothing else, and were answered 401."""
    assert who(auth, (name, b"dk_alice"), *beside) == Principal("alice")


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
def test_keys_that_disagree_are_none(settings: Settings, headers: list[tuple[bytes, bytes]]) -> None:
    ring = Keyring.in_memory({"alice": "dk_alice", "bob": "dk_bob"})
    with pytest.raises(Unauthorized) as caught:
        who(Auth(whoever, settings=settings, keyring=ring), *headers)
    assert "dk_" not in caught.value.message


def test_an_empty_header_of_a_key_is_absent(auth: Auth) -> None:
    """Programs send the header of a key that nobody has entered; it must not spoil the one that is there."""
    assert who(auth, (b"x-api-key", b" "), bearer("dk_alice")) == Principal("alice")


def test_connections_beyond_the_limit_serve_health_and_keys(settings: Settings) -> None:
    def ask(ring: Keyring, path: str, *headers: tuple[bytes, bytes]) -> Principal | None:
        spare = {"state": {"spare_connection": True}}
        app = Auth(whoever, settings=settings, keyring=ring)
        principal: Principal | None = exchange(app, http_scope("GET", path, [HOST, *headers], **spare))[0]["principal"]
        return principal

    keyed = Keyring.in_memory({"alice": "dk_alice"})
    assert ask(keyed, "/livez") is None
    assert ask(keyed, "/pictures", bearer("dk_alice")) == Principal("alice")
    for ring, path in ((keyed, "/"), (keyed, "/files/x"), (Keyring.in_memory(), "/pictures")):
        with pytest.raises(Unavailable):
            ask(ring, path)


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


def test_without_keys_the_caller_is_local(settings: Settings) -> None:
    assert who(Auth(whoever, settings=settings, keyring=Keyring.in_memory())) == LOCAL


def test_the_first_key_closes_the_server_and_revoking_the_last_does_not_open_it(settings: Settings) -> None:
    ring = Keyring.in_memory()
    auth = Auth(whoever, settings=settings, keyring=ring)
    assert who(auth) == LOCAL
    key = ring.create("alice")
    with pytest.raises(Unauthorized):
        who(auth)
    assert who(auth, bearer(key)) == Principal("alice")
    ring.revoke("alice")
    with pytest.raises(Unauthorized):
        who(auth)


def test_beyond_loopback_no_keys_means_no_entry(tmp_path: Path) -> None:
    closed = Auth(whoever, settings=settings_for(tmp_path, host="0.0.0.0"), keyring=Keyring.in_memory())
    with pytest.raises(Unauthorized):
        who(closed)
    allowed = settings_for(tmp_path, host="0.0.0.0", allow_open=True)
    assert who(Auth(whoever, settings=allowed, keyring=Keyring.in_memory())) == LOCAL


def test_a_websocket_is_closed(auth: Auth) -> None:
    sent = exchange(auth, {"type": "websocket", "path": "/livez", "headers": []})
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_lifespan_passes(auth: Auth) -> None:
    assert exchange(auth, {"type": "lifespan"})[0]["type"] == "who"
