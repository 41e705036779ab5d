"""Phrases: tables of token pieces from which captions are joined.

A *piece* is a run of whole words, already in tokens. A *group* is a list of pieces to choose from, a *family* a row of
groups by label: the names of every concept, the words for every colour. A *form* is a sentence with two holes. Knows
tables; knows neither how captions are put together nor the tokenizer that made the tokens.

Words that stand apart are tokenized apart, so pieces can be joined token by token. Chinese has no spaces: a character
has another token where it ends its run of characters. Pieces therefore hold it as it is inside a run, marked `OPEN`;
`closed` says what it becomes if no `BEGIN` follows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

OPEN, BEGIN = 1 << 20, 1 << 21  # marks on a token: of a Chinese character that ends a piece, that begins one
NOTHING = 0  # the empty piece
CHINESE = ("\u4e00", "\u9fff")
ANY = "一"  # a character to stand behind another


@dataclass(frozen=True)
class Phrases:
    """All tables."""

    tokens: Tensor  # all pieces' tokens, one after another
    offsets: Tensor  # (pieces + 1,) where each begins
    vowel: Tensor  # (pieces,) whether "an" stands before it
    entries: Tensor  # all groups' pieces, or forms, one after another
    starts: Tensor  # (groups,)
    counts: Tensor  # (groups,)
    forms: Tensor  # (forms, 4): pieces before, between and behind the holes, and whether the second object comes first
    closed: Tensor  # (vocabulary,) what an `OPEN` token becomes at the end of a run
    families: dict[str, int]  # the place of each family's first group

    def tables(self) -> dict[str, Tensor]:
        """All fields that are tensors."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "families"}


class PhraseBook:
    """Maker of `Phrases`: texts come in, tables come out. ``encode`` gives a text's tokens, without begin and end."""

    def __init__(self, encode: Callable[[str], list[int]], vocabulary: int) -> None:
        self.encode = encode
        self.closed = list(range(vocabulary))
        self.known: dict[str, int] = {}
        self.pieces: list[list[int]] = []
        self.vowels: list[bool] = []
        self.groups: list[list[int]] = []
        self.forms: list[list[int]] = []
        self.families: dict[str, int] = {}
        self.piece("")

    def piece(self, text: str) -> int:
        """The number of a text's piece."""
        text = " ".join(text.split())
        if text not in self.known:
            self.known[text] = len(self.pieces)
            self.pieces.append(self._tokens(text))
            self.vowels.append(text[:1] in tuple("aeiou"))
        return self.known[text]

    def _tokens(self, text: str) -> list[int]:
        if not text:
            return []
        tokens = self.encode(text)
        if _chinese(text[-1]):
            inside = self.encode(text + ANY)[: len(tokens)]
            if inside[:-1] != tokens[:-1]:
                raise ValueError(f"{text!r}: a character's tokens depend on the next")
            self.closed[inside[-1]] = tokens[-1]
            tokens = [*inside[:-1], inside[-1] | OPEN]
        if _chinese(text[0]):
            tokens = [tokens[0] | BEGIN, *tokens[1:]]
        return tokens

    def family(self, name: str, groups: Iterable[Iterable[str]]) -> None:
        """A family of groups of texts; a text that is there twice is chosen twice as often."""
        self.families[name] = len(self.groups)
        self.groups += [[self.piece(text) for text in group] for group in groups]

    def form_family(self, name: str, groups: Iterable[Iterable[str]]) -> None:
        """A family of groups of sentences with the holes {a} and {b}."""
        self.families[name] = len(self.groups)
        for group in groups:
            self.groups.append(list(range(len(self.forms), len(self.forms) + len(rows := list(group)))))
            self.forms += [self._form(text) for text in rows]

    def _form(self, text: str) -> list[int]:
        swapped = "{a}" in text and text.index("{b}") < text.index("{a}")
        before, between, behind = text.replace("{b}", "{a}").split("{a}")
        return [self.piece(before), self.piece(between), self.piece(behind), int(swapped)]

    def finish(self) -> Phrases:
        """The tables."""
        sizes = torch.tensor([len(piece) for piece in self.pieces])
        counts = torch.tensor([len(group) for group in self.groups])
        return Phrases(
            tokens=torch.tensor([token for piece in self.pieces for token in piece], dtype=torch.int32),
            offsets=torch.cat((torch.zeros(1, dtype=torch.long), sizes.cumsum(0))).int(),
            vowel=torch.tensor(self.vowels),
            entries=torch.tensor([piece for group in self.groups for piece in group], dtype=torch.int32),
            starts=(counts.cumsum(0) - counts).int(),
            counts=counts.int(),
            forms=torch.tensor(self.forms, dtype=torch.int32).view(-1, 4),
            closed=torch.tensor(self.closed, dtype=torch.int32),
            families=self.families,
        )


def _chinese(char: str) -> bool:
    return CHINESE[0] <= char <= CHINESE[1]
