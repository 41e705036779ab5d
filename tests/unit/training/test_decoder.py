"""The decoder's stage: what it is shown, and that a window is decoded as the whole picture is."""

import pytest
import torch
from torch import Tensor

from training import codes, colours, decoder, grounds
from training.decoder import DecoderStage, Drawer
from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.nets.unet import UNet, UNetShape
from training.plans import SQUARE, WIDE
from training.sampling import alphas, time_of
from training.scenes import LAYOUTS
from training.stage import Course
from training.windows import CELL, EDGE, FINE, WINDOW, counted

from .standins import OBJECTS, DiscMaker

CELLS = ((SQUARE, 0.5), (WIDE, 0.5))


def autoencoder() -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(AutoencoderShape(8, (8,) * 3, decoder_blocks=(2, 0, 0)))


def drawer(course: Course, net: Autoencoder) -> Drawer:
    rgb = torch.tensor([colour.rgb for colour in colours.COLOURS]) / 255
    table = codes.make(course.maker, OBJECTS, net.encoder, rgb, len(grounds.NAMES), len(LAYOUTS))
    return Drawer(course, UNet(UNetShape((16, 16, 16, 16))).eval(), net, table)


@torch.no_grad()
def test_a_window_is_what_the_whole_picture_shows_there() -> None:
    net = autoencoder().decoder
    latents = torch.randn(2, 4, *(FINE * side for side in WIDE))
    whole = net(latents)
    for top, left in ((0, 0), (1, 5), (2, 12)):
        made = net.window(latents, FINE * torch.tensor((top, left)), FINE * WINDOW)
        there = whole[..., CELL * top : CELL * (top + WINDOW), CELL * left : CELL * (left + WINDOW)]
        counts = counted((top, left), WIDE)
        assert torch.allclose(made * counts, there * counts, atol=1e-5)


def test_what_counts_of_a_window_are_all_cells_but_those_at_cut_edges() -> None:
    inner = counted((1, 3), SQUARE)
    assert inner.sum() == (CELL * (WINDOW - 2 * EDGE)) ** 2
    corner = counted((0, 6), SQUARE)  # 6 + 10 cells are all that there are
    assert corner[..., 0, -1].all()
    assert not corner[..., -1, :].any()


def test_drawing_begins_with_what_little_is_left_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ground is a random one of many shades: from pure noise the drawn one is another than the picture's."""
    net = autoencoder()
    course = Course(torch.device("cpu"), DiscMaker(), 4, 1e-3, 3)
    began = []

    def noised(unet: UNet, cond: Tensor, uncond: Tensor, noise: Tensor, steps: int, *how: float) -> Tensor:
        began.append((steps, how[-1]))
        return noise

    monkeypatch.setattr(decoder, "sample", noised)
    with torch.no_grad():
        *_, weight, bias = net.encoder.parameters()  # of the last layer: every cell of every picture is a clean 3
        weight.zero_()
        bias.fill_(3)
    for _ in range(8):
        latents, _ = drawer(course, net).draw(16, SQUARE)
        steps, first = began[-1]
        left = float(alphas()[time_of(int(first), steps)]) ** 0.5
        assert left < 0.5
        assert latents.mean().item() == pytest.approx(3 * left, abs=0.05)
    monkeypatch.undo()
    latents, pixels = drawer(course, net).draw(6, SQUARE)
    assert latents.shape == (6, 4, 32, 32)
    assert pixels.shape == (6, 3, 128, 128)
    assert drawer(course, net).draw(2, WIDE, scale=2)[1].shape == (2, 3, 192, 352)


def test_the_stage_shows_encoded_and_drawn_pictures_and_moves_the_decoder_alone() -> None:
    net = autoencoder()
    course = Course(torch.device("cpu"), DiscMaker(), 8, 1e-3, 3)
    stage = DecoderStage(course, net, CELLS, drawer(course, net))
    for _ in range(3):
        latents, seen, corner, counts, heard = stage.draw(0.05)
        assert len(latents) == len(seen) == 8
        assert seen.shape[2:] == counts.shape[2:] == (WINDOW * CELL, WINDOW * CELL)
        assert all(0 <= at <= side - FINE * WINDOW for at, side in zip(corner.tolist(), latents.shape[2:], strict=True))
    assert heard.item() == pytest.approx(0.5)
    loss, figures = stage.loss(latents, seen, corner, counts, heard)
    loss.backward()  # type: ignore[no-untyped-call]
    assert figures.isfinite().all()
    assert all(weight.grad is None for weight in net.encoder.parameters())
    assert all(weight.grad is not None for weight in (*net.decoder.parameters(), *stage.critic.parameters()))
    assert sum(map(len, stage.pool.values())) > 0


def test_without_a_unet_it_learns_from_encoded_pictures() -> None:
    stage = DecoderStage(Course(torch.device("cpu"), DiscMaker(), 4, 1e-3), autoencoder(), CELLS, None)
    assert len(stage.draw(0.0)[0]) == 4
    assert stage.loss(*stage.draw(0.0))[1].isfinite().all()
