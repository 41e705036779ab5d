"""The tokenizer: byte pairs learnt from the lexicon, in CLIP's own format.

Knows the words of the captions; knows neither pictures nor networks. English words that matter are whole tokens. Each
Chinese character is one token, whether it ends a run of characters or not.
"""

import json
import re
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
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
        _make(lexicon)
    return CLIPTokenizer.from_pretrained(FOLDER, model_max_length=codes.LENGTH)


def _make(lexicon: Lexicon) -> None:
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
    FOLDER.mkdir(exist_ok=True)
    tokenizer.save_pretrained(FOLDER)


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
    grammar += [*colours.WORDS, *captions.COLOUR_BEFORE, *captions.COLOUR_AFTER]
    for word in re.findall(r"[a-z]{2,}", " ".join(grammar)):
        counts[word] += 60
    for word in lexicon.fillers[:FILLERS]:
        counts[word] += 60
    for word in lexicon.nearby[:NEARBY]:
        counts[word] += 55
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=ENGLISH,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator((word for word, n in sorted(counts.items()) for _ in range(n)), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [(a, b) for a, b in model["merges"]]
    symbols = sorted(alphabet)
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges


def _characters(lexicon: Lexicon) -> set[str]:
    texts = [name for table in (lexicon.traditional, lexicon.simplified) for own in table for name in own]
    texts.append((DATA / "zh_grounds.tsv").read_text(encoding="utf-8"))
    texts += [Path(module.__file__).read_text(encoding="utf-8") for module in (captions, colours)]
    return {char for text in texts for char in text if CJK.match(char)}


def byte_letters(char: str) -> list[str]:
    """The three bytes of a character, each as the letter that byte-level BPE writes for it."""
    return list(pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(char)[0][0])
