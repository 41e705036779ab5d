from __future__ import annotations

import logging
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
