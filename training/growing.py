"""Growing: a decoder that is wider and deeper than one that has learnt, and gives the same pictures at first.

Knows the decoder's layers; knows nothing of training. Channels and blocks that are new change nothing until they learn:
what the known channels see of new ones is multiplied by zero, and the last convolution of a new block is zero. (As in
Chen, Goodfellow and Shlens, "Net2Net", 2015, where new channels are copies.)
"""

from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from .nets.autoencoder import Autoencoder, AutoencoderShape, Decoder

PREFIX, HALF = "layers.", "decoder."


@torch.no_grad()
def grown(given: dict[str, Tensor], old: AutoencoderShape, net: Decoder, new: AutoencoderShape) -> None:
    """Write into ``net``, of the shape ``new``, what a decoder of the shape ``old`` knows; ``given`` are its weights.

    ValueError if ``new`` is narrower, or has fewer blocks at a level, or some at a level that had none.
    """
    places = _places(old, new)
    for key, weight in net.state_dict().items():
        _, number, rest = key.split(".", 2)
        before = places.get(int(number))
        if before is None:  # a new block
            if rest.startswith("conv.4."):
                weight.zero_()
            continue
        known = given[f"{PREFIX}{before}.{rest}"].float()
        rows = slice(0, known.shape[0])
        if weight.dim() > 1:
            weight[rows, known.shape[1] :] = 0
            weight[rows, : known.shape[1]] = known
        else:
            weight[rows] = known


def fitted(net: Autoencoder, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's weights as ``net`` takes them: where its decoder is larger, grown to that; else as they are."""
    old = {key.removeprefix(HALF): weight for key, weight in given.items() if key.startswith(HALF)}
    width, blocks = shape_of(old)
    before = replace(net.shape, decoder=width, decoder_blocks=blocks)
    if before == net.shape or len(blocks) != len(net.shape.decoder_blocks):
        return given
    try:
        grown(old, before, net.decoder, net.shape)
    except ValueError:
        return given
    return {**given, **{f"{HALF}{key}": weight.clone() for key, weight in net.decoder.state_dict().items()}}


def shape_of(given: dict[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and the blocks, level by level, of a decoder with these weights."""
    numbers = {int(key.split(".")[1]) for key in given} - {0}
    blocks = {int(key.split(".")[1]) for key in given if ".conv." in key}
    found = [0]
    for number in sorted(numbers):
        if number in blocks:
            found[-1] += 1
        elif number < max(numbers):  # what follows an enlargement
            found.append(0)
    return (given[f"{PREFIX}0.weight"].shape[0],) * len(found), tuple(found)


def _places(old: AutoencoderShape, new: AutoencoderShape) -> dict[int, int]:
    """The new decoder's layers that the old one has, and where."""
    levels = list(zip(old.decoder_blocks, new.decoder_blocks, strict=True))
    if old.decoder[0] > new.decoder[0] or any(before > after for before, after in levels):
        raise ValueError(f"a decoder does not shrink: {old.decoder}, {old.decoder_blocks} to {new.decoder_blocks}")
    if any(before == 0 < after for before, after in levels):  # a block's end cuts off what is below 0
        raise ValueError(f"a level without blocks gets none: {old.decoder_blocks} to {new.decoder_blocks}")
    # Layers 0 and 1 take the latents in. A level is its blocks, what enlarges, and a convolution; the last has no more.
    starts = [list(accumulate(blocks + 2 for blocks in shape.decoder_blocks)) for shape in (old, new)]
    found = {0: 0}
    for level, blocks in enumerate(old.decoder_blocks):
        at_old, at_new = (2 + ([0, *ends][level]) for ends in starts)
        found.update({at_new + n: at_old + n for n in range(blocks)})
        end_old, end_new = at_old + blocks, at_new + new.decoder_blocks[level]
        last = level == len(old.decoder_blocks) - 1
        found[end_new + (0 if last else 1)] = end_old + (0 if last else 1)
    return found
