"""Tiny models gain nothing from a second thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipelines.models.loader import quiet_libraries
from tests.device.fake import FakeCuda
from tests.device.stepping import Steps


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    quiet_libraries()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def steps(fake_cuda: FakeCuda) -> Steps:
    return Steps()
