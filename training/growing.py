"""Growing: a half of the autoencoder that is larger than one that has learnt, and gives the same at first.

Knows the halves' layers; knows nothing of training. Channels and blocks that are new change nothing until they learn:
what the known channels see of new ones is multiplied by zero, and the last convolution of a new block is zero. (As in
Chen, Goodfellow and Shlens, "Net2Net", 2015, where new channels are copies.)
"""

from dataclasses import replace

import torch
from torch import Tensor

from .nets.autoencoder import Autoencoder, AutoencoderShape, Decoder, Encoder

PREFIX = "layers."
Blocks = tuple[int, ...]  # level by level


@torch.no_grad()
def grown(given: dict[str, Tensor], old: AutoencoderShape, net: Encoder | Decoder, new: AutoencoderShape) -> None:
    """Write into ``net``, of the shape ``new``, what one of the shape ``old`` knows; ``given`` are its weights.

    ValueError if ``new`` is narrower, or has fewer blocks at a level, or some at a level that had none.
    """
    places = _places(old, new, isinstance(net, Encoder))
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
    """An autoencoder's weights as ``net`` takes them: where a half of it is larger, grown to that; else as they are."""
    taken = dict(given)
    for name, half in (("encoder", net.encoder), ("decoder", net.decoder)):
        own = {key.removeprefix(f"{name}."): weight for key, weight in given.items() if key.startswith(f"{name}.")}
        width, blocks = encoder_of(own) if isinstance(half, Encoder) else decoder_of(own)
        if isinstance(half, Encoder):
            before = replace(net.shape, width=width, encoder_blocks=blocks)
        else:
            before = replace(net.shape, decoder=(width,) * len(blocks), decoder_blocks=blocks)
        if before == net.shape:
            continue
        try:
            grown(own, before, half, net.shape)
        except ValueError:
            continue
        taken = {key: weight for key, weight in taken.items() if not key.startswith(f"{name}.")}
        taken |= {f"{name}.{key}": weight.clone() for key, weight in half.state_dict().items()}
    return taken


def encoder_of(given: dict[str, Tensor]) -> tuple[int, Blocks]:
    """The channels and the blocks of an encoder with these weights."""
    found: list[int] = []
    for number, is_block in _numbered(given):
        if is_block:
            found[-1] += 1
        elif number < _last(given):  # what begins a level
            found.append(0)
    return given[f"{PREFIX}0.weight"].shape[0], tuple(found)


def decoder_of(given: dict[str, Tensor]) -> tuple[int, Blocks]:
    """The channels and the blocks of a decoder with these weights."""
    found = [0]
    for number, is_block in _numbered(given):
        if is_block:
            found[-1] += 1
        elif 0 < number < _last(given):  # what follows an enlargement
            found.append(0)
    return given[f"{PREFIX}0.weight"].shape[0], tuple(found)


def _numbered(given: dict[str, Tensor]) -> list[tuple[int, bool]]:
    """The layers that have weights, in order, and whether each is a block."""
    blocks = {int(key.split(".")[1]) for key in given if ".conv." in key}
    return [(number, number in blocks) for number in sorted({int(key.split(".")[1]) for key in given})]


def _last(given: dict[str, Tensor]) -> int:
    return max(int(key.split(".")[1]) for key in given)


def _places(old: AutoencoderShape, new: AutoencoderShape, encodes: bool) -> dict[int, int]:
    """The new half's layers that the old one has, and where."""
    widths = [shape.width if encodes else shape.decoder[0] for shape in (old, new)]
    blocks = [shape.encoder_blocks if encodes else shape.decoder_blocks for shape in (old, new)]
    if len(blocks[0]) != len(blocks[1]) or widths[0] > widths[1] or any(b > a for b, a in zip(*blocks, strict=True)):
        raise ValueError(f"a half does not shrink: {widths[0]}, {blocks[0]} to {widths[1]}, {blocks[1]}")
    if any(before == 0 < after for before, after in zip(*blocks, strict=True)):
        # A block's end cuts off what is below 0.
        raise ValueError(f"a level without blocks gets none: {blocks[0]} to {blocks[1]}")
    name = _encoder_layers if encodes else _decoder_layers
    known = {layer: number for number, layer in enumerate(name(blocks[0]))}
    return {number: known[layer] for number, layer in enumerate(name(blocks[1])) if layer in known}


def _encoder_layers(blocks: Blocks) -> list[str]:
    """Names for the layers in order: a level is a convolution and its blocks."""
    names = []
    for level, count in enumerate(blocks):
        names += [f"in {level}", *(f"block {level} {n}" for n in range(count))]
    return [*names, "out"]


def _decoder_layers(blocks: Blocks) -> list[str]:
    """Names for the layers in order: a level is its blocks, what enlarges, and a convolution; the last has no more."""
    names = ["in", "relu"]
    for level, count in enumerate(blocks):
        names += [f"block {level} {n}" for n in range(count)]
        if level < len(blocks) - 1:
            names += [f"enlarge {level}", f"after {level}"]
    return [*names, "out"]
