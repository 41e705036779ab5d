"""The text encoder's last layer: it deals each quarter's numbers out to the slots of its parts.

What it must do is the same for every prompt and known exactly, so it is written down, not trained: a trained one of two
layers lost a fifth of what the parts should say, and gave a second object the first one's parts. The reader's weights
stay as they are. Knows the codes' form and where CLIPTextModel keeps its weights; knows neither captions nor pictures.

How. A slot's position says where its part lies, so loudly that what the reader's layers add there is nothing. Two heads
of the attention fetch 90 of the quarter's 180 numbers for parts in its upper half, the other two the other 90 for the
lower half, into the same 90 directions; the pair that is not wanted, and every token that is no slot, looks at the
words, whose code is the same in every prompt and whose value counts as nothing. Then the MLP lets through the part's
five numbers: a pair of units a number, open only where row and column are the number's (gelu(x + c) - gelu(c - x) is 2x
for a large c, and 0 for a very negative one). One more pair a number takes off what the attention brought.
"""

import torch
from torch import Tensor
from transformers import CLIPTextModel
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention

from . import codes
from .codes import FIRST, FIRST_WHOLE, GRID, HALF, HEADS, LOUD, MARK, NUMBERS, PARTS, QUARTER, QUARTERS, WIDTH, WORDS

LOUDEST = 300.0  # how much louder than in a code a slot's position is
BROUGHT = 0.25  # how loud a quarter's numbers come into a slot, of `LOUDEST`
FETCHED = QUARTER // 2  # numbers
AT = 40  # first of the basis' directions that take them: beyond all that a part's token has
OPEN = 6.0  # how far a gate is open or shut
SHARP = 12.0  # nats between the right quarter and the next


