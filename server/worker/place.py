"""A drawing's place in the fleet: the member that has it, held until it is done.

Knows drawings, books and who chooses among them; knows neither the rule nor processes. A drawing leaves one member
before it goes to another: two that waited for each other's places would wait for ever.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

from pipelines.plan import Drawing
from pipelines.spec import Encoding
from server.errors import Unavailable, WorkerLost
from server.worker import protocol
from server.worker.books import Books
from server.worker.member import Flight, Member, Previewed, Progress


class Chooser(Protocol):
    """Who gives places."""

    async def choose(self, drawing: Drawing, flight: Flight) -> Books:
        """The member that is to draw this now."""
        ...

    def has_other(self, books: Books, drawing: Drawing) -> bool:
        """Would ``choose`` have another one now?"""
        ...

    def held(self, books: Books, flight: Flight) -> contextlib.AbstractContextManager[None]:
        """The member has this drawing until the block ends."""
        ...


class Place:
    """A drawing's place. Use it as an asynchronous context manager: it is held from the beginning to the end."""

    def __init__(self, chooser: Chooser, drawing: Drawing, *, alone: bool, deadline_s: float) -> None:
        """Beside others, or ``alone`` on its device. ``deadline_s``: nobody waits for it any longer (monotonic)."""
        self._chooser = chooser
        self._drawing = drawing
        self._alone = alone
        self._deadline_s = deadline_s
        self._hold = contextlib.AsyncExitStack()
        self._flight = Flight.of(drawing)
        self._books: Books

    @property
    def member(self) -> Member:
        """Who has it."""
        return self._books.member

    async def __aenter__(self) -> Place:
        """Raises ModelUnavailable and Unavailable; waits for a member to come up where none is."""
        await self._take()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._hold.aclose()

    async def _take(self) -> None:
        while True:
            books = await self._chooser.choose(self._drawing, self._flight)
            async with contextlib.AsyncExitStack() as hold:
                hold.enter_context(self._chooser.held(books, self._flight))
                company = books.company
                await hold.enter_async_context(company.alone() if self._alone else company.together())
                if books.available or not self._chooser.has_other(books, self._drawing):
                    self._books, self._hold = books, hold.pop_all()
                    return

    async def draw(
        self, encoding: Encoding, progress: Progress, previewed: Previewed = lambda number, picture: None
    ) -> protocol.Finished:
        """The pictures of the drawing. Raises WorkerLost where the member dies under it.

        One that dies before it has come to it, does not come up, or cannot load its model, is no matter of the drawing:
        another member draws it, if one can.
        """

        def stepped(done: int, of: int) -> None:
            self._flight.steps_left = max(0, of - done)
            progress(done, of)

        while True:
            try:
                return await self.member.draw(self._drawing, encoding, stepped, previewed, self._deadline_s)
            except Unavailable as lost:
                # Not begun nor started: it waited for a model that may have ended the worker, and would end the next.
                waited = isinstance(lost, WorkerLost) and not lost.begun
                if lost.started or waited or not self._chooser.has_other(self._books, self._drawing):
                    raise
            await self._hold.aclose()
            await self._take()
