"""Noise that tells where things lie: a mistake here would only show after hours of training."""

import pytest
import torch

from training import codes, colours, grounds, unet
from training.nets.autoencoder import Autoencoder, AutoencoderShape
from training.nets.unet import UNet, UNetShape
from training.plans import SQUARE
from training.sampling import TIMES
from training.scenes import LAYOUTS
from training.stage import Course
from training.unet import UNetStage

from .standins import OBJECTS, DiscMaker


def made_stage(batch: int) -> UNetStage:
    """A stage of small networks that have learnt nothing."""
    net = Autoencoder(AutoencoderShape(8, (8,) * 3, (0, 0, 1), (1, 0, 0)))
    course = Course(torch.device("cpu"), DiscMaker(), batch, 1e-3)
    rgb = torch.tensor([colour.rgb for colour in colours.COLOURS]) / 255
    table = codes.make(course.maker, OBJECTS, net.encoder, rgb, len(grounds.NAMES), len(LAYOUTS))
    return UNetStage(course, UNet(UNetShape((16, 16, 16, 16))), net, table, ((SQUARE, 1.0),))


def test_noise_tells_a_grounds_hue_and_nothing_else_of_it_changes() -> None:
    generator = torch.Generator().manual_seed(2)
    before = torch.randn(64, 4, 8, 8, generator=generator)
    hues = 6.28 * torch.rand(64, generator=generator)
    hues[::4] = torch.nan
    noise = unet.encode_hues(before, hues)
    assert torch.equal(noise[::4], before[::4])
    assert torch.equal(noise[:, 2:], before[:, 2:])
    sums, were = noise[:, :2].sum((2, 3)), before[:, :2].sum((2, 3))
    assert torch.allclose(sums.norm(dim=1), were.norm(dim=1), atol=1e-3)
    told = ~hues.isnan()
    angles = torch.atan2(sums[told, 1], sums[told, 0]).remainder(2 * torch.pi)
    assert torch.allclose(angles, hues[told], atol=1e-3)
    assert torch.allclose(
        noise[:, :2] - noise[:, :2].mean((2, 3), True), before[:, :2] - before[:, :2].mean((2, 3), True), atol=1e-5
    )


def test_the_times_of_a_batch_are_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "PURE_NOISE_SHARE", 0.0)
    stage = made_stage(4)
    size = 32
    drawn = [stage._times(size) for _ in range(4)]
    for times in drawn:
        places = (times.sort().values / TIMES) ** (1 / 0.7) * size  # 0..size, one in each part
        assert (places - torch.arange(size)).min() > -0.1
        assert (places - torch.arange(size)).max() < 1
    assert not torch.equal(drawn[0].sort().values, drawn[1].sort().values)
    assert all(not torch.equal(times, times.sort().values) for times in drawn)  # no place in a batch has its own times


def test_half_of_the_samples_come_from_an_earlier_step() -> None:
    stage = made_stage(8)
    time = torch.arange(0, TIMES, 5)
    scene = torch.arange(len(time)) % 2 == 0
    seen, earlier = stage._rolled_times(time, scene)
    assert (seen <= TIMES - 1 - min(unet.STRIDES)).all()
    assert (earlier < TIMES - 1)[scene].all()
    from_noise = earlier == TIMES - 1
    assert 0.4 < from_noise[~scene].float().mean() < 0.8
    assert set((earlier - seen)[earlier < TIMES - 1].tolist()) <= {0, *unet.STRIDES}
    assert (earlier > seen)[~scene].all()


def test_some_samples_have_the_errors_of_the_step_before_and_are_to_be_put_right() -> None:
    """Whatever the network is shown, what it is asked for leads to the clean latents."""
    stage = made_stage(12)
    with torch.no_grad():
        *_, weight, bias = stage.encoder.parameters()  # of the last layer: every latent of every picture is a clean 3
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
