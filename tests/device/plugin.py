"""The fixture ``fake_cuda``: a CUDA device that is not there, for one test. Imports torch only when a test asks for it.

def test_a_picture(fake_cuda: FakeCuda) -> None: ...

@pytest.mark.fake_cuda(card=small(64), allocator="expandable")  # what FakeCuda takes
def test_a_full_device(fake_cuda: FakeCuda) -> None: ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.device.fake import FakeCuda


@pytest.fixture
def fake_cuda(request: pytest.FixtureRequest) -> Iterator[FakeCuda]:
    """The device, on as long as the test runs. Skipped where there can be none."""
    from tests.device.fake import FakeCuda, why_not

    if (reason := why_not()) is not None:
        pytest.skip(reason)
    marker = request.node.get_closest_marker("fake_cuda")
    with FakeCuda(**({} if marker is None else marker.kwargs)).on() as device:
        yield device
