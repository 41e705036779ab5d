"""Tiny models gain nothing from a second thread, and lose much to a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipelines.models.loader import quiet_libraries
from tests.families.pieces import trained_on


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    quiet_libraries()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def words() -> bytes:
    """T5's words in small."""
    return trained_on("cat", "dog", "red")
