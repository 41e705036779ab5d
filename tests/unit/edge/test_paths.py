from __future__ import annotations

from urllib.parse import unquote

import pytest

from server.edge.paths import of_deployment, plain_path, plain_target

MEANT = {
    "/": "/",
    "//": "/",
    "/v1/models/": "/v1/models",
    "//v1/models": "/v1/models",
    "/v1//images///generations//": "/v1/images/generations",
    "/images/generations": "/v1/images/generations",
    "//images//jobs/x/": "/v1/images/jobs/x",
    "/models": "/v1/models",
    "/models/": "/v1/models",
    "/models/openai%2Fgpt-image-1": "/v1/models/openai/gpt-image-1",
    "//v1/models/openai%2Fgpt-image-1/": "/v1/models/openai/gpt-image-1",
    "/v1/models/caf%C3%A9/": "/v1/models/café",
    "/api/v2//image/": "/api/v2/image",
    "/__blocklet__.js/": "/__blocklet__.js",
    "//files/a.png": "/files/a.png",
    "///page/docs/": "/page/docs/",
    "/imagesx": "/imagesx",
    "/openai/v1/images/edits": "/v1/images/edits",
    "/openai//v1/models/x": "/v1/models/x",
    "/openai/images/generations/": "/v1/images/generations",
    "/openai/models": "/v1/models",
    "/openai/files/x": "/openai/files/x",
    "/openai/livez": "/openai/livez",
    "/openai": "/openai",
}
AS_THEY_ARE = [
    "/livez/../metrics",
    "//livez/..",
    "/livez/./",
    "/%2e%2e/livez/",
    "/livez%2f",
    "/%2flivez/",
    "//a%2f%2fb/",
    "/a%2f..%2fb/",
    "//a%5cb/",
    "//a%00/",
    "/files//a",
    "/files/a/",
    "/page/docs/",
    "*",
    "",
    "livez/",
]


@pytest.mark.parametrize(("sent", "meant"), MEANT.items())
def test_a_path_is_read_as_it_is_meant(sent: str, meant: str) -> None:
    """A base URL that ends in a slash made // and a 404; /v1/models/ asked for the model of no name."""
    assert plain_path(unquote(sent), sent.encode()) == meant


@pytest.mark.parametrize("sent", AS_THEY_ARE)
def test_what_may_be_a_trick_is_left_alone(sent: str) -> None:
    assert plain_path(unquote(sent), sent.encode()) == unquote(sent)


def test_a_deployments_name_is_found_in_its_path() -> None:
    generations, edits = "/v1/images/generations", "/v1/images/edits"
    assert of_deployment("/openai/deployments/dall-e-3/images/generations") == ("dall-e-3", generations)
    assert of_deployment("/openai/deployments/openai/dall-e-3/images/edits") == ("openai/dall-e-3", edits)
    for path in (
        "",
        "/",
        generations,
        "/openai",
        "/openai/deployments",
        "/openai/deployments/images/generations",
        "/openai/deployments//images/generations",
        "/openai/deployments/../images/generations",
        "/openai/deployments/a/b\\c/images/generations",
        "/openai/deployments/x/models/y",
        f"/openai/deployments/{'x' * 201}/images/generations",
    ):
        assert of_deployment(path) is None, path


def test_a_path_that_is_not_what_was_sent_is_left_alone() -> None:
    assert plain_path("/a//b", b"/c//d") == "/a//b"
    assert plain_path("/a//b", b"") == "/a//b"


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        (b"http://host", b"http://host/"),
        (b"http://host?x=1", b"http://host/?x=1"),
        (b"http://host/a?b=c://d", b"http://host/a?b=c://d"),
        (b"/a?b=http://c", b"/a?b=http://c"),
        (b"*", b"*"),
    ],
)
def test_a_target_without_a_path_asks_for_the_root(target: bytes, meant: bytes) -> None:
    assert plain_target(target) == meant
