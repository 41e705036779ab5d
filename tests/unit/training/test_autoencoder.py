"""The autoencoder's stage: a picture that is made smaller has latents that are."""

import pytest
import torch

from training import autoencoder
from training.attention_targets import row_shares
from training.autoencoder import SMALLER, AutoencoderStage
from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.stage import Course
from training.windows import CELL, FINE, WINDOW, shares

from .standins import DiscMaker


def stage() -> AutoencoderStage:
    torch.manual_seed(1)
    net = Autoencoder(AutoencoderShape(8, (8,) * 3, decoder_blocks=(1, 0, 0)))
    return AutoencoderStage(Course(torch.device("cpu"), DiscMaker(), 4, 1e-3, 3), net)


def test_the_shares_of_cells_are_those_by_which_the_unet_looks_up_parts() -> None:
    assert torch.allclose(shares(3, 2), torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))
    assert torch.allclose(shares(2, 3), torch.tensor([[1, 0], [0.5, 0.5], [0, 1]]))  # and where it is made larger
    assert torch.equal(shares(12, 8), row_shares()[8, 0, :8])
    assert torch.equal(shares(16, 16), torch.eye(16))
    for wanted in SMALLER:
        rows = shares(16, wanted)
        assert rows.shape == (wanted, 16)
        assert torch.allclose(rows.sum(1), torch.ones(wanted), atol=1e-6)
        assert torch.allclose(rows.sum(0), torch.full((16,), wanted / 16), atol=1e-6)  # and nothing is left out


def test_some_batches_are_made_smaller_and_their_pictures_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    learning = stage()
    sides = set()
    for _ in range(30):
        pixels, wanted, noise, rows, _, counts = learning.draw(0.0)
        cells = rows.shape[0] // FINE
        side = CELL * min(cells, WINDOW)
        assert wanted.shape == (4, 3, side, side)
        assert counts.shape == (1, 1, side, side)
        assert noise.shape == (4, 4, FINE * cells, FINE * cells)
        if cells <= WINDOW:  # it is seen whole
            assert counts.all()
            assert wanted.mean((2, 3)).sub(pixels.mean((2, 3))).abs().max() < 1e-4
        sides.add(cells)
    assert sides == {16, *SMALLER}
    monkeypatch.setattr(autoencoder, "SMALLER_SHARE", 0.0)
    pixels, wanted, _, _, corner, _ = learning.draw(0.0)
    top, left = (CELL * int(at) // FINE for at in corner)
    assert torch.equal(pixels[..., top : top + CELL * WINDOW, left : left + CELL * WINDOW], wanted)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_halves_learn_from_whole_and_from_smaller_pictures(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = stage()
    monkeypatch.setattr(autoencoder, "SMALLER_SHARE", share)
    loss, figures = learning.loss(*learning.draw(0.0))
    assert figures.shape == (len(learning.figures),)
    loss.backward()  # type: ignore[no-untyped-call]
    for half in (learning.net.encoder, learning.net.decoder):
        assert sum(float(weight.grad.abs().sum()) for weight in half.parameters() if weight.grad is not None) > 0
