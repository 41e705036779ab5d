"""The command that packs art, names and captions into the archive that the training reads.

It alone needs the packages of npm, the sentence encoder and the tokenizer's library; the training needs the archive.
"""

import argparse
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from . import colours, concepts, phrasebook, runtime, tokens, words
from .concepts import DATA, Concept
from .samples import archive, recolouring

OUTPUT = runtime.BUILD / "art.zip"
LIMIT = 20_000_000  # bytes
LICENCES = ("emojibase-data", "emojilib", "cldr-annotations-full")  # packages of names; the art's own is in data/


def pack(art: Path, path: Path, tokenizer_folder: Path | None = None) -> None:
    """Write the archive. Without a tokenizer's folder a new tokenizer is made from the lexicon."""
    known = concepts.load(art)
    lexicon = words.load(known)
    if tokenizer_folder is None:
        shutil.rmtree(tokens.FOLDER, ignore_errors=True)  # of another grammar, perhaps
        tokens.make(lexicon, tokens.FOLDER)
    folder = tokenizer_folder or tokens.FOLDER
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    told = _told(known)
    pictures = art / "node_modules/@lobehub/fluent-emoji-3d/assets"

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    content = {
        "names": [own[0] for own in lexicon.names],
        "kinds": _kinds(known, told),
        "recolourable": torch.tensor(
            [told.get(own[0]) != "own" and not all(map(phrasebook.tells_colour, own)) for own in lexicon.names]
        ),
        "all_embeddings": embeddings(tokenizer, lexicon).half(),
        "phrases": phrasebook.make(lexicon, encode, len(tokenizer)),
        "tokenizer": {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()},
        "start": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
    }
    archive.write(path, content, [(pictures / f"{c.key}.webp").read_bytes() for c in known], _licences(art))


def _told(known: list[Concept]) -> dict[str, str]:
    """What is known in advance of concepts' main parts."""
    lines = (DATA / "main_parts.tsv").read_text(encoding="utf-8").splitlines()
    told = dict(line.split("\t") for line in lines if line and not line.startswith("#"))
    if unknown := told.keys() - {concept.names[0] for concept in known}:
        raise ValueError(f"main_parts.tsv names {sorted(unknown)}, which are no concepts")
    return told


def _kinds(known: list[Concept], told: dict[str, str]) -> Tensor:
    values = {colour.name: colour.rgb for colour in colours.COLOURS}
    kinds = [told.get(concept.names[0], "").replace("own", "") for concept in known]
    return torch.tensor([recolouring.kind_of(kind, values) for kind in kinds])


@torch.no_grad()
def embeddings(tokenizer: CLIPTokenizer, lexicon: words.Lexicon) -> Tensor:
    """(V, 384) the sentence encoder's vectors of whole words, and of Chinese characters their objects' and colours'."""
    state = torch.load(words.VECTORS, weights_only=True)
    vectors, place = state["vectors"].float(), {text: i for i, text in enumerate(state["texts"])}
    vectors = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(vectors[:4000], full_matrices=False)
    flat = vectors @ axes.T
    flat = flat / flat[:, : archive.WIDTH].std() * 0.05
    table = torch.randn(len(tokenizer), flat.shape[1], generator=torch.Generator().manual_seed(19)) * 0.02
    vocabulary = tokenizer.get_vocab()
    for text, row in place.items():
        if (token := vocabulary.get(f"{text}</w>")) is not None:
            table[token] = flat[row]
    named = [
        (own[0], [*hant, *hans])
        for own, hant, hans in zip(lexicon.names, lexicon.traditional, lexicon.simplified, strict=True)
    ]
    named += [
        (colour.english[0].split()[-1], ["".join(colour.traditional + colour.simplified).replace("色", "")])
        for colour in colours.COLOURS
    ]
    of_characters: dict[int, list[Tensor]] = {}
    for english, chinese in named:
        for char in "".join(chinese):
            piece = "".join(tokens.byte_letters(char))
            for token in (vocabulary.get(piece), vocabulary.get(f"{piece}</w>")):
                if token is not None and english in place:
                    of_characters.setdefault(token, []).append(flat[place[english]])
    for token, rows in of_characters.items():
        table[token] = torch.stack(rows).mean(0)
    return table


def _licences(art: Path) -> dict[str, str]:
    """File names in the archive to texts: of the art, and of the packages of names that carry one."""
    found = {"licences/LICENSE-fluent-emoji": (DATA / "LICENSE-fluent-emoji").read_text(encoding="utf-8")}
    for package in LICENCES:
        folder = art / "node_modules" / package
        for file in sorted(folder.glob("LICENSE*")) or sorted(folder.glob("package.json")):
            found[f"licences/{package}-{file.name}"] = file.read_text(encoding="utf-8")
    found["licences/README"] = (
        "Pictures: Fluent Emoji 3D by Microsoft (MIT), npm @lobehub/fluent-emoji-3d (MIT).\n"
        "Names: emojibase-data (MIT), emojilib (MIT), cldr-annotations-full (Unicode Licence v3).\n"
        "Embeddings: made with all-MiniLM-L6-v2 (Apache 2.0).\n"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, default=runtime.ART, help="where npm installed the art")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--tokenizer", type=Path, help="keep this tokenizer, so that a text encoder may be trained on")
    options = parser.parse_args()
    runtime.set_up(19)
    pack(options.art, options.output, options.tokenizer)
    with zipfile.ZipFile(options.output) as file:
        sizes: Counter[str] = Counter()
        for entry in file.infolist():
            sizes[entry.filename.partition("/")[0]] += entry.compress_size
    size = options.output.stat().st_size
    print(f"{options.output}: {size / 1e6:.1f} MB")
    for name, part in sizes.most_common():
        print(f"  {name}: {part / 1e6:.2f} MB")
    if size > LIMIT:
        raise SystemExit(f"{options.output} is over {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
