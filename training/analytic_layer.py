"""The analytic last layer of the text encoder: it distributes each block's numbers and colour to its parts' slots.

What it must do is the same for every prompt and known exactly, so its weights are computed, not trained: two trained
layers lost a fifth of what the parts should hold, and gave a second object the first one's parts. The reader's weights
stay as they are. Knows the codes' form and where a CLIP text encoder keeps its weights; knows neither captions nor
pictures.

How it works:

1. A slot's position embedding holds where its part lies, less what the reader's layers add to it on average. It is so
   large that how this differs from prompt to prompt is nothing.
2. Two heads of the attention fetch 88 of the block's 176 sums for the parts in its upper half. The other two
   fetch the other 88 for the lower half, into the same 88 directions. The pair of heads that is not wanted looks at
   the words, and so does every token that is no slot: the words' code is the same in every prompt, and its value counts
   as zero. Both pairs bring the block's colour, to where it stays: it is the same for all of the block's parts.
3. The MLP makes the part's 17 numbers of the sums. Each number has a pair of units, open only where row and column are
   the number's: gelu(x + c) - gelu(c - x) is 2x for a large c, and 0 for a very negative one. One more pair a sum
   removes what the attention brought. Every colour is as long as every other, so the norm before the MLP is the same.
"""

from typing import cast

import torch
from torch import Tensor

from . import codes
from .codes import (
    ACROSS,
    BLOCKS,
    COLOUR,
    COLOUR_GAIN,
    COLOUR_SHARE,
    COLOURED,
    FIRST,
    FIRST_WHOLE,
    GRID,
    HALF,
    KEPT,
    MARK_GAIN,
    NUMBERS,
    PART_COLOUR,
    PART_MARKS,
    PARTS,
    PREFIX,
    SIDE,
    WIDTH,
    WORDS,
)
from .nets.text_encoder import MLP, CausalAttention, Layer, TextEncoder

POSITION_GAIN = 1000.0  # how much larger than in a code a slot's position embedding is: words differ by 50 and more
VALUE_GAIN = 0.25  # how large a block's numbers come into a slot, as a share of `POSITION_GAIN`
FIRST_FETCHED = 48  # first of the basis' directions that take them: beyond all that a part's token has
GATE = 6.0  # how far a unit is open or shut
ANSWERS = 2 * ACROSS + 3  # of a key: a block's row, column and object, and whether it is a word's
MARGIN = 12.0  # nats between the right block and the next
ROUNDS = 5  # times that the slots are put right: what is added to them depends on them a little


