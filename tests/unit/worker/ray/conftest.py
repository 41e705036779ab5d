from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.worker.children import Children
from tests.unit.worker.ray.paper import PaperCluster
from tests.unit.worker.ray.paper_ray import paper_ray as paper_ray


@pytest.fixture
async def cluster(children: Children) -> AsyncIterator[PaperCluster]:
    """A fleet that has no member yet."""
    async with asyncio.timeout(30):
        cluster = PaperCluster(children)
        yield cluster
        await cluster.stop()
