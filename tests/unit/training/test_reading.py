"""Blind readings and figures of a server: choices, marks and sharpness."""

from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training import reading, served

NAMES = [f"thing {n}" for n in range(60)] + ["cat", "dog"]


def test_a_reading_asks_as_many_pictures_of_every_kind_and_offers_the_right_names() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "COUNTS", {**reading.COUNTS, "names": 40})
        items = reading.items(NAMES, 3)
        assert items == reading.items(NAMES, 3)
    kinds = [item.kind for item in items]
    assert {kind: kinds.count(kind) for kind in kinds} == {**reading.COUNTS, "names": 40}
    assert all(set(item.right) <= set(item.choices) for item in items)
    assert all(len(item.choices) == reading.CHOICES for item in items if item.kind in ("names", "pairs", "art"))


def test_marks_are_kept_apart_for_what_is_read_among_the_pictures() -> None:
    found = [
        reading.Item("names", "a cat", ("cat",), ("cat", "dog")),
        reading.Item("names", "a dog", ("dog",), ("cat", "dog")),
        reading.Item("pairs", "a cat and a dog", ("cat", "dog"), ("cat", "dog")),
        reading.Item("art", "a cat", ("cat",), ("cat", "dog")),
    ]
    key = {str(n): asdict(item) for n, item in enumerate(found, 1)}
    answers = {
        "1": ["cat", "no", 4],
        "2": [reading.UNTOLD, "no", 2],
        "3": ["dog", "cat", "yes", 3],
        "4": ["cat", "no", 5],
    }
    figures = reading.score(key, answers)
    assert figures["names"] == 0.5
    assert figures["pairs"] == 1.0
    assert figures["pairs, none cut off"] == 0.0
    assert figures["crisp and pleasing, now"] == 3.0
    assert figures["crisp and pleasing, art"] == 5.0


def test_sharpness_is_contrast_over_width_of_the_edges_alone() -> None:
    """Twice as many edges are not sharper, wider ones are less so."""
    one = np.zeros((64, 64), np.uint8)
    one[:, 32:] = 200
    two = one.copy()
    two[:, 48:] = 0
    sharp = served.sharpness(Image.fromarray(one))
    assert sharp == pytest.approx(200 / 255)
    assert served.sharpness(Image.fromarray(two)) == pytest.approx(sharp)
    soft = served.sharpness(Image.fromarray(one).filter(ImageFilter.GaussianBlur(3)))
    assert soft < 0.3 * sharp
