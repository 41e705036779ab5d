"""The evaluation of a model: figures by class of prompt, and contact sheets. Seeds are fixed.

Knows the exported folder, the questions and the matcher; knows nothing of training. Writes `evaluation.json` and PNG
sheets into the folder given.
"""

import argparse
import functools
import json
import os
import time
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image

from . import concepts, export, measures, runtime, shades, sheet, words
from .matching import Matcher
from .questions import CLASSES, Question, ask
from .sampling import GUIDANCE, STEPS, generate


class Judge:
    """Judge of pictures: says whether one answers its question."""

    def __init__(self) -> None:
        self.known = concepts.load(runtime.ART)

    @functools.cached_property
    def large(self) -> Matcher:
        """For objects alone."""
        return Matcher(runtime.ART, self.known, (0.54, 0.62, 0.69, 0.77, 0.85, 0.93))

    @functools.cached_property
    def small(self) -> Matcher:
        """For one of several."""
        return Matcher(runtime.ART, self.known, (0.38, 0.43, 0.48, 0.55, 0.62, 0.68))

    @functools.cached_property
    def over(self) -> Matcher:
        """For one that lies over another."""
        return Matcher(runtime.ART, self.known, (0.40, 0.43, 0.46, 0.50))

    @functools.cached_property
    def grounds(self) -> measures.GroundReferences:
        """For what lies behind."""
        return measures.GroundReferences()

    def __call__(self, question: Question, picture: Image.Image) -> dict[str, float]:
        """Figures between 0 and 1, by name; the first is the one that the bar is about."""
        kind = question.kind
        if kind == "counts":
            return measures.counted(self.small, picture, question)
        if kind.startswith("pairs"):
            return measures.both(self.small, self.over, picture, question)
        if kind == "colours":
            return shades.answered(picture, question)
        if kind == "grounds":
            return {"top-1": float(self.grounds.nearest(picture) == question.ground)}
        ranks = self.large.errors(picture, slack=0.28).argsort().tolist()
        return {
            "top-1": float(ranks[0] == question.objects[0]),
            "top-5": float(question.objects[0] in ranks[:5]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=export.WEIGHTS)
    parser.add_argument("--out", type=Path, default=runtime.BUILD / "evaluation")
    parser.add_argument("--share", type=float, default=1.0, help="ask this share of every class only")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--only", nargs="*", default=CLASSES, help="classes to ask")
    parser.add_argument("--sheet-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    pipeline = export.load(options.weights)
    watched = sheet.PROMPTS
    shown = generate(pipeline, [p for p in watched for _ in range(2)], 1, guidance=options.guidance)
    sheet.lay(shown, [p for p in watched for _ in range(2)], 12).save(options.out / "sheet.png")
    if options.sheet_only:
        return
    began = time.monotonic()
    judge, lexicon = Judge(), words.load(concepts.load(runtime.ART))
    figures: dict[str, dict[str, float]] = {}
    for kind in options.only:
        asked = [question for question in ask(lexicon, options.share) if question.kind == kind]
        made = generate(pipeline, [question.prompt for question in asked], 10_000, guidance=options.guidance)
        totals: defaultdict[str, list[float]] = defaultdict(list)
        verdicts = [judge(question, picture) for question, picture in zip(asked, made, strict=True)]
        for verdict in verdicts:
            for key, value in verdict.items():
                totals[key].append(value)
        figures[kind] = {
            "asked": len(asked),
            **{key: round(sum(values) / len(values), 3) for key, values in totals.items()},
        }
        print(kind, figures[kind], flush=True)
        order = sorted(range(len(asked)), key=lambda n: next(iter(verdicts[n].values())))[:48]
        sheet.lay([made[n] for n in order], [asked[n].prompt for n in order], 12).save(
            options.out / f"worst-{kind.replace(' ', '-')}.png"
        )
    for name, measure in measures.SHOWN.items() if options.only == CLASSES else ():
        figures[name] = measure(pipeline, options.out)
        print(name, figures[name], flush=True)
    figures["evaluation"] = {
        "seconds": round(time.monotonic() - began),
        "steps": STEPS,
        "guidance": options.guidance,
    }
    (options.out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
