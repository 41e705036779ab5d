"""Captions: what a person might write who wants a scene, as tokens, a batch at a time.

Puts pieces of the phrasebook together, in English and both Chinese scripts. Knows labels and tables of pieces; knows
neither pictures nor networks. A caption is a row of columns, most of them empty in any one caption; every column
holds one piece.
"""

import torch
from torch import Tensor

from ..scenes import LAYOUTS, PAIRS
from .phrases import BEGIN, NOTHING, OPEN, Phrases

WORDS = 28  # tokens of a caption that the text encoder sees as words, begin and end included
CHINESE_SHARE = 0.28
NOISE_SHARE = 0.7  # of captions that describe nothing: meaningless words; the others are empty
CHINESE_NOISE = 0.2
OWN_COLOUR_SHARE = 0.12  # of objects in their own colour: the caption says that colour
LONG_SHARE = 0.06  # of rambling captions: longer than the words that are seen
FILLERS = 14  # columns of fillers before what is described, and behind it
COUNTED = ("two", "three", "four")

# Columns. A noun has six: article, two adjectives, colour, name, colour behind the name.
LEAD, GROUND_FIRST, COMMA, HEAD = 0, 1, 2, 3
HEAD_LINK = HEAD + 2 * FILLERS
BEFORE, FIRST = HEAD_LINK + 1, HEAD_LINK + 2
NOUN = 6
BETWEEN, SECOND = FIRST + NOUN, FIRST + NOUN + 1
BEHIND = SECOND + NOUN
MARK, GROUND, TAIL_LINK, TAIL = BEHIND + 1, BEHIND + 2, BEHIND + 3, BEHIND + 4
GROUND_LAST = TAIL + 2 * FILLERS
TAGS, COLUMNS = GROUND_LAST + 1, GROUND_LAST + 4
ARTICLE, ADJECTIVE, COLOUR, NAME, COLOUR_AFTER = 0, 1, 3, 4, 5  # of a noun's columns


