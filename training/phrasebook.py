"""The phrasebook: the grammar and the lexicon, made into tables of token pieces.

Knows the grammar's texts, the lexicon and the words for colours; the tokenizer is given. `samples.captions` knows how
the pieces are put together.
"""

import re
from collections.abc import Callable

from . import captions, colours, grounds
from .concepts import DATA
from .samples.phrases import PhraseBook, Phrases
from .words import Lexicon

FIRST_NAME = 0.45  # how often the proper name is taken whatever other names there are
RARE_CHARACTERS = range(0x4E00, 0x9FA5, 5)  # stand for themselves: characters at random


def make(lexicon: Lexicon, encode: Callable[[str], list[int]], vocabulary: int) -> Phrases:
    """The tables for a lexicon and a tokenizer."""
    book = PhraseBook(encode, vocabulary)
    _english(book, lexicon)
    _chinese(book, lexicon)
    return book.finish()


def tells_colour(name: str) -> bool:
    """Whether an English name has a colour in it."""
    return bool(colours.WORDS & set(re.findall(r"[a-z]+", name)))


def without_colour(name: str) -> str:
    """A Chinese name without the colour before it: of a red apple the apple. A cucumber stays a "yellow melon"."""
    first, rest = name[:1], name[1:].removeprefix("色").removeprefix("的")
    return rest if first in colours.CHARACTERS and len(rest) > 1 else name


def _english(book: PhraseBook, lexicon: Lexicon) -> None:
    plain = [[name for name in own if not tells_colour(name)] or own for own in lexicon.names]
    for family, names in (("names", lexicon.names), ("uncoloured names", plain)):
        book.family(family, (_weighted(own) for own in names))
        book.family(family.replace("names", "plurals"), (_weighted([captions.plural(n) for n in own]) for own in names))
    book.family("colour before", (_filled(captions.COLOUR_BEFORE, colour.english) for colour in colours.COLOURS))
    book.family("colour after", (_filled(captions.COLOUR_AFTER, colour.english) for colour in colours.COLOURS))
    book.family("colour apart", (_filled(captions.COLOUR_APART, colour.english) for colour in colours.COLOURS))
    book.family("grounds", (_ground(name) for name in grounds.NAMES))
    book.family("bare grounds", (_bare_ground(name) for name in grounds.NAMES))
    book.form_family("forms", (_first_often(forms) for forms in (captions.BESIDE, captions.ABOVE, captions.WITH)))
    book.family("counts", (texts.split("|") for texts in captions.COUNTS.values()))
    for name, texts in (
        ("styles", captions.STYLES), ("asks", captions.ASKS), ("tags", [f", {tag}" for tag in captions.TAGS]),
        ("adjectives", captions.ADJECTIVES), ("relations", captions.RELATIONS), ("marks", captions.MARKS),
        ("head links", captions.HEAD_LINKS), ("tail links", captions.TAIL_LINKS), ("comma", (",",)),
        ("a", ("a",)), ("an", ("an",)), ("the", ("the",)), ("one", ("one",)),
        ("fillers", lexicon.fillers), ("hinted", lexicon.hinted),
    ):  # fmt: skip
        book.family(name, (texts,))


def _chinese(book: PhraseBook, lexicon: Lexicon) -> None:
    """Families of both scripts, traditional first: a group of script 1 is as far behind as there are labels."""
    scripts = range(2)
    ground_lines = (DATA / "zh_grounds.tsv").read_text(encoding="utf-8").splitlines()
    ground_words = {name: words for name, *words in (line.split("\t") for line in ground_lines if line)}
    filler_lines = (DATA / "zh_fillers.tsv").read_text(encoding="utf-8").splitlines()
    fillers = [line.split("\t") for line in filler_lines if line]
    said_in_colours = "".join(word for colour in colours.COLOURS for word in (*colour.traditional, *colour.simplified))
    meant = {*captions.ZH_MEANT, *said_in_colours, *"".join("".join(words) for words in ground_words.values())}
    named = lexicon.traditional, lexicon.simplified
    book.family("zh names", (own for names in named for own in names))
    book.family("zh uncoloured names", (map(without_colour, own) for names in named for own in names))
    said = [[colour.traditional, colour.simplified] for colour in colours.COLOURS]
    book.family(
        "zh colour before",
        (
            [*_filled(captions.ZH_COLOUR_BEFORE, own[script]), *([colour.letter[script]] if colour.letter[0] else [])]
            for script in scripts
            for own, colour in zip(said, colours.COLOURS, strict=True)
        ),
    )
    after = captions.ZH_COLOUR_AFTER
    book.family("zh colour after", (_filled(after, own[script]) for script in scripts for own in said))
    book.family("zh grounds", (_zh_ground(name, ground_words, script) for script in scripts for name in grounds.NAMES))
    tables = captions.ZH_BESIDE, captions.ZH_ABOVE, captions.ZH_WITH
    book.form_family("zh forms", (_with_commas(table[script]) for script in scripts for table in tables))
    book.family("zh counts", ((captions.ZH_COUNTS[name][s],) for s in scripts for name in captions.COUNTS))
    for name, texts in (
        ("zh asks", captions.ZH_ASKS), ("zh styles", captions.ZH_STYLES), ("zh adjectives", captions.ZH_ADJECTIVES),
        ("zh one", captions.ZH_ONE), ("zh measures", captions.ZH_MEASURES),
        ("zh fillers", tuple(zip(*fillers, strict=True))),
        ("zh shared characters", tuple(captions.shared_characters(names, meant) for names in named)),
        ("zh characters", ([chr(code) for code in RARE_CHARACTERS],)),
    ):  # fmt: skip
        book.family(name, texts)


def _weighted(names: list[str]) -> list[str]:
    """The names, the first one so often that it is `FIRST_NAME` and its share of the rest."""
    others = len(names) - 1
    share = FIRST_NAME + (1 - FIRST_NAME) / len(names)
    return names[:1] * (round(share * others / (1 - share)) if others else 1) + names[1:]


def _first_often(forms: list[str]) -> list[str]:
    return forms[:1] * round(0.4 * len(forms)) + forms


def _filled(forms: list[str], words: tuple[str, ...]) -> list[str]:
    """Every form with every word, the first word twice."""
    return [form.format(c=word) for form in forms for word in (words[0], *words)]


def _ground(name: str) -> list[str]:
    if name in grounds.COLOURS:
        words = ("gray", "grey") if name == "gray" else (name,)
        return [_with_article(form.format(c=word)) for form in _first_often(captions.COLOUR_WORDS) for word in words]
    return captions.SCENE_WORDS[name].split("|") if name else [""]


def _bare_ground(name: str) -> list[str]:
    if name in grounds.COLOURS:
        return [_with_article(form.format(c=name)) for form in captions.BARE_COLOURS]
    return captions.BARE_SCENES[name].split("|") if name else [""]


def _with_article(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _zh_ground(name: str, words: dict[str, list[str]], script: int) -> list[str]:
    if not name:
        return [""]
    own = words[name][script].split("|")
    return own if name in grounds.SCENES else [word + end for word in own for end in captions.ZH_BACKGROUNDS]


def _with_commas(forms: tuple[str, ...]) -> list[str]:
    """The forms, and those with a comma with the comma that Chinese keyboards give as well."""
    return [*forms, *(form.replace(",", "，") for form in forms)]
