"""Deliveries: every webhook that is due is sent, again and again with pauses that grow, until it is taken or given up.

Knows rows, time and shares; knows nothing of HTTP beyond a status. What is due is on the disk, so that a restart goes
on where the last process stopped; an endpoint may so be told twice, by the same id. One that never answers has a few of
the places, and its principal some more: the others' are told beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from server.storage.async_jobs import AsyncJobRow, AsyncJobs, Telling
from server.storage.database import DatabaseFailed
from server.webhooks.secrets import WebhookSecrets
from server.webhooks.sender import WebhookSender

DELAYS_S: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14400)  # after an attempt that failed; then it is given up
MAX_AT_ONCE: Final = 64
MAX_PER_PRINCIPAL: Final = 16
MAX_PER_ENDPOINT: Final = 4
_JITTER = 0.1  # of a delay, either way: those that failed together do not come back together
_GONE = 410  # the endpoint wants no more
_BATCH = 1024  # rows that are looked at
_LONGEST_NAP_S = 60.0
_DISK_PAUSE_S = 5.0

log = logging.getLogger("darkroom.webhooks")


class Deliveries:
    """Sends what is due of one data folder."""

    def __init__(
        self,
        table: AsyncJobs,
        sender: WebhookSender,
        secrets: WebhookSecrets,
        *,
        is_known: Callable[[str], bool],
        body: Callable[[AsyncJobRow], bytes],
        message_id: Callable[[AsyncJobRow], str],
    ) -> None:
        """``body`` and ``message_id`` are the same for every attempt at one row. ``is_known``: has a principal a key,
        or needs it none?"""
        self._table = table
        self._sender = sender
        self._secrets = secrets
        self._is_known = is_known
        self._body = body
        self._message_id = message_id
        self._news = asyncio.Event()
        self._going: dict[str, tuple[str, str]] = {}  # principal and endpoint, by the row's key

    def wake(self) -> None:
        """One may be due."""
        self._news.set()

    async def run(self) -> None:
        """Until it is cancelled; what is then on its way is sent again by the next process."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                try:
                    nap_s = await self._begin_due(group)
                except DatabaseFailed as error:
                    log.error("webhooks not read", extra={"reason": error.reason})
                    nap_s = _DISK_PAUSE_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(nap_s):
                        await self._news.wait()

    async def _begin_due(self, group: asyncio.TaskGroup) -> float:
        """Begin what is due and has a place; how long until more may be due."""
        now = time.time()
        for row in await self._table.due(now, per_endpoint=MAX_PER_ENDPOINT, limit=_BATCH):
            if row.key not in self._going and self._has_place(row):
                self._going[row.key] = row.principal, row.endpoint
                group.create_task(self._deliver(row), name="webhook")
        due = await self._table.next_due()
        if due is None:
            return _LONGEST_NAP_S
        # What is due now waits for a place, and is woken by whoever leaves one.
        return min(_LONGEST_NAP_S, due - now) if due > now else _LONGEST_NAP_S

    def _has_place(self, row: AsyncJobRow) -> bool:
        principals = Counter(principal for principal, _ in self._going.values())
        endpoints = Counter(self._going.values())
        return (
            len(self._going) < MAX_AT_ONCE
            and principals[row.principal] < MAX_PER_PRINCIPAL
            and endpoints[row.principal, row.endpoint] < MAX_PER_ENDPOINT
        )

    async def _deliver(self, row: AsyncJobRow) -> None:
        """One attempt, and what it came to."""
        try:
            status = await self._attempt(row)
            telling, due = self._next(row, status)
            log.info(
                "webhook",
                extra={"job": row.key, "state": str(telling), "attempt": row.attempts + 1, "status": status},
            )
            await self._table.told(row.key, telling=telling, attempts=row.attempts + 1, due=due, answered=status)
        except DatabaseFailed as error:  # it is due as before, and told again
            log.error("webhook not written", extra={"job": row.key, "reason": error.reason})
            await asyncio.sleep(_DISK_PAUSE_S)
        finally:
            del self._going[row.key]
            self.wake()

    async def _attempt(self, row: AsyncJobRow) -> int | None:
        secret = await asyncio.to_thread(self._secrets.get, row.principal)
        if secret is None or row.webhook is None or not self._is_known(row.principal):
            return None
        return await self._sender.send(
            row.webhook,
            principal=row.principal,
            secret=secret,
            message_id=self._message_id(row),
            body=self._body(row),
        )

    def _next(self, row: AsyncJobRow, status: int | None) -> tuple[Telling, float | None]:
        if status is not None and 200 <= status < 300:
            return Telling.DELIVERED, None
        if status == _GONE or row.attempts >= len(DELAYS_S) or not self._is_known(row.principal):
            return Telling.FAILED, None
        pause_s = DELAYS_S[row.attempts] * random.SystemRandom().uniform(1 - _JITTER, 1 + _JITTER)
        return Telling.DUE, time.time() + pause_s
