"""Every family's mixed requests give together what they give alone, in far fewer forwards; docs/families.md says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.facts.families import FAMILIES
from tests.families import matrix, tiny

DOC = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.mark.parametrize("row", matrix.MATRIX, ids=lambda row: row.name)
def test_mixed_requests_give_together_what_they_give_alone(row: matrix.Row) -> None:
    result = matrix.run(row)
    assert result.shared, result.reason
    assert result.fallbacks == 0
    assert result.difference <= row.tolerance
    assert result.forwards_together <= row.bound * result.forwards_alone
    assert result.kept_difference == 0
    # Else the denoiser does not see the prompt, and the comparison proves little.
    assert result.prompt_matters >= 100 * row.tolerance
    assert matrix.line(result) in {matrix.without_difference(line) for line in DOC.read_text().splitlines()}


def test_the_document_has_a_line_for_each_row() -> None:
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == [f"| {row.name}" for row in matrix.MATRIX]


def test_every_family_has_a_row() -> None:
    # The same UNet as its neighbour, with more channels, and with one encoder.
    built = {family for family, _ in tiny.BUILDERS.values()}
    built |= {"stable-diffusion-xl-inpainting", "stable-diffusion-xl-refiner"}
    assert {family.name for family in FAMILIES} == built
    assert {row.name for row in matrix.MATRIX} == set(tiny.BUILDERS)
