"""The command ``darkroom demo``: how it asks the server that it has started."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.commands import demo
from server.commands.failure import CommandFailed
from tests.paper import Paper

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def _proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_pictures_come_by_no_proxy(paper: Paper, tmp_path: Path) -> None:
    """Where a proxy is set, and no_proxy is not, the demo ended with a traceback."""
    paths = demo._save(tmp_path, demo._draw(paper.url, 2))
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG"] * 2


def test_a_server_that_gives_no_pictures_is_a_sentence(paper: Paper, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no pictures came: "):
        demo._draw(paper.url, 99)
    with pytest.raises(CommandFailed, match="a picture could not be fetched"):
        demo._save(tmp_path, [""])
