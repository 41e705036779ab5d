"""Where the models of a fleet are: of each, as it stands best on any device. Knows statuses; knows no members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import replace

from server.worker.status import Loads, ModelState, ModelStatus

_BEST_FIRST = (
    ModelState.READY,
    ModelState.LOADING,
    ModelState.OFFLOADED,
    ModelState.UNLOADED,
    ModelState.BROKEN,
)


class Overview(MutableMapping[str, ModelStatus]):
    """The best status of each model, by the key of its plan. What is written goes to every member."""

    def __init__(
        self,
        statuses: Callable[[str], Iterator[ModelStatus]],
        members: Callable[[], list[MutableMapping[str, ModelStatus]]],
    ) -> None:
        """``statuses`` tells a model's on each device that it may be on."""
        self._statuses = statuses
        self._members = members

    def __getitem__(self, key: str) -> ModelStatus:
        found = list(self._statuses(key))
        if not found:  # bound to devices that are not there now
            found = [models[key] for models in self._members() if key in models]
        if not found and not self._members():  # of a cluster that has yet to come up
            return ModelStatus()
        if not found:
            raise KeyError(key)
        return min(found, key=lambda status: _BEST_FIRST.index(status.state))

    def __setitem__(self, key: str, status: ModelStatus) -> None:
        for models in self._members():
            models[key] = replace(status, loads=Loads())  # each device's own

    def __delitem__(self, key: str) -> None:
        for models in self._members():
            models.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for models in self._members() for key in models))

    def __len__(self) -> int:
        return len(dict.fromkeys(self))
