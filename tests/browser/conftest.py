"""One real browser for all of these tests, headless; without one on the machine they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from server.edge.keys import Keyring
from server.jobs.limits import Limits
from tests.browser.page import Page
from tests.browser.panels import Keyed, knows
from tests.paper import Paper, PaperServers
from tests.running import eventually

# Nothing that looks for updates, variations or hosts of its own: a machine without a network must do.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
    "--lang=en-GB",
)


def _found(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser, driver = _found("chromium", "chromium-browser", "google-chrome"), _found("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = Chrome(options=options, service=Service(driver))
    opened.set_script_timeout(30)
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def page(chrome: Chrome) -> Iterator[Page]:
    """A page in a browser that has never been here. It must end without a complaint in the console."""
    shown = Page(chrome)
    yield shown
    shown.leave()


@pytest.fixture(scope="module")
def module_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperServers]:
    """Servers that are open until the module's tests have ended."""
    with PaperServers(tmp_path_factory.mktemp("paper")) as opened:
        yield opened


@pytest.fixture(scope="module")
def module_server(module_servers: PaperServers) -> Paper:
    return module_servers.open()


@pytest.fixture
def own_server(module_server: Paper) -> Iterator[Paper]:
    """A server that nobody else uses."""
    module_server.worker.forget()
    yield module_server
    module_server.worker.gate.set()


@pytest.fixture(scope="module")
def _keyed(module_servers: PaperServers) -> Keyed:
    paper = module_servers.open(keys=True)
    ring = Keyring(paper.app.state.services.settings.data_dir / "keys.json")
    ada = ring.create("ada", admin=True)
    bob = ring.create("bob", but=lambda entry: replace(entry, limits=Limits(pictures_per_day=50)))
    keyed = Keyed(paper, ring, ada, bob)
    eventually(lambda: all(knows(paper, key) for key in (ada, bob)))
    return keyed


@pytest.fixture
def keyed(_keyed: Keyed) -> Iterator[Keyed]:
    _keyed.paper.worker.forget()
    yield _keyed
    _keyed.paper.worker.gate.set()
