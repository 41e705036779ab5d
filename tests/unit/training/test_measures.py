"""Where the evaluation looks for objects: in the first weights' places, and in those that training has today."""

from training import measures, scenes


def test_all_arrangements_of_a_layout_are_looked_at_and_the_first_weights_own() -> None:
    for layout, count in (("beside", 2), ("above", 2), ("with", 2), ("two", 2), ("three", 3), ("four", 4)):
        ways = measures.spots(layout)
        assert ways[0] == measures.SPOTS[layout]
        assert len(ways) > 1
        assert all(len(way) == count for way in ways)
        assert all(0.1 < value < 0.9 for way in ways for spot in way for value in spot)
    assert all(first[0] < second[0] for first, second in measures.spots("beside"))
    assert all(first[1] < second[1] for first, second in measures.spots("above"))
    arranged = scenes.arrangement("beside")
    assert len(arranged) == 2
