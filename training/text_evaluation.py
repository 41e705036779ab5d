"""Text evaluation: how well the text encoder understands, before any picture is drawn. Top-1 by class of question.

Knows questions, codes and the text encoder. Its figures bound what the pictures can reach, and take seconds.
"""

import argparse
from collections import defaultdict

import torch

from . import codes, concepts, runtime, text_encoder, tokens, words
from .questions import ask


@torch.no_grad()
def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    runtime.set_up(1)
    known = concepts.load(runtime.ART)
    lexicon, codebook = words.load(known), codes.load(runtime.ART, known)
    tokenizer = tokens.load(lexicon)
    net = text_encoder.load(tokenizer)
    right: defaultdict[str, list[float]] = defaultdict(list)
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    asked = ask(lexicon, 1.0)
    for i in range(0, len(asked), 32):
        rows = asked[i : i + 32]
        hidden = net(text_encoder.tokenize(tokenizer, [row.prompt for row in rows])).last_hidden_state
        layout, ground, first, second = (s.argmax(1).tolist() for s in text_encoder.score(hidden, codebook))
        for n, row in enumerate(rows):
            good = first[n] == row.objects[0] and (len(row.objects) == 1 or second[n] == row.objects[1])
            good = good and ground[n] == row.ground
            right[row.kind].append(float(good))
            if not good:
                understood = lexicon.names[first[n]][0] if first[n] < len(known) else "nothing"
                wrong[row.kind].append(f"{row.prompt} -> {understood}, layout {layout[n]}, ground {ground[n]}")
    for kind, values in right.items():
        print(f"{kind}: {sum(values) / len(values):.3f} of {len(values)}")
        for line in wrong[kind][:6]:
            print("   ", line)


if __name__ == "__main__":
    main()