@torch.no_grad()
def write(net: TextEncoder, hidden: Tensor, axes: Tensor) -> None:
    """Write the weights of the last layer of ``net``; all before it is the reader.

    ``hidden``: (B, PREFIX, WIDTH), what the reader makes of some prompts, its last norm included. ``axes`` are the
    codes'.
    """
    layer = cast(Layer, net.encoder.layers[-1])
    for weight in (*layer.self_attn.parameters(), *layer.mlp.parameters()):
        weight.zero_()
    missing = _write_values(layer.self_attn, hidden[:, :WORDS].mean((0, 1)))
    lower = (torch.arange(PARTS) // GRID % SIDE >= SIDE // 2).long()
    positions = net.embeddings.position_embedding.weight
    for which in range(2):
        at = slice(FIRST + which * PARTS, FIRST + (which + 1) * PARTS)
        positions[at] = POSITION_GAIN * codes.part_slots(which) + missing[lower]
    _write_keys_and_queries(layer.self_attn, hidden, layer.layer_norm1(positions[FIRST:]), lower.repeat(2))
    _write_mlp(layer.mlp, axes)
    for norm in (layer.layer_norm2, net.final_layer_norm):
        norm.reset_parameters()


@torch.no_grad()
def settle(net: TextEncoder, ids: Tensor) -> None:
    """Take from the slots' position embeddings what the reader's layers add to them, with ``ids``, (B, LENGTH).

    They have learnt nothing about slots, and what they add is nearly the same in every prompt. Left there it was an
    eighth of the power of a first object's numbers, so that the UNet got other parts than it had learnt from.
    """
    positions = net.embeddings.position_embedding.weight
    wanted, reader = positions[FIRST:].clone(), list(net.encoder.layers)[:-1]
    for _ in range(ROUNDS):
        found = net.embeddings(ids)
        for layer in reader:
            found = layer(found)
        positions[FIRST:] += wanted - found[:, FIRST:].mean(0)


def _write_values(attention: CausalAttention, word: Tensor) -> Tensor:
    """(2, WIDTH): what each pair of heads brings too little, because a word's code, ``word``, counts as zero.

    The first pair has the numbers of the upper half as its values, the second those of the lower half.
    """
    basis, pair = codes.basis(), WIDTH // 2
    missing = []
    for half in range(2):
        rows = slice(half * pair, half * pair + KEPT)
        attention.v_proj.weight[rows] = basis[half * KEPT : (half + 1) * KEPT]
        attention.out_proj.weight[:, rows] = POSITION_GAIN * VALUE_GAIN * basis[FIRST_FETCHED : FIRST_FETCHED + KEPT].T
        tinted = slice(rows.stop, rows.stop + COLOUR)
        attention.v_proj.weight[tinted] = basis[COLOURED : COLOURED + COLOUR]
        attention.out_proj.weight[:, tinted] = POSITION_GAIN * COLOUR_GAIN * basis[PART_COLOUR : PART_COLOUR + COLOUR].T
        rows = slice(rows.start, tinted.stop)
        attention.v_proj.bias[rows] = -attention.v_proj.weight[rows] @ word
        missing.append(attention.out_proj.weight[:, rows] @ -attention.v_proj.bias[rows])
    return torch.stack(missing)


def _write_keys_and_queries(attention: CausalAttention, hidden: Tensor, slots: Tensor, lower: Tensor) -> None:
    """Fit keys and queries: blocks answer with their row, column and object, words to the pair that is not wanted.

    ``slots``: (2 * PARTS, WIDTH) as the attention sees them; ``lower``: whether they lie in a block's lower half.
    They count in the fit an eighth as often as there are prompts: hidden states vary with the prompt, and slots do not.
    """
    side, object_ = torch.eye(ACROSS), torch.eye(2).repeat_interleave(BLOCKS, 0)
    row, column = side.repeat_interleave(ACROSS, 0), side.repeat(ACROSS, 1)
    names = torch.cat((row.repeat(2, 1), column.repeat(2, 1), object_), 1)  # (2 * BLOCKS, 2 * ACROSS + 2)
    answers = torch.zeros(PREFIX, ANSWERS)
    answers[FIRST_WHOLE : FIRST_WHOLE + len(names), :-1], answers[:WORDS, -1] = names, 8
    seen, answers = hidden.flatten(0, 1), answers.repeat(len(hidden), 1)
    every = torch.cat((seen, slots.repeat(len(hidden) // 8, 1)))
    keys = _fit(every, torch.cat((answers, torch.zeros(len(every) - len(seen), ANSWERS))))
    part = torch.arange(PARTS)
    block = part // GRID // SIDE * ACROSS + part % GRID // SIDE
    wanted = names[torch.cat((block, block + BLOCKS))]
    size = WIDTH // attention.num_heads
    idle = torch.eye(ANSWERS)[-1].expand(len(seen), ANSWERS)
    for head in range(attention.num_heads):
        busy = (lower == head * 2 // attention.num_heads)[:, None].float()
        rows = slice(head * size, head * size + ANSWERS)
        attention.k_proj.weight[rows], attention.k_proj.bias[rows] = keys
        asks = torch.cat((busy * wanted, 1 - busy), 1).repeat(len(hidden) // 8, 1)
        queries = _fit(every, MARGIN * size**0.5 * torch.cat((idle, asks)))
        attention.q_proj.weight[rows], attention.q_proj.bias[rows] = queries


def _write_mlp(mlp: MLP, axes: Tensor) -> None:
    basis = codes.basis()
    power = VALUE_GAIN**2 * 0.65 * KEPT  # of the sums, on average
    power += COLOUR_GAIN**2 * COLOUR_SHARE * WIDTH
    scale = POSITION_GAIN * ((codes.part_slots(0).square().sum(-1).mean() + power) / WIDTH) ** 0.5  # the norm's divisor
    mark = 2 * GATE / (MARK_GAIN * POSITION_GAIN / scale)  # a mark opens the unit by this: the row's, and the column's
    marks = basis[PART_MARKS : PART_MARKS + 2 * GRID].view(2, GRID, WIDTH)
    slot = mark * basis[PART_MARKS + 2 * GRID + 2]  # twice as large as a mark, and only slots have it
    brought = basis[FIRST_FETCHED : FIRST_FETCHED + KEPT]
    sums = axes.to(basis.device).T @ brought  # (HALF * NUMBERS, WIDTH)
    units = 0
    for cell in range(HALF):
        row, column = divmod(cell, SIDE)
        gate = mark * (marks[0, row :: SIDE // 2].sum(0) + marks[1, column::SIDE].sum(0)) + slot
        for number in range(NUMBERS):
            for sign in (1, -1):
                mlp.fc1.weight[units], mlp.fc1.bias[units] = sign * sums[cell * NUMBERS + number] + gate, -7 * GATE
                mlp.fc2.weight[:, units] = sign * 0.5 * scale / VALUE_GAIN * codes.number_rows()[number]
                units += 1
    for direction in brought:
        for sign in (1, -1):
            mlp.fc1.weight[units], mlp.fc1.bias[units] = sign * direction + slot, -3 * GATE
            mlp.fc2.weight[:, units] = -sign * 0.5 * scale * direction
            units += 1


def _fit(seen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and the bias of a ridge regression from (N, WIDTH) to (N, M)."""
    seen, wanted = seen.double(), wanted.double()
    mean, goal = seen.mean(0), wanted.mean(0)
    seen = seen - mean
    gram = seen.T @ seen / len(seen) + 1e-4 * torch.eye(WIDTH, dtype=torch.float64)
    weight = torch.linalg.solve(gram, seen.T @ (wanted - goal) / len(seen)).T
    return weight.float(), (goal - weight @ mean).float()
