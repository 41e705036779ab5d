"""A reader's feed: in order, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import time

import pytest

from pipelines.spec import Picture
from server.jobs.feed import Feed


def picture(size: int, index: int = 0) -> Picture:
    return Picture(index, bytes(size), "image/png", 2, 2, 0)


def taken(feed: Feed) -> list[tuple[int, int]]:
    found = []
    while (preview := feed.next_preview()) is not None:
        found.append((preview.number, preview.picture.index))
    return found


def test_previews_come_in_order_and_once() -> None:
    feed = Feed()
    for number in range(2):
        for index in range(2):
            feed.preview(number, picture(10, index))
    assert taken(feed) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert taken(feed) == []


def test_the_oldest_go_when_there_are_too_many_bytes() -> None:
    feed = Feed(max_bytes=100)
    for number in range(10):
        feed.preview(number, picture(30))
    assert [number for number, _ in taken(feed)] == [7, 8, 9]
    feed.preview(10, picture(101))  # larger than all that may be kept
    assert taken(feed) == []
    feed.preview(11, picture(100))
    assert [number for number, _ in taken(feed)] == [11]


@pytest.mark.anyio
async def test_waiting_ends_with_news_or_in_time() -> None:
    feed = Feed()
    started = time.monotonic()
    await feed.wait(0.05)
    assert time.monotonic() - started >= 0.04
    feed.notice()
    await asyncio.wait_for(feed.wait(60), 1)
    asyncio.get_running_loop().call_later(0.01, feed.preview, 0, picture(1))
    await asyncio.wait_for(feed.wait(60), 1)
    started = time.monotonic()
    await feed.wait(0.05)  # news are told once
    assert time.monotonic() - started >= 0.04
