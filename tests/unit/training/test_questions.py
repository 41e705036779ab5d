"""Questions about colours, and the pairs that no training has."""

import torch

from training import colours, grounds, heldout, questions


def test_every_object_is_asked_for_in_every_colour() -> None:
    names = [f"thing {n}" for n in range(5)] + list(questions.TINTED)
    asked = questions._coloured(names, 1.0)
    assert len({question.prompt for question in asked}) == 240
    assert asked[0].prompt == "a red cat"
    assert names[asked[0].objects[0]] == "cat"
    assert {"an orange cat", "a blue umbrella"} <= {question.prompt for question in asked}
    assert len(questions._coloured(names, 0.25)) == 60
    assert set(questions.TINTS) == set(grounds.COLOURS)


def test_some_pairs_are_held_out_one_of_every_colour() -> None:
    assert sorted(colour for _, colour in heldout.COLOURED) == sorted(questions.TINTS)
    assert {name for name, _ in heldout.COLOURED} <= set(questions.TINTED)
    asked = questions._coloured(list(questions.TINTED), 1.0)
    assert sum(question.held_out for question in asked) == len(heldout.COLOURED)
    pairs = heldout.coloured(["fish", "cat", "pear"])
    wanted = [(1, colours.NAMES.index("blue")), (0, colours.NAMES.index("brown"))]
    assert torch.equal(pairs, torch.tensor(wanted))
    assert heldout.coloured([]).shape == (0, 2)
