"""A blind reading: pictures that the server draws, for fresh eyes that are told nothing else.

Knows the server's HTTP, the names and the art; knows nothing of networks. `draw` writes numbered sheets and
`questions.json`, which readers get, and `key.json`, which they do not. `score` prints what their answers come to. Some
numbers are the clean art, and some the pictures of another server, such as one with the weights before: a reader's
taste is worth what it says of those.
"""

import argparse
import json
import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFont

from . import concepts, grounds, runtime, scenes, served
from .captions import SCENE_WORDS
from .questions import TINTED, TINTS, with_article
from .served import SIZE

CHOICES = 20  # names to choose from
UNTOLD = "cannot tell"
COUNTS = {"names": 100, "pairs": 30, "scenes": 20, "colours": 24, "art": 20, "before": 20}
ACROSS, DOWN, GAP, HEAD = 2, 2, 8, 28  # of a sheet


@dataclass(frozen=True)
class Item:
    """One picture: what was asked for, what a reader may answer, and what is right."""

    kind: str
    prompt: str
    right: tuple[str, ...]
    choices: tuple[str, ...]


def items(names: list[str], seed: int) -> list[Item]:
    """All pictures of a reading, in the order in which they are numbered."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret

    def among(*right: str) -> tuple[str, ...]:
        others = rng.sample([name for name in names if name not in right], CHOICES - len(right))
        return tuple(sorted((*right, *others)))

    found = []
    for name in rng.sample(names, COUNTS["names"]):
        found.append(Item("names", with_article(name), (name,), among(name)))
    for _ in range(COUNTS["pairs"]):
        one, other = rng.sample(names, 2)
        found.append(Item("pairs", f"{with_article(one)} and {with_article(other)}", (one, other), among(one, other)))
    for _ in range(COUNTS["scenes"]):
        name, scene = rng.choice(names), rng.choice(grounds.SCENES)
        prompt = f"{with_article(name)} {SCENE_WORDS[scene].split('|')[0]}"
        found.append(Item("scenes", prompt, (name, scene), (*among(name), *sorted(grounds.SCENES))))
    for _ in range(COUNTS["colours"]):
        name, tint = rng.choice(TINTED), rng.choice(TINTS)
        found.append(Item("colours", with_article(f"{tint} {name}"), (tint,), TINTS))
    for kind in ("art", "before"):
        for name in rng.sample(names, COUNTS[kind]):
            found.append(Item(kind, with_article(name), (name,), among(name)))
    rng.shuffle(found)
    return found


def draw(url: str, before: str | None, folder: Path, seed: int) -> None:
    """Write the sheets, the questions and the key."""
    known = concepts.load(runtime.ART)
    sprites = {concept.names[0]: concept for concept in known}
    asked = [item for item in items(list(sprites), seed) if before or item.kind != "before"]
    shown: list[Image.Image] = []
    with httpx.Client(base_url=url, timeout=120) as now, httpx.Client(base_url=before or url, timeout=120) as then:
        for item in asked:
            if item.kind == "art":
                shown.append(served.art(scenes.load_sprite(runtime.ART, sprites[item.right[0]]), seed + len(shown)))
            else:
                shown.append(served.drawn(then if item.kind == "before" else now, item.prompt))
            print(f"\r{len(shown)} of {len(asked)}", end="", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(shown), ACROSS * DOWN):
        _sheet(shown[first : first + ACROSS * DOWN], first + 1).save(
            folder / f"sheet-{first // (ACROSS * DOWN) + 1:02}.jpg", quality=90
        )
    questions = {n: {"answers": _answers(item), "choices": item.choices} for n, item in enumerate(asked, 1)}
    (folder / "questions.json").write_text(json.dumps(questions, indent=1) + "\n")
    (folder / "key.json").write_text(json.dumps({n: asdict(i) for n, i in enumerate(asked, 1)}, indent=1) + "\n")
    print(f"\n{folder}")


def _answers(item: Item) -> list[str]:
    """What a reader is asked to give."""
    told = {
        "pairs": ["object", "other object"],
        "scenes": ["object", "scene"],
        "colours": ["colour of the object"],
    }.get(item.kind, ["object"])
    return [*told, "cut off at the edge: yes or no", "crisp and pleasing: 1 to 5"]


def _sheet(pictures: list[Image.Image], first: int) -> Image.Image:
    made = Image.new("RGB", (ACROSS * (SIZE + GAP), DOWN * (SIZE + HEAD)), "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(20)
    for n, each in enumerate(pictures):
        x, y = n % ACROSS * (SIZE + GAP), n // ACROSS * (SIZE + HEAD)
        pen.text((x, y + 2), str(first + n), fill="black", font=font)
        made.paste(each, (x, y + HEAD))
    return made


def score(key: dict[str, Any], answers: dict[str, list[Any]]) -> dict[str, float]:
    """Shares of right answers by kind, and mean marks; ``answers`` are in the order that the questions ask for."""
    rows: defaultdict[str, list[float]] = defaultdict(list)
    for number, item in key.items():
        given = answers.get(number)
        if given is None:
            continue
        *told, cut, mark = given
        right = sorted(map(str, told)) == sorted(item["right"])
        source = {"art": "art", "before": "before"}.get(item["kind"], "now")
        if item["kind"] == "pairs":
            rows["pairs, none cut off"].append(float(right and str(cut).lower() != "yes"))
        if item["kind"] == "scenes":
            rows["scenes, the object"].append(float(item["right"][0] in told))
        rows[item["kind"]].append(float(right))
        rows[f"crisp and pleasing, {source}"].append(float(mark))
    return {name: round(sum(values) / len(values), 3) for name, values in sorted(rows.items())}


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.reading", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw", help="draw the pictures and write the sheets")
    drawing.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    drawing.add_argument("--before", help="URL of a server to compare with")
    drawing.add_argument("--seed", type=int, default=2027, help="of the choice of prompts")
    scoring = verbs.add_parser("score", help="print the figures of some readers' answers")
    scoring.add_argument("answers", type=Path, nargs="+", help="JSON files: number to answers, as the questions ask")
    for each in (drawing, scoring):
        each.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "draw":
        draw(options.url, options.before, options.folder, options.seed)
        return
    key = json.loads((options.folder / "key.json").read_text())
    for path in options.answers:
        print(path.name, score(key, json.loads(path.read_text())))


if __name__ == "__main__":
    main()
