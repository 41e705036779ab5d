"""Text evaluation: how well the text encoder understands, before any picture is drawn. Top-1 by class of question.

Knows questions, codes and an exported folder. Its figures bound what the pictures can reach, and take seconds.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import torch

from . import codes, colours, concepts, export, grounds, runtime, words
from .questions import Question, ask
from .samples.archive import Archive
from .samples.maker import SampleMaker
from .scenes import LAYOUTS
from .text_encoder import score

CPU = torch.device("cpu")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(prog="training.text_evaluation", description=__doc__)
    parser.add_argument("--weights", type=Path, default=export.WEIGHTS)
    parser.add_argument("--art", type=Path, default=runtime.BUILD / "art.zip")
    options = parser.parse_args()
    runtime.set_up(1)
    lexicon, pipeline = words.load(concepts.load(runtime.ART)), export.load(options.weights)
    archive = Archive.open(options.art)
    table = _table(SampleMaker(archive, CPU, 1), len(archive.names), pipeline.vae.encoder)
    every, own = torch.arange(-1, len(archive.names)).roll(-1), torch.full((len(archive.names) + 1,), -1)
    objects = [table.whole(which, every, own).flatten(1) for which in range(2)]
    right: defaultdict[str, list[float]] = defaultdict(list)
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    asked = ask(lexicon, 1.0)
    for i in range(0, len(asked), 32):
        rows = asked[i : i + 32]
        ids = pipeline.tokenizer(
            [row.prompt for row in rows], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        hidden = pipeline.text_encoder(ids).last_hidden_state
        ground, layout, first, second, tint, _ = (s.argmax(1).tolist() for s in score(hidden, table, objects))
        for n, row in enumerate(rows):
            good = _answers(row, ground[n], first[n], second[n], tint[n])
            right[row.kind].append(float(good))
            if not good:
                understood = archive.names[first[n]] if first[n] < len(archive.names) else "nothing"
                shade = colours.NAMES[tint[n]] if tint[n] < len(colours.NAMES) else "its own colour"
                wrong[row.kind].append(f"{row.prompt} -> {understood}, {shade}, layout {layout[n]}, ground {ground[n]}")
    for kind, values in right.items():
        print(f"{kind}: {sum(values) / len(values):.3f} of {len(values)}")
        for line in wrong[kind][:6]:
            print("   ", line)


def _answers(asked: Question, ground: int, first: int, second: int, tint: int) -> bool:
    """Whether all that was asked for has been understood."""
    objects = first == asked.objects[0] and (len(asked.objects) == 1 or second == asked.objects[1])
    return objects and ground == asked.ground and (asked.colour < 0 or tint == asked.colour)


def _table(maker: SampleMaker, count: int, encoder: torch.nn.Module) -> codes.Codes:
    rgb = torch.tensor([colour.rgb for colour in colours.COLOURS]) / 255
    return codes.make(maker, count, encoder, rgb, len(grounds.NAMES), len(LAYOUTS))


if __name__ == "__main__":
    main()
