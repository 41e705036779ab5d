"""Concepts: the objects that the model can draw, and what people call them.

Knows the art package, the three packages of names and the lists in `data/`; knows neither pictures nor training. A
concept's index in `load()` is its label everywhere else.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE / "data"
GROUPS_KEPT = {3, 4, 5, 6, 7}  # animals, food, travel, activities, objects
CJK = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Concept:
    """One object: its picture's file name and its names. The first name of each language is the proper one."""

    key: str
    group: int
    names: tuple[str, ...]  # English
    keywords: tuple[str, ...]  # English single words and phrases that hint at it
    traditional: tuple[str, ...]
    simplified: tuple[str, ...]


def load(art: Path) -> list[Concept]:
    """All concepts, in the order of the emoji standard."""
    modules = art / "node_modules"
    pictures = modules / "@lobehub/fluent-emoji-3d/assets"
    left_out, added, renamed = _lines("left_out.txt"), _lines("added.txt"), _pairs("renamed.tsv")
    emojilib: dict[str, list[str]] = json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text())
    cldr = {lang: _cldr(modules, lang) for lang in ("en", "zh", "zh-Hant")}
    labels = {lang: _labels(modules, lang) for lang in ("zh", "zh-hant")}
    concepts: list[Concept] = []
    seen: set[str] = set()
    for entry in json.loads((modules / "emojibase-data/en/data.json").read_text()):
        label = entry["label"]
        clock = re.search(r"o’clock|-thirty", label)
        kept = entry.get("group") in GROUPS_KEPT and label not in left_out and not clock
        if not kept and label not in added:
            continue
        picture = _picture(pictures, entry["hexcode"])
        name = renamed.get(label, label).lower().replace("’", "'")
        if picture is None or name in seen:
            continue
        seen.add(name)
        char = entry["emoji"].replace("\ufe0f", "")
        hints = [w.replace("_", " ") for w in emojilib.get(entry["emoji"], [])] + cldr["en"].get(char, [])
        concepts.append(
            Concept(
                key=picture.stem,
                group=int(entry["group"]),
                names=tuple(_unique([name, label.lower().replace("’", "'")])),
                keywords=tuple(_unique(_words(hints + entry.get("tags", [])))),
                traditional=_chinese(labels["zh-hant"].get(entry["hexcode"]), cldr["zh-Hant"].get(char, [])),
                simplified=_chinese(labels["zh"].get(entry["hexcode"]), cldr["zh"].get(char, [])),
            )
        )
    return concepts


def _lines(name: str) -> set[str]:
    text = (DATA / name).read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in text if line.strip() and not line.startswith("#")}


def _pairs(name: str) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line)


def _cldr(modules: Path, language: str) -> dict[str, list[str]]:
    """Names first, then keywords, by character."""
    path = modules / f"cldr-annotations-full/annotations/{language}/annotations.json"
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"]
    return {char: [*entry.get("tts", []), *entry.get("default", [])] for char, entry in raw.items()}


def _labels(modules: Path, language: str) -> dict[str, str]:
    entries = json.loads((modules / f"emojibase-data/{language}/data.json").read_text(encoding="utf-8"))
    return {entry["hexcode"]: entry["label"] for entry in entries}


def _picture(pictures: Path, hexcode: str) -> Path | None:
    code = hexcode.lower()
    for stem in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        if (path := pictures / f"{stem}.webp").exists():
            return path
    return None


def _words(hints: list[str]) -> Iterator[str]:
    for hint in hints:
        text = hint.lower().strip()
        if re.fullmatch(r"[a-z][a-z' -]{2,24}", text):
            yield text


def _chinese(label: str | None, names: list[str]) -> tuple[str, ...]:
    candidates = ([label] if label else []) + names
    return tuple(_unique(name for name in candidates if name and CJK.match(name) and len(name) <= 8))


def _unique(items: Any) -> list[str]:
    return list(dict.fromkeys(items))