class Captions:
    """Writer of captions. ``own`` (concepts,) is each concept's own colour, -1 where none can be named."""

    def __init__(self, phrases: Phrases, own: Tensor, start: int, end: int, generator: torch.Generator) -> None:
        device = generator.device
        for name, table in phrases.tables().items():
            setattr(self, name, table.to(device, torch.bool if name == "vowel" else torch.long))
        self.families, self.generator, self.device = phrases.families, generator, device
        self.own, self.concepts, self.start, self.end = own.to(device), len(own), start, end
        self.sizes = self.offsets[1:] - self.offsets[:-1]
        index = LAYOUTS.index
        self.counted = torch.zeros(len(LAYOUTS), dtype=torch.long, device=device)  # place among `COUNTED`, from 1
        self.paired = torch.zeros(len(LAYOUTS), dtype=torch.long, device=device)  # place among `PAIRS`, from 1
        for place, layout in enumerate(COUNTED):
            self.counted[index(layout)] = place + 1
        for place, layout in enumerate(PAIRS):
            self.paired[index(layout)] = place + 1

    tokens: Tensor
    offsets: Tensor
    vowel: Tensor
    entries: Tensor
    starts: Tensor
    counts: Tensor
    forms: Tensor
    closed: Tensor

    def write(self, labels: Tensor, length: int = WORDS) -> Tensor:
        """(B, 6) labels, all -1 for nothing, to (B, length) token ids, as the tokenizer pads and cuts them."""
        return self.join(self.pieces(labels.to(self.device)), length)

    def join(self, pieces: Tensor, length: int) -> Tensor:
        """(B, COLUMNS) pieces to (B, length) token ids."""
        ends = self.sizes[pieces].cumsum(1)
        at = torch.arange(length, device=self.device).expand(len(pieces), length).contiguous()
        column = torch.searchsorted(ends, at, right=True).clamp(max=pieces.shape[1] - 1)
        piece = pieces.gather(1, column)
        within = at - (ends - self.sizes[pieces]).gather(1, column)
        there = at < ends[:, -1:]
        marked = self.tokens[(self.offsets[piece] + within).where(there, 0)].where(there, self.end)
        token, follows = marked & (OPEN - 1), marked[:, 1:] & BEGIN != 0
        ending = (marked & OPEN != 0)[:, :-1] & ~follows
        token = torch.cat((self.closed[token[:, :-1]].where(ending, token[:, :-1]), token[:, -1:]), 1)
        return torch.cat((torch.full_like(token[:, :1], self.start), token[:, :-1]), 1)

    def pieces(self, labels: Tensor) -> Tensor:
        """(B, COLUMNS): the pieces of random captions."""
        chance = _Chance(torch.rand(len(labels), 224, generator=self.generator, device=self.device))
        layout, ground, first, tint, second, tint2 = labels.unbind(1)
        nothing = layout < 0
        layout = layout.clamp(min=0)
        described = first >= 0
        tints = [self._said(which, colour, chance) for which, colour in ((first, tint), (second, tint2))]
        chinese = (chance() < CHINESE_SHARE) & described
        script = (chance() < 0.5).long()
        english = self._english(layout, ground, (first, second), tints, chance)
        hanzi = self._chinese(layout, ground, (first, second), tints, script, chance)
        noise = torch.where((chance() < CHINESE_NOISE)[:, None], self._zh_noise(script, chance), self._noise(chance))
        noise = noise.where((chance() < NOISE_SHARE)[:, None], NOTHING)
        described_rows = torch.where(chinese[:, None], hanzi, english)
        return torch.where(nothing[:, None], noise, described_rows)

    def _said(self, which: Tensor, colour: Tensor, chance: "_Chance") -> Tensor:
        """The colour that the caption says."""
        own = self.own[which.clamp(min=0)].where(chance() < OWN_COLOUR_SHARE, -1)
        return torch.where(colour >= 0, colour, own)

    # English

    def _english(
        self, layout: Tensor, ground: Tensor, which: tuple[Tensor, Tensor], tints: list[Tensor], chance: "_Chance"
    ) -> Tensor:
        rows = self._empty(layout)
        bare = layout == LAYOUTS.index("empty")
        where = torch.where(
            bare, self._pick("bare grounds", chance, ground), self._pick("grounds", chance, ground)
        ).where(ground > 0, NOTHING)
        # 1. What kind of sentence: plain, after a style, after a request, after the ground, or among other words.
        roll, stated = chance(), ground > 0
        styled, asked = (roll >= 0.28) & (roll < 0.46), (roll >= 0.46) & (roll < 0.60)
        ahead = (roll >= 0.60) & (roll < 0.66) & stated
        rambling = (roll >= 0.60) & ~ahead
        rows[:, LEAD] = self._pick("styles", chance).where(styled, self._pick("asks", chance).where(asked, NOTHING))
        rows[:, GROUND_FIRST] = where.where(ahead, NOTHING)
        rows[:, COMMA] = self._pick("comma", chance).where(ahead & ~bare, NOTHING)
        # 2. The words around.
        single = layout == LAYOUTS.index("single")
        before, behind = self._ramble(rows, rambling, single & (chance() < 0.4), chance)
        rows[:, HEAD_LINK] = self._pick("head links", chance).where((before > 0) & (chance() < 0.5), NOTHING)
        rows[:, TAIL_LINK] = self._pick("tail links", chance).where((behind > 0) & (chance() < 0.3), NOTHING)
        late = rambling & (chance() < 0.3)
        rows[:, GROUND] = where.where(~ahead & ~late, NOTHING)
        rows[:, GROUND_LAST] = where.where(late, NOTHING)
        rows[:, MARK] = self._pick("marks", chance).where(rambling & (chance() < 0.2), NOTHING)
        # 3. The objects.
        counted, paired = self.counted[layout], self.paired[layout]
        form = self._form("forms", paired, chance)
        count = self._pick("counts", chance, (counted - 1).clamp(min=0))
        rows[:, BEFORE] = torch.where(counted > 0, count, form[:, 0].where(paired > 0, NOTHING))
        rows[:, BETWEEN], rows[:, BEHIND] = form[:, 1:3].where((paired > 0)[:, None], NOTHING).unbind(1)
        nouns = [
            self._noun(concept, colour, counted, single, chance).where((concept >= 0)[:, None], NOTHING)
            for concept, colour in zip(which, tints, strict=True)
        ]
        self._lay(rows, nouns, form[:, 3] > 0)
        # 4. What people put at the end.
        self._tag(rows, (chance() < 0.25).long() * (1 + (3 * chance()).long()), chance)
        return rows

    def _noun(self, concept: Tensor, colour: Tensor, counted: Tensor, single: Tensor, chance: "_Chance") -> Tensor:
        """(B, NOUN): "a small blue car", or "blue cars" where it is counted."""
        at, coloured, many = concept.clamp(min=0), colour >= 0, counted > 0
        one_name, plural = (
            torch.where(coloured, self._pick(f"uncoloured {kind}", chance, at), self._pick(kind, chance, at))
            for kind in ("names", "plurals")
        )
        name = torch.where(many, plural, one_name)
        kinds = torch.where(many, (chance() < 0.25).long(), (chance() < 0.3).long() * (1 + (2 * chance()).long()))
        first, other = (self._pick("adjectives", chance).where(kinds > n, NOTHING) for n in range(2))
        after = coloured & (chance() < 0.2)
        tint = colour.clamp(min=0)
        before = self._pick("colour before", chance, tint).where(coloured & ~after, NOTHING)
        apart = self._pick("colour apart", chance, tint)
        behind = apart.where(single & (chance() < 0.3), self._pick("colour after", chance, tint)).where(after, NOTHING)
        front = name
        for piece in (before, other, first):
            front = torch.where(piece != NOTHING, piece, front)
        roll = chance()
        article = torch.where(self.vowel[front], self._pick("an", chance), self._pick("a", chance))
        article = article.where(roll < 0.6, self._pick("the", chance).where(roll < 0.72, self._pick("one", chance)))
        article = article.where((roll < 0.77) & ~many, NOTHING)
        return torch.stack((article, first, other, before, name, behind), 1)

    def _ramble(self, rows: Tensor, rambling: Tensor, related: Tensor, chance: "_Chance") -> tuple[Tensor, Tensor]:
        """Fill the columns of fillers; returns how many words stand before and behind."""
        many = torch.where(chance() < LONG_SHARE, 14 + (16 * chance()).long(), 1 + (8 * chance()).long())
        before = (chance() * (many + 1)).long()
        before, behind = ((n * rambling).clamp(max=FILLERS) for n in (before, many - before))
        for start, words in ((HEAD, before), (TAIL, behind)):
            filled, marks = self._fillers(words, related)
            rows[:, start : start + 2 * FILLERS : 2] = filled
            rows[:, start + 1 : start + 2 * FILLERS : 2] = marks
        return before, behind

    def _fillers(self, words: Tensor, related: Tensor) -> tuple[Tensor, Tensor]:
        """(B, FILLERS) words that mean nothing, and (B, FILLERS) marks behind some of them."""
        shape = (len(words), FILLERS, 6)
        place, kind, hint, relation, marked, mark = torch.rand(
            shape, generator=self.generator, device=self.device
        ).unbind(2)
        word = self._within("fillers", place**2.5)  # the common ones more often
        word = torch.where(kind < 0.2, self._within("hinted", hint), word)
        # so that such words alone do not become a second object
        word = torch.where((kind > 0.85) & related[:, None], self._within("relations", relation), word)
        there = torch.arange(FILLERS, device=self.device) < words[:, None]
        marks = self._within("marks", mark).where(there & (marked < 0.08), NOTHING)
        return word.where(there, NOTHING), marks

    def _noise(self, chance: "_Chance") -> Tensor:
        """Words that ask for nothing."""
        words = (9 * chance()).long()
        rows = self._empty(words)
        filled, marks = self._fillers(words, words < 0)
        rows[:, HEAD : HEAD + 2 * FILLERS : 2], rows[:, HEAD + 1 : HEAD + 2 * FILLERS : 2] = filled, marks
        self._tag(rows, (3 * chance()).long(), chance)
        return rows

    def _tag(self, rows: Tensor, count: Tensor, chance: "_Chance") -> None:
        for n in range(COLUMNS - TAGS):
            rows[:, TAGS + n] = self._pick("tags", chance).where(count > n, NOTHING)

    # Chinese; `script` 0 is traditional, 1 simplified

    def _chinese(
        self,
        layout: Tensor,
        ground: Tensor,
        which: tuple[Tensor, Tensor],
        tints: list[Tensor],
        script: Tensor,
        chance: "_Chance",
    ) -> Tensor:
        rows = self._empty(layout)
        rambling = chance() < 0.4
        rows[:, LEAD] = self._pick("zh asks", chance, script).where(~rambling, NOTHING)
        self._zh_ramble(rows, HEAD, rambling, script, chance)
        self._zh_ramble(rows, TAIL, rambling, script, chance)
        grounds = self._label_count("zh grounds", 2)
        rows[:, HEAD_LINK] = self._pick("zh grounds", chance, script * grounds + ground.clamp(min=0))
        rows[:, MARK] = self._pick("zh styles", chance, script).where(chance() < 0.15, NOTHING)
        counted, paired = self.counted[layout], self.paired[layout]
        form = self._form("zh forms", script * len(PAIRS) + paired, chance)
        count = self._pick("zh counts", chance, script * len(COUNTED) + (counted - 1).clamp(min=0))
        rows[:, BEFORE] = torch.where(counted > 0, count, form[:, 0].where(paired > 0, NOTHING))
        rows[:, BETWEEN], rows[:, BEHIND] = form[:, 1:3].where((paired > 0)[:, None], NOTHING).unbind(1)
        nouns = [
            self._zh_noun(concept, colour, counted, script, paired == 0, chance).where((concept >= 0)[:, None], NOTHING)
            for concept, colour in zip(which, tints, strict=True)
        ]
        self._lay(rows, nouns, form[:, 3] > 0)
        return rows

    def _zh_noun(
        self, concept: Tensor, colour: Tensor, counted: Tensor, script: Tensor, alone: Tensor, chance: "_Chance"
    ) -> Tensor:
        at, coloured = script * self.concepts + concept.clamp(min=0), colour >= 0
        plain, name = (self._pick(f"zh {kind}", chance, at) for kind in ("uncoloured names", "names"))
        name = torch.where(coloured, plain, name)
        one = self._pick("zh one", chance, script).where(chance() < 0.5, NOTHING)
        measure = self._pick("zh measures", chance, script).where(chance() < 0.8, NOTHING)
        adjective = self._pick("zh adjectives", chance, script)
        adjective = adjective.where((chance() < 0.15) & (counted == 0), NOTHING)
        after = alone & (chance() < 0.1)
        tint = script * self._label_count("zh colour before", 2) + colour.clamp(min=0)
        before = self._pick("zh colour before", chance, tint).where(coloured & ~after, NOTHING)
        behind = self._pick("zh colour after", chance, tint).where(coloured & after, NOTHING)
        return torch.stack(
            (torch.where(counted > 0, measure, one), adjective, torch.zeros_like(name), before, name, behind), 1
        )

    def _zh_ramble(self, rows: Tensor, start: int, rambling: Tensor, script: Tensor, chance: "_Chance") -> None:
        """Words, and characters at random, that mean nothing to a picture, in any order."""
        words = (4 * chance()).long()
        odd = (chance() < 0.3).long() * (1 + (3 * chance()).long())
        shared = (chance() < 0.3).long() * (1 + (2 * chance()).long())  # so that one of some name's is not its object
        there = torch.stack(
            [words > n for n in range(3)] + [odd > n for n in range(3)] + [shared > n for n in range(2)], 1
        )
        found = torch.stack(
            [self._pick("zh fillers", chance, script) for _ in range(3)]
            + [self._pick("zh characters", chance) for _ in range(3)]
            + [self._pick("zh shared characters", chance, script) for _ in range(2)],
            1,
        )
        order = torch.rand(found.shape, generator=self.generator, device=self.device).argsort(1)
        found = found.where(there & rambling[:, None], NOTHING).gather(1, order)
        rows[:, start : start + found.shape[1]] = found

    def _zh_noise(self, script: Tensor, chance: "_Chance") -> Tensor:
        rows = self._empty(script)
        self._zh_ramble(rows, HEAD, script >= 0, script, chance)
        return rows

    # Tables

    def _empty(self, like: Tensor) -> Tensor:
        return torch.full((len(like), COLUMNS), NOTHING, device=self.device)

    def _lay(self, rows: Tensor, nouns: list[Tensor], swapped: Tensor) -> None:
        first, second = nouns
        rows[:, FIRST : FIRST + NOUN] = torch.where(swapped[:, None], second, first)
        rows[:, SECOND : SECOND + NOUN] = torch.where(swapped[:, None], first, second)

    def _pick(self, family: str, chance: "_Chance", label: Tensor | int = 0) -> Tensor:
        """(B,) pieces, one of the group of each label."""
        return self._entry(self.families[family] + label, chance())

    def _within(self, family: str, chances: Tensor) -> Tensor:
        """Pieces of a family's first group, for chances of any shape."""
        return self._entry(self.families[family], chances)

    def _entry(self, group: Tensor | int, chances: Tensor) -> Tensor:
        count = self.counts[group]
        place = (chances * count).long().clamp(max=count - 1)
        piece: Tensor = self.entries[self.starts[group] + place]
        return piece

    def _form(self, family: str, paired: Tensor, chance: "_Chance") -> Tensor:
        """(B, 4) rows of forms; of any where there is no pair."""
        rows: Tensor = self.forms[self._pick(family, chance, (paired - 1).clamp(min=0))]
        return rows

    def _label_count(self, family: str, parts: int) -> int:
        """How many groups each part of a family has."""
        begin = self.families[family]
        later = [place for place in self.families.values() if place > begin]
        return (min(later, default=len(self.starts)) - begin) // parts


class _Chance:
    """Columns of uniform random numbers, each given once."""

    def __init__(self, columns: Tensor) -> None:
        self.columns = iter(columns.T.contiguous())

    def __call__(self) -> Tensor:
        column: Tensor = next(self.columns)
        return column
