import pytest

from training.scenes import LAYOUTS, SHAPES, SIDES, arrangement

MARGIN = 1  # cells between an object and the edge
COUNTS = {"single": 1, "beside": 2, "above": 2, "with": 2, "two": 2, "three": 3, "four": 4, "empty": 0}


@pytest.mark.parametrize("cells", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_objects_are_clear_of_the_edge(layout: str, cells: tuple[int, int]) -> None:
    """Objects of pairs were cut off at the edge."""
    boxes = arrangement(layout, cells)
    assert len(boxes) == COUNTS[layout]
    for _, left, top, side in boxes:
        assert MARGIN <= left <= cells[1] - MARGIN - side
        assert MARGIN <= top <= cells[0] - MARGIN - side
        assert side in SIDES


@pytest.mark.parametrize("cells", SHAPES, ids=str)
def test_first_and_second_lie_where_the_layout_says(cells: tuple[int, int]) -> None:
    for layout, axis in (("beside", 1), ("above", 2)):
        first, second = sorted(arrangement(layout, cells))
        assert (first[0], second[0]) == (0, 1)
        assert first[axis] + first[3] / 2 < second[axis] + second[3] / 2


@pytest.mark.parametrize("cells", SHAPES, ids=str)
def test_no_object_hides_much_of_another(cells: tuple[int, int]) -> None:
    for layout in set(LAYOUTS) - {"with"}:
        boxes = arrangement(layout, cells)
        for n, (_, x, y, side) in enumerate(boxes):
            for _, u, v, other in boxes[n + 1 :]:
                wide, high = min(x + side, u + other) - max(x, u), min(y + side, v + other) - max(y, v)
                assert max(0, wide) * max(0, high) <= 0.25 * side**2


@pytest.mark.parametrize("cells", SHAPES, ids=str)
def test_what_is_shown_is_in_the_middle(cells: tuple[int, int]) -> None:
    for layout in set(LAYOUTS) - {"empty"}:
        boxes = arrangement(layout, cells)
        for at, length in ((1, cells[1]), (2, cells[0])):
            begins, ends = min(box[at] for box in boxes), max(box[at] + box[3] for box in boxes)
            assert 0 <= (length - ends) - begins <= 1


def test_pairs_are_larger_than_half_a_side() -> None:
    for layout in ("beside", "above"):
        assert min(box[3] for box in arrangement(layout)) == 8
