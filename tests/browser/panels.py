"""The panels of the page as people with different keys see them."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from server.edge.keys import Keyring
from tests.browser.page import Page
from tests.paper import Paper

JOBS = "return document.querySelectorAll('#panel-jobs .rows > li').length"
JOB = "return document.querySelector('#panel-jobs .rows .state').textContent"  # of the first
MODELS = "return document.querySelectorAll('#panel-models .rows > li').length"
MODEL = "return document.querySelector('#panel-models .places .state').textContent"


@dataclass
class Keyed:
    """A server with keys: ada's, who is its admin, and bob's, who may have few pictures."""

    paper: Paper
    ring: Keyring
    ada: str
    bob: str

    def draw(self, key: str, **fields: object) -> int:
        with client_of(self.paper, key) as client:
            return client.post("/v1/images/generations", json={"prompt": "an apple", **fields}).status_code


def client_of(paper: Paper, key: str) -> httpx.Client:
    return paper.live.client(headers={"authorization": f"Bearer {key}"}, timeout=60)


def knows(paper: Paper, key: str) -> bool:
    with client_of(paper, key) as client:
        return bool(client.get("/v1/models").status_code == 200)


def open_panel(page: Page, tab: str = "jobs") -> None:
    page.one("#server").click()
    page.until("return document.getElementById('panels')?.open")
    page.one(f"#tab-{tab}").click()
    page.until("return !document.querySelector(arguments[0]).hidden", f"#panel-{tab}")


def open_as(page: Page, paper: Paper, key: str) -> None:
    page.open(paper.url, storage={"darkroom.key": key})
