"""The text encoder's stage: from a prompt, in any words, to the scene's code.

Its first layers, the *reader*, learn from captions what is asked for. They learn the tokens before the parts alone, on
short sequences, which is cheap. The last layer distributes the blocks to the parts' slots; its weights are computed
(`analytic_layer.py`). Token embeddings start from a sentence encoder's, so that words that no caption taught lie near
those that one did. Knows captions as token ids, and the tables of codes; knows neither pictures nor noise.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from . import analytic_layer, codes, muon, runtime
from .codes import BLOCKS, FIRST_WHOLE, GROUND, LAYOUT, PREFIX, SECOND_WHOLE, WIDTH, WORDS, Codes
from .nets.text_encoder import TextEncoder, TextEncoderShape
from .stage import Course, Maker

READER_LAYERS = 4
LAYERS = READER_LAYERS + 1  # the analytic one
LOGIT_SCALE = 12.0  # how steep the choice among codes is
FITTED = 256  # prompts that the last layer is fitted to
SETTLED = 16  # of those, with all their slots
LAST = f"encoder.layers.{READER_LAYERS}."


def shape_of(vocabulary: int) -> TextEncoderShape:
    """The whole text encoder's shape."""
    return TextEncoderShape(vocabulary, LAYERS, WIDTH, positions=codes.LENGTH)


def prefix_ids(ids: Tensor, vocabulary: int) -> Tensor:
    """(B, WORDS) token ids to (B, PREFIX): the slots are padded as the tokenizer pads them."""
    return F.pad(ids, (0, PREFIX - WORDS), value=vocabulary - 1)


def reader_of(net: TextEncoder) -> TextEncoder:
    """The reader in a whole text encoder: both end in the same plain norm."""
    reader = TextEncoder(replace(net.shape, layers=READER_LAYERS)).to(next(net.parameters()).device)
    reader.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith(LAST)})
    return reader


@torch.no_grad()
def with_last_layer(reader: TextEncoder, ids: Tensor, axes: Tensor) -> TextEncoder:
    """The whole text encoder, on the CPU.

    ``ids``: (B, WORDS) tokens of some prompts to fit its last layer to; ``axes`` are the codes'.
    """
    net = TextEncoder(replace(reader.shape, layers=LAYERS))
    missing = net.load_state_dict(reader.state_dict(), strict=False).missing_keys
    if any(not key.startswith(LAST) for key in missing):
        raise ValueError(f"the reader lacks {missing}")
    short = TextEncoder(reader.shape)
    short.load_state_dict(reader.state_dict())
    prefix = prefix_ids(ids.cpu(), reader.shape.vocabulary)
    analytic_layer.write(net, short(prefix), axes.cpu())
    analytic_layer.settle(net, F.pad(prefix[:SETTLED], (0, codes.LENGTH - PREFIX), value=reader.shape.vocabulary - 1))
    return net.eval()


