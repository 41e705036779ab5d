"""One tree, drawn once, and one table: the drawing, the classes and the table say the same."""

from __future__ import annotations

import re

import pipelines.errors
from server import errors
from server.errors import ANSWERS, DarkroomError
from server.worker import failures


def drawn(docstring: str, root: str) -> dict[str, str]:
    """Class → parent, as the drawing shows them."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in docstring.splitlines():
        match = re.match(r"^([\s│├└─]*)([A-Z]\w+)", line)
        if match is None or (match[2] != root and "─" not in match[1]):
            continue
        depth, name = len(match[1]), match[2]
        above = [(column, parent) for column, parent in above if column < depth]
        if above:
            parents[name] = above[-1][1]
        above.append((depth, name))
    return parents


def declared(root: type[Exception]) -> dict[str, str]:
    found = {child.__name__: root.__name__ for child in root.__subclasses__() if child.__module__ == root.__module__}
    for child in root.__subclasses__():
        found |= declared(child)
    return found


def test_the_drawing_is_the_tree() -> None:
    assert drawn(errors.__doc__ or "", "DarkroomError") == declared(DarkroomError)
    assert drawn(pipelines.errors.__doc__ or "", "DrawError") == declared(pipelines.errors.DrawError)


def test_every_error_has_its_row_and_the_drawing_its_status() -> None:
    names = {kind.__name__: answer for kind, answer in ANSWERS.items()}
    assert set(names) == set(declared(DarkroomError))
    statuses = dict(re.findall(r"─ ([A-Z]\w+) +(\d{3}) ", errors.__doc__ or ""))
    assert {name: str(answer.status) for name, answer in names.items()} == statuses


def test_a_child_has_its_parents_status_and_codes_are_unique() -> None:
    for kind, answer in ANSWERS.items():
        for base in kind.__mro__[1:]:
            if base in ANSWERS:
                assert ANSWERS[base].status == answer.status
    assert len({answer.code for answer in ANSWERS.values()}) == len(ANSWERS)


def test_every_failure_of_the_worker_is_mapped() -> None:
    kinds = ["DrawError", *declared(pipelines.errors.DrawError)]
    answers = {kind: type(failures.failed(kind, "canary /path 0x7f00", "job_1", "mini")) for kind in kinds}
    assert answers == {
        "DrawError": errors.ServerFault,
        "AdapterRefused": errors.ModelUnavailable,
        "LoadRefused": errors.ModelUnavailable,
        "OutOfMemory": errors.OutOfDeviceMemory,
        "BadPicture": errors.GenerationFailed,
        "Unsupported": errors.GenerationFailed,
        "Cancelled": errors.ServerFault,  # whose client has left: nobody reads it
    }
    for kind in kinds:
        message = failures.failed(kind, "canary", "job_1", "mini").message
        assert "canary" not in message
        assert "The model" not in message, "it has a name"
