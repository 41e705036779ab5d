"""Questions of the evaluation: prompts with their right answers, class by class.

Knows the lexicon and the held-out phrasings; knows neither pictures nor metrics. Every choice is seeded.
"""

from dataclasses import dataclass

import numpy as np

from . import colours, grounds, heldout
from .captions import SCENE_WORDS, plural
from .words import Lexicon, heldout_synonyms

CLASSES = (
    "names", "chinese traditional", "chinese simplified", "held-out phrasings", "held-out chinese phrasings",
    "fresh phrasings", "fresh chinese phrasings", "synonyms", "held-out synonyms", "grounds", "counts",
    "pairs beside", "pairs above", "pairs with", "colours",
)  # fmt: skip
TINTS = colours.NAMES[:12]  # those that grounds have too
TINTED = (  # objects that are asked for in every one of them
    "cat", "dog", "rabbit", "horse", "elephant", "owl", "bird", "fish", "rose", "apple", "banana", "teapot", "car",
    "bus", "bicycle", "house", "balloon", "umbrella", "t-shirt", "guitar",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A prompt and what its picture must show."""

    kind: str
    prompt: str
    objects: tuple[int, ...]  # the concepts that must be there
    ground: int = 0
    count: int = 1
    colour: int = -1  # of the object; -1 where none was asked for
    held_out: bool = False  # whether no training has had this object in this colour


def ask(lexicon: Lexicon, share: float) -> list[Question]:
    """All questions, or a share of every class."""
    rng = np.random.default_rng(2026)
    tables = lexicon.traditional, lexicon.simplified
    proper = [own[0] for own in lexicon.names]
    every = range(len(proper))

    def some(count: int) -> list[int]:
        return [int(i) for i in rng.choice(len(proper), max(1, min(len(proper), round(count * share))), replace=False)]

    def phrased(kind: str, english: tuple[str, ...], chinese: tuple[tuple[str, str], ...]) -> list[Question]:
        """Five objects for every English template, sixty for the Chinese ones in turn."""
        found = []
        for n, i in enumerate(some(5 * len(english))):
            prompt = heldout.fill(english[n % len(english)], proper[i])
            found.append(Question(f"{kind} phrasings", prompt, (i,)))
        for n, i in enumerate(some(60)):
            prompt = chinese[n // 2 % len(chinese)][n % 2].format(n=tables[n % 2][i][0])
            found.append(Question(f"{kind} chinese phrasings", prompt, (i,)))
        return found

    asked = [Question("names", with_article(proper[i]), (i,)) for i in (every if share >= 1 else some(len(proper)))]
    asked += [Question("chinese traditional", f"一個{lexicon.traditional[i][0]}", (i,)) for i in some(200)]
    asked += [Question("chinese simplified", f"一个{lexicon.simplified[i][0]}", (i,)) for i in some(200)]
    asked += phrased("held-out", heldout.ENGLISH, heldout.CHINESE)
    named = [i for i in every if len(lexicon.names[i]) > 1]
    for i in rng.choice(named, max(1, round(160 * share)), replace=False):
        own = lexicon.names[int(i)]
        asked.append(Question("synonyms", with_article(own[int(rng.integers(1, len(own)))]), (int(i),)))
    pairs = heldout_synonyms()
    for n in rng.choice(len(pairs), max(1, round(len(pairs) * share)), replace=False):
        synonym, name = pairs[int(n)]
        asked.append(Question("held-out synonyms", with_article(synonym), (proper.index(name),)))
    for n, i in enumerate(some(120)):
        ground = 1 + n % (len(grounds.NAMES) - 1)
        asked.append(Question("grounds", f"{with_article(proper[i])} {_where(ground)}", (i,), ground))
    for n, i in enumerate(some(120)):
        count = 2 + n % 3
        asked.append(Question("counts", f"{('two', 'three', 'four')[count - 2]} {plural(proper[i])}", (i,), 0, count))
    for kind, form, count in (
        ("pairs beside", "{} on the left and {} on the right", 64),
        ("pairs above", "{} above {}", 32),
        ("pairs with", "{} with {}", 32),
        ("pairs above", "{} above {}", 32),  # after all others, whose draws stay what they were
    ):
        first, second = some(count), some(count)
        for i, j in zip(first, second, strict=True):
            if i != j:
                asked.append(Question(kind, form.format(with_article(proper[i]), with_article(proper[j])), (i, j)))
    return asked + phrased("fresh", heldout.FRESH_ENGLISH, heldout.FRESH_CHINESE) + _coloured(proper, share)


def _coloured(proper: list[str], share: float) -> list[Question]:
    """Every object of `TINTED` in every colour of `TINTS`, or a share of the colours for each."""
    asked = []
    for n, name in enumerate(TINTED):
        for tint in range(n, n + max(1, round(share * len(TINTS)))):
            colour = tint % len(TINTS)
            prompt, held_out = with_article(f"{TINTS[colour]} {name}"), (name, TINTS[colour]) in heldout.COLOURED
            asked.append(Question("colours", prompt, (proper.index(name),), colour=colour, held_out=held_out))
    return asked


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _where(ground: int) -> str:
    name = grounds.NAMES[ground]
    return f"on a {name} background" if name in grounds.COLOURS else SCENE_WORDS[name].split("|")[0]