@torch.no_grad()
def write(net: CLIPTextModel, hidden: Tensor) -> None:
    """Make the last layer of ``net`` the dealer; all before it is the reader.

    ``hidden``: (B, HEADS, WIDTH), what the reader says of some prompts, its last norm included.
    """
    layer = net.encoder.layers[-1]
    for weight in (*layer.self_attn.parameters(), *layer.mlp.parameters()):
        weight.zero_()
    less = _fetch(layer.self_attn, hidden[:, :WORDS].mean((0, 1)))
    lower = (torch.arange(PARTS) // GRID % HALF >= HALF // 2).long()
    places = net.embeddings.position_embedding.weight
    for which in range(2):
        at = slice(FIRST + which * PARTS, FIRST + (which + 1) * PARTS)
        places[at] = LOUDEST * codes.part_slots(which) + less[lower]
    _look(layer.self_attn, hidden, layer.layer_norm1(places[FIRST:]), lower.repeat(2))
    _let_through(layer.mlp)
    for norm in (layer.layer_norm2, net.final_layer_norm):
        norm.reset_parameters()


def _fetch(attention: CLIPAttention, word: Tensor) -> Tensor:
    """The values: the upper half's numbers in the first pair of heads, the lower half's in the second.

    A word's code, ``word``, counts as zero. Returns (2, WIDTH): what each pair therefore brings too little.
    """
    basis, pair = codes._basis(), WIDTH // 2
    numbers, less = _numbers(), []
    for half in range(2):
        rows = slice(half * pair, half * pair + FETCHED)
        attention.v_proj.weight[rows] = basis[numbers[half]]
        attention.out_proj.weight[:, rows] = LOUDEST * BROUGHT * basis[AT : AT + FETCHED].T
        attention.v_proj.bias[rows] = -attention.v_proj.weight[rows] @ word
        less.append(attention.out_proj.weight[:, rows] @ -attention.v_proj.bias[rows])
    return torch.stack(less)


def _look(attention: CLIPAttention, hidden: Tensor, slots: Tensor, lower: Tensor) -> None:
    """Keys and queries: quarters answer with their row, column and object, words to the idle pair.

    ``slots``: (2 * PARTS, WIDTH) as the attention sees them; ``lower``: whether they lie in a quarter's lower half.
    They count in the fit an eighth as often as there are prompts: what a prompt says varies, and they do not.
    """
    side, object_ = torch.eye(2), torch.eye(2).repeat_interleave(QUARTERS, 0)
    names = torch.cat((side.repeat_interleave(2, 0).repeat(2, 1), side.repeat(4, 1), object_), 1)  # (8, 6)
    answers = torch.zeros(HEADS, 7)
    answers[FIRST_WHOLE : FIRST_WHOLE + len(names), :6], answers[:WORDS, 6] = names, 8
    seen, answers = hidden.flatten(0, 1), answers.repeat(len(hidden), 1)
    every = torch.cat((seen, slots.repeat(len(hidden) // 8, 1)))
    keys = _fit(every, torch.cat((answers, torch.zeros(len(every) - len(seen), 7))))
    part = torch.arange(PARTS)
    quarter = part // GRID // HALF * 2 + part % GRID // HALF
    wanted = names[torch.cat((quarter, quarter + QUARTERS))]
    size = WIDTH // attention.num_heads
    idle = torch.eye(7)[6].expand(len(seen), 7)
    for head in range(attention.num_heads):
        busy = (lower == head * 2 // attention.num_heads)[:, None].float()
        rows = slice(head * size, head * size + 7)
        attention.k_proj.weight[rows], attention.k_proj.bias[rows] = keys
        asks = torch.cat((busy * wanted, 1 - busy), 1).repeat(len(hidden) // 8, 1)
        queries = _fit(every, SHARP * size**0.5 * torch.cat((idle, asks)))
        attention.q_proj.weight[rows], attention.q_proj.bias[rows] = queries


def _let_through(mlp: CLIPMLP) -> None:
    basis = codes._basis()
    numbers = BROUGHT**2 * 0.65 * FETCHED  # their power, on average
    scale = LOUDEST * ((codes.part_slots(0).square().sum(-1).mean() + numbers) / WIDTH) ** 0.5  # the norm divides by it
    mark = 2 * OPEN / (MARK * LOUDEST / scale)  # a mark opens the gate by this much: the row's, and the column's
    marks = basis[NUMBERS : NUMBERS + 2 * GRID].view(2, GRID, WIDTH)
    slot = mark * basis[NUMBERS + 2 * GRID + 2]  # twice as large as a mark, and only slots have it
    for n in range(FETCHED):
        cell, number = divmod(n, NUMBERS)
        row, column = divmod(cell, HALF)
        gate = mark * (marks[0, row :: HALF // 2].sum(0) + marks[1, column::HALF].sum(0)) + slot
        for sign in (1, -1):
            unit = 4 * n + 1 - sign  # 4n and 4n + 2; the next one takes the number off where it was brought
            mlp.fc1.weight[unit], mlp.fc1.bias[unit] = sign * basis[AT + n] + gate, -7 * OPEN
            mlp.fc2.weight[:, unit] = sign * 0.5 * scale * LOUD / BROUGHT * basis[number]
            mlp.fc1.weight[unit + 1], mlp.fc1.bias[unit + 1] = sign * basis[AT + n] + slot, -3 * OPEN
            mlp.fc2.weight[:, unit + 1] = -sign * 0.5 * scale * basis[AT + n]


def _numbers() -> Tensor:
    """(2, FETCHED) places of the upper and the lower half's numbers in a quarter's, in rows of parts."""
    every = torch.arange(PARTS * NUMBERS, dtype=torch.float32).view(1, PARTS, NUMBERS)
    where = codes.quarters(every)[0, 0].long()  # of each of the quarter's numbers
    return where.argsort().view(2, FETCHED)


def _fit(seen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and the bias that turn (N, WIDTH) into (N, M) with the least squared error, bounded a little."""
    seen, wanted = seen.double(), wanted.double()
    mean, goal = seen.mean(0), wanted.mean(0)
    seen = seen - mean
    gram = seen.T @ seen / len(seen) + 1e-4 * torch.eye(WIDTH, dtype=torch.float64)
    weight = torch.linalg.solve(gram, seen.T @ (wanted - goal) / len(seen)).T
    return weight.float(), (goal - weight @ mean).float()
