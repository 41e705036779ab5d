"""Which model a key has chosen."""

from __future__ import annotations

from server.api.sdapi.choices import ModelChoices


def test_each_key_has_its_own_choice() -> None:
    choices = ModelChoices()
    choices.choose("ada", "one")
    choices.choose("bob", "two")
    choices.choose("ada", "three")
    assert [choices.of(name) for name in ("ada", "bob", "eve")] == ["three", "two", None]


def test_choices_are_bounded() -> None:
    """Whoever makes keys by the thousand fills no memory: the oldest choice is forgotten."""
    choices = ModelChoices(most=2)
    for name in ("ada", "bob", "ada", "eve"):
        choices.choose(name, name)
    assert [choices.of(name) for name in ("ada", "bob", "eve")] == ["ada", None, "eve"]