class TextStage:
    """Learns to read captions."""

    name, network = "text", "text_encoder"
    figures = ("error", "layout", "ground", "first", "second", "colours", "colours right", "objects right")

    def __init__(self, course: Course, net: TextEncoder, table: Codes) -> None:
        self.course, self.table = course, table
        self.net = reader_of(net).train()
        self.net.final_layer_norm.reset_parameters()
        self.net.final_layer_norm.requires_grad_(False)  # the whole encoder's last norm serves the parts as well
        every = torch.arange(-1, len(table.numbers) - 1, device=course.device).roll(-1)
        own = torch.full_like(every, -1)
        self.objects = [table.whole(which, every, own).flatten(1) for which in range(2)]
        self.fitted = course.maker.captions(course.maker.labels(FITTED))

    def groups(self) -> list[dict[str, Any]]:
        others, matrices = muon.groups(self.net, self.net.embeddings)
        embeddings = self.net.embeddings.token_embedding.weight
        others["params"] = [weight for weight in others["params"] if weight is not embeddings]
        return [
            {**others, "weight_decay": 0.02},
            {"params": [embeddings], "share": 0.5, "weight_decay": 0.0},
            matrices,
        ]

    def draw(self, done: float) -> tuple[Tensor, ...]:
        labels = self.course.maker.labels(self.course.batch)
        ids = prefix_ids(self.course.maker.captions(labels), self.net.shape.vocabulary)
        # finds the object; later it would only distort the code
        choice = torch.full((), 0.5 * max(0.04, 1 - 1.5 * done), device=labels.device)
        return ids, labels, self.table.prefix(labels), choice

    def loss(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        ids, labels, target, choice = inputs
        hidden = self.net(ids).float()
        error = (hidden - target).square().mean(-1)
        scores = score(hidden, self.table, self.objects)
        layouts, grounds, firsts, tints_of_first, seconds, tints_of_second = labels.unbind(1)
        wanted = grounds, layouts, firsts, seconds, tints_of_first, tints_of_second
        losses = [F.cross_entropy(s, t % s.shape[1]) for s, t in zip(scores, wanted, strict=True)]
        ground, layout, first, second, *colours = losses
        tinted = torch.stack(colours).mean()
        missed = torch.stack([_colour_error(hidden, target, at) for at in (FIRST_WHOLE, SECOND_WHOLE)]).mean()
        loss = 1.2 * error[:, WORDS:].mean() + 0.1 * error[:, :WORDS].mean() + 0.3 * missed
        loss = loss + choice * (ground + layout + first + second + tinted) + 0.1 * tinted
        rights = [(s.argmax(1) == t % s.shape[1]) for s, t in zip(scores[2:], wanted[2:], strict=True)]
        objects, tints = (rights[0] & rights[1]).float().mean(), (rights[2] & rights[3]).float().mean()
        return loss, torch.stack((error[:, WORDS:].mean(), layout, ground, first, second, tinted, tints, objects))

    @torch.no_grad()
    def averaged(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        reader = TextEncoder(self.net.shape)
        reader.load_state_dict(weights)
        return with_last_layer(reader, self.fitted, self.table.axes).state_dict()


def score(hidden: Tensor, table: Codes, objects: list[Tensor]) -> list[Tensor]:
    """Logits, (B, entries) each, of the tables' entries: ground, layout, first, second, and the colours of both."""
    wholes = [hidden[:, at : at + BLOCKS] for at in (FIRST_WHOLE, SECOND_WHOLE)]
    size = WIDTH * BLOCKS
    named = [2 * LOGIT_SCALE * whole.flatten(1) @ of.T / size for whole, of in zip(wholes, objects, strict=True)]
    power = codes.COLOUR_SHARE * WIDTH
    tinted = [LOGIT_SCALE * codes.block_colours(whole).mean(1) @ table.colour.T / power for whole in wholes]
    placed = [LOGIT_SCALE * hidden[:, at] @ of.T / WIDTH for at, of in ((GROUND, table.ground), (LAYOUT, table.layout))]
    return [*placed, *named, *tinted]


def _colour_error(hidden: Tensor, target: Tensor, at: int) -> Tensor:
    """Mean squared error of an object's colour, as a share of its power."""
    read, wanted = (codes.block_colours(rows[:, at : at + BLOCKS]) for rows in (hidden, target))
    return (read - wanted).square().sum(-1).mean() / (codes.COLOUR_SHARE * WIDTH)


class PromptCodes:
    """Codes as the trained text encoder gives them: labels to captions to tokens.

    The analytic last layer gives the parts what the blocks hold, so the parts are made from the blocks directly:
    that is cheaper.
    """

    def __init__(self, maker: Maker, net: TextEncoder, axes: Tensor) -> None:
        self.maker, self.axes, self.reader = maker, axes, reader_of(net).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, labels: Tensor) -> Tensor:
        """(B, 6) labels, all -1 for an empty prompt; to (B, LENGTH, WIDTH)."""
        ids = prefix_ids(self.maker.captions(labels), self.reader.shape.vocabulary)
        with runtime.autocast(labels.device):
            prefix = self.reader(ids).float()
        wholes = [prefix[:, at : at + BLOCKS] for at in (FIRST_WHOLE, SECOND_WHOLE)]
        parts = [
            codes.part_tokens(codes.block_numbers(whole), codes.block_colours(whole), which, self.axes)
            for which, whole in enumerate(wholes)
        ]
        return torch.cat((prefix, *parts), 1)
