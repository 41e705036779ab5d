from __future__ import annotations

import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.edge import connections as module
from server.edge.connections import SPARE, Connections, address_of, descriptors, max_connections
from server.errors import ConfigError
from tests.unit.edge.live import settings_for


@dataclass(eq=False)
class Line:
    address: str = "192.0.2.1"
    gone: bool = False

    def give_way(self) -> None:
        self.gone = True


@dataclass
class Counted:
    what: list[str] = field(default_factory=list)


def test_the_oldest_without_a_head_gives_way() -> None:
    counted = Counted()
    room = Connections(3, count=counted.what.append)
    lines = [Line() for _ in range(5)]
    assert all(room.enter(line) for line in lines[:3])
    room.asked(lines[0])  # a whole head: it stays
    assert room.enter(lines[3])
    assert [line.gone for line in lines] == [False, True, False, False, False]
    assert room.enter(lines[4])
    assert lines[2].gone
    assert len(room) == 3
    assert counted.what == ["gave_way", "gave_way"]
    room.leave(lines[1])  # the socket's own end comes later, and counts once
    assert len(room) == 3


def test_those_that_never_asked_go_before_those_kept_alive() -> None:
    room = Connections(2)
    kept, silent, new, newer = Line(), Line(), Line(), Line()
    room.enter(kept)
    room.asked(kept)
    room.answered(kept)
    room.enter(silent)
    room.enter(new)
    assert (kept.gone, silent.gone) == (False, True)
    room.asked(new)
    room.enter(newer)
    assert (kept.gone, new.gone) == (True, False)


def test_beyond_the_limit_some_are_spare() -> None:
    room = Connections(2)
    busy = [Line() for _ in range(2 + SPARE)]
    for line in busy:
        assert room.enter(line)
        assert room.is_spare(line) == (line in busy[2:])
        room.asked(line)
    assert not room.enter(Line())
    assert not any(line.gone for line in busy)
    for line in busy[:SPARE]:
        room.leave(line)
    assert not room.is_spare(busy[-1])  # there is room again


def entered(room: Connections, count: int, address: str = "192.0.2.1", *, asked: bool = False) -> list[Line]:
    lines = [Line(address) for _ in range(count)]
    for line in lines:
        assert room.enter(line)
        if asked:
            room.asked(line)
    return lines


def test_who_has_most_gives_way_first() -> None:
    """An honest client's connection was closed before its head had come, as the oldest among an attacker's hundreds."""
    room = Connections(10)
    honest = entered(room, 2, "192.0.2.2")
    many = entered(room, 8)
    more = entered(room, 20) + entered(room, 1, "192.0.2.3")
    assert not any(line.gone for line in honest)
    assert all(line.gone for line in many)
    assert sum(line.gone for line in more) == 20 + 1 - 8


def test_one_that_has_just_come_stays_while_others_have_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone was silent, since an attacker's had all sent heads, and gave way to a second client of its address."""
    room = Connections(10)
    kept = entered(room, 8, "198.51.100.1", asked=True)
    for line in kept:
        room.answered(line)
    busy, new, newer, third = (Line(address) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"))
    for line in (busy, new, newer, third):
        assert room.enter(line)
        if line is busy:
            room.asked(line)
    assert [line.gone for line in kept] == [True] * 2 + [False] * 6
    assert [new.gone, newer.gone] == [False, False]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + module.FRESH_S)
    assert room.enter(Line("192.0.2.2"))
    assert new.gone, "its head should have come by now"


def test_nobody_loses_a_connection_to_an_address_that_has_more() -> None:
    """Whose own are all in use would else take what others have between two requests."""
    room = Connections(10)
    (kept,) = entered(room, 1, "192.0.2.2", asked=True)
    room.at_work(kept)
    room.answered(kept)
    (new,) = entered(room, 1, "192.0.2.3")
    many = entered(room, 8, asked=True)
    (spare,) = entered(room, 1)
    assert room.is_spare(spare)
    entered(room, 1)
    assert (kept.gone, new.gone, spare.gone) == (False, False, True)  # of its own kind, that can go
    assert not any(line.gone for line in many)


def test_where_all_have_heads_who_keeps_us_waiting_gives_way_to_an_address_that_has_fewer() -> None:
    """Half a body each, and nobody else came in."""
    room = Connections(10)
    many = entered(room, 10, asked=True)
    room.at_work(many[0])  # whole: it is being drawn
    (honest,) = entered(room, 1, "192.0.2.2", asked=True)
    assert [line.gone for line in many[:3]] == [False, True, False]
    room.slow(many[0])  # its answer is not taken
    for line in many[2:]:
        room.at_work(line)
    entered(room, 1, "192.0.2.2")
    assert (many[0].gone, honest.gone) == (True, False)


def test_what_waits_is_counted_as_it_comes_and_goes() -> None:
    waiting, rng = module._Waiting(), random.Random(1)
    lines = [Line(f"192.0.2.{number % 7}") for number in range(60)]
    inside: list[Line] = []
    for _ in range(3000):
        line = rng.choice(lines)
        if rng.random() < 0.5:
            waiting.add(line)
            inside += [line] if line not in inside else []
        else:
            waiting.discard(line)
            inside = [other for other in inside if other is not line]
        counts = Counter(other.address for other in inside)
        oldest = list(waiting.oldest())
        assert [counts[found.address] for found in oldest] == sorted(counts.values(), reverse=True)
        firsts = {other.address: other for other in reversed(inside)}
        assert all(found is firsts[found.address] for found in oldest)


def test_each_address_has_its_own_limit() -> None:
    counted = Counted()
    room = Connections(100, per_address=2, count=counted.what.append)
    mine, other = [Line() for _ in range(4)], Line("192.0.2.2")
    assert room.enter(other)
    assert room.enter(mine[0])
    assert room.enter(mine[1])
    assert room.enter(mine[2])
    assert (mine[0].gone, other.gone) == (True, False)
    room.asked(mine[1])
    room.asked(mine[2])
    assert not room.enter(mine[3])
    assert room.enter(Line("192.0.2.3"))
    assert counted.what == ["gave_way", "refused_address"]
    room.leave(mine[1])
    assert room.enter(mine[3])


def test_one_record_tells_of_many(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.WARNING, "darkroom.edge")
    room = Connections(1)
    for _ in range(50):
        room.enter(Line())
    (record,) = caplog.records
    assert (record.max_connections, record.closed) == (1, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    room.enter(Line())
    assert caplog.records[-1].closed == 49  # type: ignore[attr-defined]
    assert "192.0.2" not in caplog.text


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3::4", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 3), "fe80::/64"),
        (("::1", 5, 0, 0), "::/64"),
        ("/run/socket", ""),
        (None, ""),
    ],
)
def test_whose_connection_it_is(peer: object, address: str) -> None:
    """A host of IPv6 has 2^64 addresses: counted one by one, none would ever reach a limit."""
    assert address_of(peer) == address


def test_the_limit_stays_below_the_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "descriptors", lambda: 1024)
    assert max_connections(settings_for(tmp_path)) == 768
    assert max_connections(settings_for(tmp_path, max_connections=700)) == 700
    with pytest.raises(ConfigError, match=r"DARKROOM_MAX_CONNECTIONS.* = 769.*768"):
        max_connections(settings_for(tmp_path, max_connections=769))
    monkeypatch.setattr(module, "descriptors", lambda: 256)
    assert max_connections(settings_for(tmp_path)) == 128
    monkeypatch.undo()
    assert descriptors() > 0
