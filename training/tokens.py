"""The tokenizer: byte pairs learnt from the lexicon, in CLIP's own format.

Knows the words of the captions; knows neither pictures nor networks. English words that matter are whole tokens. Each
Chinese character is one token, whether it ends a run of characters or not.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from . import captions, codes, colours, grounds, runtime
from .concepts import CJK, DATA
from .words import Lexicon

FOLDER = runtime.BUILD / "tokenizer"
ENGLISH = 4700  # tokens, with the 512 of the bytes
NEARBY = 450  # untaught words whose meaning the sentence encoder knows
FILLERS = 350  # common words of no meaning that are worth a token of their own
START, END = "<|startoftext|>", "<|endoftext|>"


def load(lexicon: Lexicon) -> CLIPTokenizer:
    """The tokenizer from the disk, or made from the lexicon and saved there."""
    if not (FOLDER / "tokenizer.json").exists():
        make(lexicon, FOLDER)
    return CLIPTokenizer.from_pretrained(FOLDER, model_max_length=codes.LENGTH)


def make(lexicon: Lexicon, folder: Path) -> None:
    """Write a tokenizer for the lexicon's words."""
    vocab, merges = _english(lexicon)
    known = set(merges)
    for char in sorted(_characters(lexicon)):
        a, b, c = byte_letters(char)
        for pair in ((a, b), (a + b, c), (a + b, c + "</w>")):
            if pair not in known:
                known.add(pair)
                merges.append(pair)
                vocab.setdefault("".join(pair), len(vocab))
    for special in (START, END):
        vocab[special] = len(vocab)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=codes.LENGTH)
    folder.mkdir(exist_ok=True, parents=True)
    tokenizer.save_pretrained(folder)


def _english(lexicon: Lexicon) -> tuple[dict[str, int], list[tuple[str, str]]]:
    counts: Counter[str] = Counter()
    for own in lexicon.names:
        for rank, name in enumerate(own):
            for word in re.findall(r"[a-z]+", f"{name} {captions.plural(name)}"):
                counts[word] += 60 if rank == 0 else 12
    grammar = [t for table in (captions.STYLES, captions.ASKS, captions.TAGS, captions.ADJECTIVES) for t in table]
    grammar += [
        *captions.SCENE_WORDS.values(),
        *captions.BARE_SCENES.values(),
        *captions.COLOUR_WORDS,
        *captions.BESIDE,
    ]
    grammar += [*captions.ABOVE, *captions.WITH, *captions.COUNTS.values(), *grounds.NAMES]
    grammar += [word for colour in colours.COLOURS for word in colour.english]
    grammar += [*captions.COLOUR_APART, *captions.COLOUR_BEFORE, *captions.COLOUR_AFTER]
    for word in re.findall(r"[a-z]{2,}", " ".join(grammar)):
        counts[word] += 60
    for word in lexicon.fillers[:FILLERS]:
        counts[word] += 60
    for word in lexicon.nearby[:NEARBY]:
        counts[word] += 55
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(counts, ENGLISH - 2 * len(symbols))
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges


def learn_merges(counts: Mapping[str, int], limit: int) -> list[tuple[str, str]]:
    """So many merges of byte pairs, the most frequent pair of all words first; among equals the first by letters.

    The tokenizers library decides among equals by the order of a hash table, differently in every run.
    """
    words = {word: [*word[:-1], f"{word[-1]}</w>"] for word in counts}
    pairs: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # words that had the pair at some time
    for word, parts in words.items():
        for pair in itertools.pairwise(parts):
            pairs[pair] += counts[word]
            places[pair].add(word)
    merges: list[tuple[str, str]] = []
    while pairs and len(merges) < limit:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in places.pop(best):
            old = words[word]
            new = words[word] = _merged(old, best)
            for pair in itertools.pairwise(old):
                pairs[pair] -= counts[word]
            for pair in itertools.pairwise(new):
                pairs[pair] += counts[word]
                places[pair].add(word)
        pairs = +pairs  # without those that are gone
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return found


def _characters(lexicon: Lexicon) -> set[str]:
    texts = [name for table in (lexicon.traditional, lexicon.simplified) for own in table for name in own]
    texts.append((DATA / "zh_grounds.tsv").read_text(encoding="utf-8"))
    texts += [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("captions.py", "colours.py")]
    return {char for text in texts for char in text if CJK.match(char)}


def byte_letters(char: str) -> list[str]:
    """The three bytes of a character, each as the letter that byte-level BPE writes for it."""
    return list(pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(char)[0][0])
