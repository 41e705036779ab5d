import torch
from torch import Tensor

from training import colours
from training.samples import oklab, recolouring
from training.samples.recolouring import MainParts


def rows(*spans: tuple[tuple[int, int, int], int]) -> tuple[Tensor, Tensor]:
    """(3, 1, pixels) Oklab of so many pixels of each colour, and their alpha."""
    rgb = torch.tensor([colour for colour, count in spans for _ in range(count)])
    return oklab.of_rgb(rgb).T[:, None], torch.ones(1, len(rgb))


def found(lab: Tensor, alpha: Tensor, kinds: Tensor | None = None) -> MainParts:
    lightness, a, b = lab
    return recolouring.find(lightness, a, b, alpha, kinds)


def weighed(lab: Tensor, parts: MainParts) -> tuple[Tensor, Tensor]:
    lightness, a, b = lab
    return recolouring.weights(lightness, a, b, parts)


def test_oklab_goes_there_and_back() -> None:
    values = torch.rand(3, 500, generator=torch.Generator().manual_seed(1))
    assert (oklab.decode(oklab.encode(values)) - values).abs().max() < 1e-3
    assert torch.allclose(oklab.encode(torch.ones(3, 1))[:, 0], torch.tensor([1.0, 0, 0]), atol=1e-3)


def test_the_larger_part_is_the_main_one() -> None:
    lab, alpha = rows(((200, 40, 40), 60), ((90, 170, 230), 25), ((15, 15, 18), 15))
    parts = found(lab, alpha)
    first, second = weighed(lab, parts)
    assert first[0, :60].min() > 0.95
    assert first[0, 60:].max() < 0.05
    assert second.max() == 0, "what covers enough stands alone"


def test_a_faint_violet_is_grey() -> None:
    """Much of the art that looks white or grey is a faint violet: ghosts were recoloured in patches."""
    lab, alpha = rows(((228, 216, 240), 40), ((238, 236, 240), 40), ((210, 198, 224), 20))
    parts = found(lab, alpha)
    assert parts.hued[0, 0] == 0
    first, second = weighed(lab, parts)
    assert (first + second).min() > 0.9


def test_it_can_be_told_in_advance_which_part_is_meant() -> None:
    """A bicycle is its frame's colour, however large the wheels are."""
    lab, alpha = rows(((200, 40, 40), 20), ((40, 60, 160), 60), ((160, 160, 160), 20))
    values = {colour.name: colour.rgb for colour in colours.COLOURS}
    kinds = torch.tensor([recolouring.kind_of("red", values)])
    first, second = weighed(lab, found(lab, alpha, kinds))
    assert first[0, :20].min() > 0.95
    assert (first + second)[0, 20:].max() < 0.05
    grey = found(lab, alpha, torch.tensor([recolouring.kind_of("grey", values)]))
    assert grey.hued[0, 0] == 0


def test_lighter_stays_lighter_in_every_colour() -> None:
    lab, alpha = rows(((120, 50, 20), 20), ((190, 90, 40), 60), ((240, 150, 100), 20))
    parts = found(lab, alpha)
    prepared = recolouring.prepare(lab, parts)[:, 0]
    for colour in oklab.of_rgb(torch.tensor([colour.rgb for colour in colours.COLOURS])):
        moved = recolouring.moves(parts.lightness[:, 0], colour[None]).expand(-1, 100)
        lightness = recolouring.apply(prepared, moved)[0]
        assert lightness[0] < lightness[30] < lightness[90]
