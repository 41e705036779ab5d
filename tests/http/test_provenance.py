"""Whether pictures say that a model made them is the owner's to decide."""

from __future__ import annotations

import pytest

from tests.paper import PaperServers


@pytest.mark.parametrize("kept", [True, False])
def test_provenance_is_the_owners_to_switch_off_and_no_requests(paper_servers: PaperServers, kept: bool) -> None:
    paper = paper_servers.open(provenance=kept, picture_metadata=False)
    answer = paper.post({"prompt": "x", "provenance": not kept, "metadata": {"provenance": not kept}})
    assert "provenance" in answer.headers["x-ignored-fields"]
    (encoding,) = paper.worker.encodings
    assert (encoding.provenance, encoding.metadata) == (kept, False)
