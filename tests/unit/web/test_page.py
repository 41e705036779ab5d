"""The web page's files: complete, of one origin, with the right types, and in every language."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.testclient import TestClient

from server.errors import NotFound
from server.web import docs, page

ASSETS = page.read_assets()
SCRIPTS = sorted(name for name in ASSETS if name.endswith(".js"))
HTML = ASSETS["index.html"].content.decode()


def _words(folder: str) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix(folder).removesuffix(".json"): json.loads(asset.content)
        for name, asset in ASSETS.items()
        if name.startswith(folder)
    }


FIRST = _words("lang/")  # what comes with the page
LATER = _words("panels/lang/")  # and with its panels
WORDS = {language: words | LATER[language] for language, words in FIRST.items()}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(docs.router())
    app.include_router(page.router())

    @app.exception_handler(NotFound)
    async def not_found(request: Request, error: NotFound) -> Response:
        return JSONResponse({"error": {"message": error.message}}, status_code=404)

    with TestClient(app) as client:
        yield client


class _Page(HTMLParser):
    """Addresses, ids, translated keys and inline code of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.keys: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        present = {name: value or "" for name, value in attrs}
        self.addresses += [present[name] for name in ("src", "href") if not present.get(name, "#").startswith("#")]
        self.ids += [present["id"]] if "id" in present else []
        self.keys |= {value for name, value in present.items() if name.startswith("data-i18n")}
        self.inline += [name for name in present if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in present):
            self.inline.append(tag)


@pytest.fixture(scope="module")
def parsed() -> _Page:
    parser = _Page()
    parser.feed(HTML)
    return parser


def _paths() -> list[str]:
    return ["/", *(f"/page/app/{name}" for name in ASSETS if name != page.START)]


@pytest.mark.parametrize("path", _paths())
def test_every_file_comes_whole_with_its_type_and_a_strict_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    asset = ASSETS[path.removeprefix("/page/app/") if path != "/" else page.START]
    assert answer.status_code == 200
    assert answer.content == asset.content
    assert answer.headers["content-type"] == asset.media_type
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == policy["object-src"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/page/app/main.js"])
def test_an_unchanged_file_is_not_sent_again(client: TestClient, path: str) -> None:
    tag = client.get(path).headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get(path, headers={"if-none-match": held})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/app/",
        "/page/app/index.html",
        "/page/app/lang",
        "/page/app/lang/",
        "/page/app/MAIN.JS",
        "/page/app/../../page.py",
        "/page/app/..%2f..%2fpage.py",
        "/page/app/%2e%2e/docs/docs.js",
        "/page/app/%2fetc%2fpasswd",
        "/page/app/main.js%00.css",
    ],
)
def test_nothing_but_the_files_of_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_monitor_may_ask_for_the_head_alone(client: TestClient) -> None:
    assert client.head("/").status_code == 200


def test_every_address_on_the_page_is_answered_by_this_server(client: TestClient, parsed: _Page) -> None:
    assert not parsed.inline
    assert len(parsed.addresses) >= 5
    for address in parsed.addresses:
        assert not address.startswith("/"), "not relative: it breaks behind a path prefix"
        assert client.get(f"/{address}").status_code == 200, address


def test_no_file_names_another_origin() -> None:
    for name, asset in ASSETS.items():
        text = asset.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:|wss?:|[\"'(])//\w", text), name
        assert "@import" not in text, name
        assert "innerHTML" not in text, f"{name}: text could become markup"


def test_every_script_is_reached_and_imports_only_what_is_there(parsed: _Page) -> None:
    imported = {"theme.js", "main.js"}
    for name in SCRIPTS:
        found = _imports(name, "from ") | _imports(name, "import\\(")
        assert found <= set(SCRIPTS), name
        imported |= found
    assert imported == set(SCRIPTS)


def _imports(name: str, by: str) -> set[str]:
    """The scripts that this one names, each by its path below the page's folder."""
    named = re.findall(rf'{by}"(\.[\w./]+)"', ASSETS[name].content.decode())
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) for path in named}


def test_the_panels_are_fetched_when_they_are_opened(parsed: _Page) -> None:
    """Nothing of them comes with the page: no script, no style, no word."""
    assert len(LATER["en"]) > 20
    assert not any("panels" in address for address in parsed.addresses)
    for name in SCRIPTS:
        fetched = {path for path in _imports(name, "from ") if path.startswith("panels/")}
        assert name.startswith("panels/") or not fetched, name
        if not name.startswith("panels/"):
            quoted = set(re.findall(r'"([a-z_.]+)"', ASSETS[name].content.decode()))
            assert not quoted & set(LATER["en"]), name
    assert not parsed.keys & set(LATER["en"])
    assert not set(FIRST["en"]) & set(LATER["en"])


def test_every_id_that_a_script_asks_for_is_on_the_page_once(parsed: _Page) -> None:
    assert len(parsed.ids) == len(set(parsed.ids))
    for name in SCRIPTS:
        asked = set(re.findall(r'byId\("([\w-]+)"\)', ASSETS[name].content.decode()))
        assert asked <= set(parsed.ids), name


def test_files_are_small_enough_to_read() -> None:
    assert all(asset.content.count(b"\n") < 400 for asset in ASSETS.values())


def _placeholders(text: Any) -> set[str]:
    forms = text.values() if isinstance(text, dict) else [text]
    return {name for form in forms for name in re.findall(r"\{(\w+)\}", form)}


@pytest.mark.parametrize("language", sorted(set(FIRST) - {"en"}))
def test_all_languages_say_the_same(language: str) -> None:
    assert list(FIRST[language]) == list(FIRST["en"])
    assert list(LATER[language]) == list(LATER["en"])
    for key, text in WORDS["en"].items():
        assert _placeholders(WORDS[language][key]) == _placeholders(text), key
        forms = WORDS[language][key].values() if isinstance(WORDS[language][key], dict) else [WORDS[language][key]]
        assert all(form.strip() for form in forms), key


def test_the_switch_offers_the_languages_that_there_are() -> None:
    listed = re.search(r"LANGUAGES = \{(.*?)\}", ASSETS["i18n.js"].content.decode())
    assert listed is not None
    assert {code.strip(' "') for code in re.findall(r"([\w\"-]+):", listed[1])} == set(FIRST) == set(LATER)


def test_every_key_in_use_has_words_and_every_word_is_in_use(parsed: _Page) -> None:
    scripts = "".join(ASSETS[name].content.decode() for name in SCRIPTS)
    quoted = set(re.findall(r'"([a-z_]+(?:\.[a-z_0-9]+)*)"', scripts))
    said = set(re.findall(r'\b(?:t|say|label|warn)\((?:[^()"]|\([^()]*\))*?"([a-z_.]+)"', scripts))
    computed = re.compile(
        r"^(?:(error|run|theme|quality|style)\.|jobs\.(done|failed|cancelled)$|models\.(un)?load$"
        r"|usage\.(pictures|megapixel_steps|device_s)$|panels\.(jobs|usage|models|mine|all)$)"
    )
    assert parsed.keys <= set(WORDS["en"])
    assert {key for key in said if "." in key} <= set(WORDS["en"])
    unused = {key for key in WORDS["en"] if key not in quoted | parsed.keys and not computed.match(key)}
    assert not unused


def test_what_the_page_says_without_scripts_is_its_english(parsed: _Page) -> None:
    for key, text in re.findall(r'data-i18n="([\w.]+)"[^>]*>([^<]+)</(?!textarea)', HTML):
        assert " ".join(text.split()) == " ".join(str(WORDS["en"][key]).split()), key
