"""Noise that tells where things lie: a mistake here would only show after hours of training."""

import pytest
import torch

from training import codes, colours, grounds, unet
from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.nets.unet import UNet, UNetShape
from training.plans import SQUARE, TALL, WIDE
from training.sampling import TIMES
from training.scenes import LAYOUTS
from training.stage import Course
from training.unet import UNetStage

from .standins import OBJECTS, DiscMaker


@pytest.mark.parametrize("cells", [SQUARE, WIDE, TALL])
def test_noise_tells_where_things_lie_and_stays_noise(cells: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(64, 4, *cells, generator=generator)
    chosen = torch.randint(-1, 2, (64, 3), generator=generator)
    noise = unet.encode_choices(before, chosen)
    assert torch.equal(noise.abs().flatten(2).sort().values, before.abs().flatten(2).sort().values)
    assert torch.equal(noise[:, 3], before[:, 3])
    half = cells[1] // 2
    right = noise[:, 0, :, half:].sum((1, 2)) > noise[:, 0, :, :half].sum((1, 2))
    asked = chosen[:, 0] >= 0
    assert torch.equal(right[asked], chosen[asked, 0] == 1)
    assert torch.equal(noise[~asked, 0], before[~asked, 0])


def test_the_times_of_a_batch_are_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "PURE_NOISE_SHARE", 0.0)
    net = Autoencoder(AutoencoderShape(8, (8,) * 3, (0, 0, 1), (1, 0, 0)))
    course = Course(torch.device("cpu"), DiscMaker(), 4, 1e-3)
    rgb = torch.tensor([colour.rgb for colour in colours.COLOURS]) / 255
    table = codes.make(course.maker, OBJECTS, net.encoder, rgb, len(grounds.NAMES), len(LAYOUTS))
    stage = UNetStage(course, UNet(UNetShape((16, 16, 16, 16))), net, table, ((SQUARE, 1.0),))
    size = 32
    drawn = [stage._times(size) for _ in range(4)]
    for times in drawn:
        places = (times.sort().values / TIMES) ** (1 / 0.7) * size  # 0..size, one in each part
        assert (places - torch.arange(size)).min() > -0.1
        assert (places - torch.arange(size)).max() < 1
    assert not torch.equal(drawn[0].sort().values, drawn[1].sort().values)
    assert all(not torch.equal(times, times.sort().values) for times in drawn)  # no place in a batch has its own times


def test_some_samples_have_the_errors_of_the_step_before_and_are_to_be_put_right() -> None:
    """Whatever the network is shown, what it is asked for leads to the clean latents."""
    net = Autoencoder(AutoencoderShape(8, (8,) * 3, (0, 0, 1), (1, 0, 0)))
    course = Course(torch.device("cpu"), DiscMaker(), 12, 1e-3)
    rgb = torch.tensor([colour.rgb for colour in colours.COLOURS]) / 255
    table = codes.make(course.maker, OBJECTS, net.encoder, rgb, len(grounds.NAMES), len(LAYOUTS))
    stage = UNetStage(course, UNet(UNetShape((16, 16, 16, 16))), net, table, ((SQUARE, 1.0),))
    with torch.no_grad():
        *_, weight, bias = net.encoder.parameters()  # of the last layer: every latent of every picture is a clean 3
        weight.zero_()
        bias.fill_(3)
    for _ in range(4):
        noised, time, _, target, signal, *_ = stage.draw(0.0)
        clean = signal.sqrt() * noised - (1 - signal).sqrt() * target
        assert torch.allclose(clean, torch.full_like(clean, 3), atol=1e-3)
        noise = (noised - 3 * signal.sqrt()) / (1 - signal).sqrt()  # what is no picture
        true = torch.ones(12, dtype=torch.bool)
        true[:: unet.ROLLED] = False
        assert (noise[true].std((1, 2, 3)) - 1).abs().max() < 0.1
        off = (noise[~true].std((1, 2, 3)) - 1).abs() + noise[~true].mean((1, 2, 3)).abs()
        assert (off[time[~true] < TIMES - 1] > 0.02).any() or (time[~true] == TIMES - 1).all()
