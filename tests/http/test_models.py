"""What /v1/models says of a model is what a request for it gets."""

from __future__ import annotations

from itertools import product

from server.catalog import QUALITIES
from tests.paper import Paper


def test_the_listed_presets_are_those_that_are_drawn_with(paper: Paper) -> None:
    """They were those of the style vivid, whatever the style."""
    with paper.client() as client:
        row = client.get("/v1/models/darkroom-mini").json()
    assert row["presets"] == row["style_presets"]["vivid"]
    assert row["style_presets"]["natural"]["hd"] == {"steps": 30, "guidance": 1.2}
    for style, quality in product(("vivid", "natural"), QUALITIES):
        fields = {"prompt": "a cat", "model": "darkroom-mini", "style": style, "quality": quality}
        assert paper.post(fields).status_code == 200
        spec = paper.worker.jobs[-1].spec
        listed = row["style_presets"][style][quality]
        assert (spec.steps, spec.guidance) == (listed["steps"], listed["guidance"]), (style, quality)
