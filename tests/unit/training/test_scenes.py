import pytest
import torch

from training.scenes import LAYOUTS, MARGIN, SHAPES, SIDES, arrangements, box_rows, choices

COUNTS = {"single": 1, "beside": 2, "above": 2, "with": 2, "two": 2, "three": 3, "four": 4, "empty": 0}


@pytest.mark.parametrize("cells", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_objects_are_clear_of_the_edge(layout: str, cells: tuple[int, int]) -> None:
    """Objects of pairs were cut off at the edge."""
    for arrangement in arrangements(layout, cells):
        assert len(arrangement.boxes) == COUNTS[layout]
        for _, left, top, side in arrangement.boxes:
            assert MARGIN <= left <= cells[1] - MARGIN - side
            assert MARGIN <= top <= cells[0] - MARGIN - side
            assert side in SIDES


@pytest.mark.parametrize("cells", SHAPES, ids=str)
def test_first_and_second_lie_where_the_layout_says(cells: tuple[int, int]) -> None:
    for layout, axis in (("beside", 1), ("above", 2)):
        for arrangement in arrangements(layout, cells):
            first, second = sorted(arrangement.boxes)
            assert (first[0], second[0]) == (0, 1)
            assert first[axis] + first[3] / 2 < second[axis] + second[3] / 2


@pytest.mark.parametrize("cells", SHAPES, ids=str)
def test_no_object_hides_much_of_another(cells: tuple[int, int]) -> None:
    for layout in set(LAYOUTS) - {"with"}:
        for arrangement in arrangements(layout, cells):
            for n, (_, x, y, side) in enumerate(arrangement.boxes):
                for _, u, v, other in arrangement.boxes[n + 1 :]:
                    wide, high = min(x + side, u + other) - max(x, u), min(y + side, v + other) - max(y, v)
                    assert max(0, wide) * max(0, high) <= 0.25 * side**2


@pytest.mark.parametrize("cells", SHAPES, ids=str)
def test_choices_are_read_from_the_boxes(cells: tuple[int, int]) -> None:
    for place, layout in enumerate(LAYOUTS):
        every = arrangements(layout, cells)
        boxes = torch.stack([box_rows(arrangement.boxes) for arrangement in every])
        found = choices(torch.full((len(every),), place), boxes, cells)
        assert found.tolist() == [list(arrangement.choices) for arrangement in every]
        told = [arrangement.choices for arrangement in dict.fromkeys(every)]
        assert len(set(told)) == len(told), "two arrangements of the same choices"


def test_choices_go_both_ways() -> None:
    """Noise is tied to what was chosen, so both answers have to be equally likely."""
    for layout in ("single", "beside", "above", "with"):
        for at in range(3):
            told = [arrangement.choices[at] for arrangement in arrangements(layout, (16, 16))]
            if at < 2 or layout != "single":
                assert told.count(0) == told.count(1), (layout, at)


def test_pairs_are_larger_than_half_a_side() -> None:
    for layout in ("beside", "above"):
        assert min(box[3] for arrangement in arrangements(layout) for box in arrangement.boxes) == 8
