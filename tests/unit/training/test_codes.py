"""The codes' arithmetic: a mistake in it would only show after hours of training."""

import torch

from training import codes


def test_a_quarter_holds_all_its_parts() -> None:
    mosaics = torch.randn(3, codes.PARTS, codes.NUMBERS)
    numbers = codes.quarters(mosaics)
    assert numbers.shape == (3, codes.QUARTERS, codes.QUARTER)
    assert torch.equal(codes.parts_of(numbers), mosaics)
    upper_left = mosaics.view(3, codes.GRID, codes.GRID, codes.NUMBERS)[:, : codes.HALF, : codes.HALF]
    assert torch.equal(numbers[:, 0].sort().values, upper_left.flatten(1).sort().values)


def test_tokens_of_parts_have_a_layer_norms_length_and_say_whose_they_are() -> None:
    numbers = codes.quarters(torch.randn(2, codes.PARTS, codes.NUMBERS))
    first, second = (codes.part_tokens(numbers, which) for which in range(2))
    assert torch.allclose(first.square().mean(-1), torch.ones(2, codes.PARTS), atol=1e-3)
    waves = codes.mark_waves(3) @ codes.part_slots(0).T
    assert torch.allclose(waves[0], waves[0].view(12, 12)[:, :1].expand(12, 12).flatten(), atol=1e-4)  # a row's wave
    assert ((first - second).square().mean(-1) > 0.01).all()
