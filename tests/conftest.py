"""One server for the whole session: starting a worker costs seconds, and nothing here may leave a trace in it."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from server.catalog.catalog import Catalog, Model
from server.catalog.load import load_catalog
from server.errors import WorkerLost
from tests.paper import Paper, PaperServers
from tests.running import ROOT, Running, start

pytest_plugins = ["tests.skipped", "tests.stuck", "tests.device.plugin"]

# One thread a process: several workers run at a time here, and OpenMP threads that wait for each other at every
# operation on busy cores made these tests ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_MANY_OBJECTS = 250_000  # to look through them takes 0.3 s


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the imports make stays to the end, so nothing of it is looked through for what may go.

    To look through these million objects took seconds, and held up all threads of the servers that run in this process,
    and honest clients with them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        # Else pytest imports it at the end. It asks who refers to trio's generator, and is not told of what is frozen.
        import hypothesis  # noqa: F401

        gc.enable()
        gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _imported_since() -> Iterator[None]:
    """What libraries import when they are first used stays, too. What the tests of a file leave behind goes before."""
    yield
    if len(gc.get_objects()) > _MANY_OBJECTS:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library whose loop runs the tests marked ``anyio``: a new loop for each."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server with nothing set: no keys, the models.yaml that ships. Must stop cleanly when told to."""
    with start(tmp_path_factory.mktemp("data")) as running:
        yield running
        assert running.process.poll() is None, running.log
        assert running.stop() == 0, running.log


@pytest.fixture(scope="session")
def shipped() -> Catalog:
    """The models.yaml that ships."""
    return load_catalog(ROOT / "models.yaml")


@pytest.fixture(scope="session")
def mini(shipped: Catalog) -> Model:
    """The embedded model under its own name."""
    return next(model for model in shipped if model.entry.path is not None)


@pytest.fixture
def paper_servers(tmp_path: Path) -> Iterator[PaperServers]:
    """Servers whose worker is made of paper: everything but the drawing is real."""
    with PaperServers(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def _shared_paper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paper]:
    with PaperServers(tmp_path_factory.mktemp("paper")) as opened:
        yield opened.open()


@pytest.fixture
def paper(_shared_paper: Paper) -> Iterator[Paper]:
    """The paper server with nothing set, shared by the session, as if nobody had used it."""
    assert _shared_paper.app.state.services.queue.held == 0
    _shared_paper.worker.forget()
    yield _shared_paper
    # A request that was running at two deaths of a worker is refused from then on, in every later test.
    assert not isinstance(_shared_paper.worker.failure, WorkerLost), "open a server of your own with paper_servers"
