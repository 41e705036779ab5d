"""The /docs page: complete without any other origin, guarded by a strict policy, safe to be open."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, MutableMapping
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.testclient import TestClient

from server.errors import NotFound
from server.web import docs


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(title="a server", docs_url=None, redoc_url=None)
    app.include_router(docs.router())

    @app.exception_handler(NotFound)
    async def not_found(request: Request, error: NotFound) -> Response:
        return JSONResponse({"error": {"message": error.message}}, status_code=404)

    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


class _References(HTMLParser):
    """Collects every address that an HTML page refers to, and whether it holds inline code."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        present = dict(attrs)
        self.addresses += [present[name] or "" for name in ("src", "href", "data-document") if name in present]
        self.inline += [name for name in present if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in present):
            self.inline.append(tag)


def _references(html: str) -> _References:
    parser = _References()
    parser.feed(html)
    return parser


def _policy(response_header: str) -> dict[str, list[str]]:
    return {name: rest for name, *rest in (part.split() for part in response_header.split(";"))}


@pytest.mark.parametrize("path", ["/docs", "/page/docs/"])
def test_every_address_on_the_page_is_answered_by_this_server(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in answer.text, "an address with an origin"
    assert "{" not in answer.text, "a placeholder left in"

    found = _references(answer.text)
    assert len(found.addresses) == 6  # icon, styles, viewer, script, the document twice
    assert not found.inline
    for address in found.addresses:
        assert client.get(str(answer.url.join(address))).status_code == 200, address


@pytest.mark.parametrize("path", ["/docs", "/page/docs/", *(f"/page/docs/{name}" for name in docs.ASSETS)])
def test_the_policy_names_no_other_origin_and_allows_no_inline_script(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = _policy(headers["content-security-policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == ["'none'"]
    assert policy["script-src"] == policy["connect-src"] == ["'self'"]
    allowed = {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert {source for sources in policy.values() for source in sources} <= allowed
    assert [name for name, sources in policy.items() if "'unsafe-inline'" in sources] == ["style-src"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(("name", "media_type"), docs.ASSETS.items())
def test_an_asset_comes_with_its_type_and_all_its_bytes(client: TestClient, name: str, media_type: str) -> None:
    answer = client.get(f"/page/docs/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.content == (docs.PAGE / name).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/page/docs/README.md",
        "/page/docs/index.html",
        "/page/docs/../../docs.py",
        "/page/docs/..%2f..%2fdocs.py",
        "/page/docs/%2e%2e/%2e%2e/docs.py",
        "/page/docs/..%5c..%5cdocs.py",
        "/page/docs/%2fetc%2fpasswd",
        "/page/docs//etc/passwd",
        "/page/docs/docs.js%00.css",
        "/page/docs/DOCS.JS",
    ],
)
def test_nothing_but_the_listed_files_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/page/docs/../../docs.py", "/page/docs/..", "/page/docs/../docs/docs.js"])
async def test_dots_that_no_client_has_resolved_find_nothing(app: FastAPI, path: str) -> None:
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 404


def test_every_file_of_the_folder_is_listed_or_known_not_to_be() -> None:
    assert {file.name for file in docs.PAGE.iterdir()} == set(docs.ASSETS) | {"index.html", "README.md"}


def test_the_viewer_is_the_one_that_the_readme_names() -> None:
    digest = hashlib.sha256((docs.PAGE / "openapi-explorer.min.js").read_bytes()).hexdigest()
    assert digest in (docs.PAGE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["docs.js", "docs.css", "favicon.svg"])
def test_our_own_files_name_no_address(name: str) -> None:
    text = (docs.PAGE / name).read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"(https?:)?//\w+\.", text)
    assert "@import" not in text


def test_the_page_says_nothing_about_the_server(client: TestClient) -> None:
    """It is open where keys are configured, so only the guarded document may tell what the server is."""
    assert "a server" not in client.get("/page/docs/").text
    assert "/docs" not in client.get("/openapi.json").json()["paths"]


def test_a_server_that_hides_its_document_has_no_page() -> None:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(docs.router())
    with TestClient(app) as client, pytest.raises(NotFound):
        client.get("/docs")


def test_the_page_holds_behind_a_path_prefix(app: FastAPI) -> None:
    outer = FastAPI()
    outer.mount("/pictures", app)
    with TestClient(outer) as client:
        answer = client.get("/pictures/docs")
        for address in _references(answer.text).addresses:
            assert client.get(str(answer.url.join(address))).status_code == 200, address


_BASE = """
const fs = require("node:fs"), vm = require("node:vm");
const [script, href, root] = process.argv.slice(1);
const element = () => ({ dataset: { root, document: `${root}/openapi.json` }, addEventListener() {} });
const viewer = { ...element(), loadSpec: async (api) => console.log(JSON.stringify(api.servers)) };
vm.runInNewContext(fs.readFileSync(script, "utf8"), {
  URL,
  document: { baseURI: href, getElementById: (id) => (id === "viewer" ? viewer : element()) },
  customElements: { whenDefined: async () => {} },
  fetch: async () => ({ ok: true, json: async () => ({ servers: [{ url: "https://elsewhere.example" }] }) }),
});
"""


@pytest.mark.parametrize(
    ("href", "root", "base"),
    [
        ("http://h:8/docs", ".", "http://h:8"),
        ("http://h:8/docs/", "..", "http://h:8"),
        ("https://h/pictures/docs", ".", "https://h/pictures"),
        ("https://h/a/b/page/docs/", "../..", "https://h/a/b"),
        ("https://h/a/b/page/docs/?x#y", "../..", "https://h/a/b"),
    ],
)
def test_try_it_asks_the_pages_own_base(href: str, root: str, base: str) -> None:
    """Behind a path prefix it asked the root of the origin, where something else lives."""
    if shutil.which("node") is None:
        pytest.skip("NOT TESTED: no Node on this machine, so docs.js was not run")
    command = ["node", "-e", _BASE, str(docs.PAGE / "docs.js"), href, root]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [{"url": base}]


@pytest.mark.parametrize("path", ["/docs", "/page/docs/"])
def test_the_page_knows_where_its_root_is(client: TestClient, path: str) -> None:
    answer = client.get(path)
    (root,) = re.findall(r'data-root="([^"]+)"', answer.text)
    assert str(answer.url.join(f"{root}/")) == "http://testserver/"
