"""Choices: which model each key has set by ``POST /sdapi/v1/options``.

Knows principals' ids and names of models; knows no catalog, so that a model that was chosen may be gone. AUTOMATIC1111
has one user and so one choice; here each key has its own, in memory only: a program sets its model when it starts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_CHOICES: Final = 10_000  # keys; whoever has set nothing for longest is forgotten first


class ModelChoices:
    """The choices of one server. All methods run on the event loop's thread."""

    def __init__(self, most: int = MAX_CHOICES) -> None:
        self._most = most
        self._chosen: OrderedDict[str, str] = OrderedDict()

    def choose(self, principal_id: str, model_id: str) -> None:
        """Draw with the model of this ID where the principal's requests name none."""
        self._chosen[principal_id] = model_id
        self._chosen.move_to_end(principal_id)
        if len(self._chosen) > self._most:
            self._chosen.popitem(last=False)

    def of(self, principal_id: str) -> str | None:
        """The ID that the principal chose last; None: it has chosen none. It may be in the catalog no longer."""
        return self._chosen.get(principal_id)
