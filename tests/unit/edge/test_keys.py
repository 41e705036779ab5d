from __future__ import annotations

import hmac
import json
import os
import re
import stat
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from server.edge.keys import CHECK_INTERVAL_S, Keyring, Principal
from server.errors import ConfigError
from server.jobs.limits import Limits


class Clock:
    """Each reading is one check later, unless it is stopped."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self) -> None:
        self.now += CHECK_INTERVAL_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.json"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(path: Path) -> None:
    ring = Keyring(path)
    key = ring.create("alice")
    assert re.fullmatch(r"dk_[A-Za-z0-9_-]{43}", key)
    assert ring.principal_of(key) == Principal("alice", ANY)
    text = path.read_text()
    assert key not in text
    assert key[3:] not in text
    assert json.loads(text)["keys"][0].keys() == {"name", "sha256", "created"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []


def test_it_survives_a_restart(path: Path) -> None:
    key = Keyring(path).create("alice")
    again = Keyring(path)
    assert again.principal_of(key) == Principal("alice", ANY)
    assert [(entry.name, entry.created[:2]) for entry in again.list()] == [("alice", "20")]


def test_keys_that_share_a_prefix_are_different_keys(path: Path) -> None:
    ring = Keyring(path)
    key = ring.create("alice")
    other = ring.create("bob")
    for wrong in (
        key[:-1],
        key + "A",
        key[:-1] + ("A" if key[-1] != "A" else "B"),
        "",
        "dk_",
        key.upper(),
        "\ud800",
    ):
        assert ring.principal_of(wrong) is None
    assert ring.principal_of(other) == Principal("bob", ANY)


def test_every_hash_is_compared_whichever_matches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring(path)
    first = ring.create("a")
    ring.create("b")
    ring.create("c")
    seen: list[str] = []
    real = hmac.compare_digest

    def counted(one: str, two: str) -> bool:
        seen.append(one)
        return real(one, two)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    assert ring.principal_of(first) == Principal("a", ANY)
    assert len(seen) == 3


def test_changes_made_elsewhere_count_within_a_second(path: Path) -> None:
    clock = Clock()
    running = Keyring(path, clock=clock)
    assert running.empty
    key = Keyring(path).create("alice")
    assert running.principal_of(key) is None  # looked less than a second ago
    clock.pass_()
    assert running.principal_of(key) == Principal("alice", ANY)
    assert Keyring(path).revoke("alice")
    clock.pass_()
    assert running.principal_of(key) is None


def test_the_file_is_looked_at_once_a_second_and_read_only_if_it_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    key = Keyring(path).create("alice")
    ring = Keyring(path, clock=clock)
    looks: list[Path] = []
    real = Path.stat

    def look(self: Path, **options: bool) -> os.stat_result:
        looks.append(self)
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", look)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read again"))
    for _ in range(50):
        assert ring.principal_of(key)
    assert looks == []
    clock.pass_()
    for _ in range(50):
        assert ring.principal_of(key)
    assert looks == [path]


def test_names(path: Path) -> None:
    ring = Keyring(path)
    ring.create("a.b-c_d@e")
    for bad in ("", "a b", "x" * 65, "local", "a\n", "é", "../x"):
        with pytest.raises(ConfigError, match="name"):
            ring.create(bad)
    with pytest.raises(ConfigError, match="already"):
        ring.create("a.b-c_d@e")
    assert not ring.revoke("nobody")
    assert ring.revoke("a.b-c_d@e")
    assert ring.empty


def test_a_name_that_is_given_again_is_another_principal(path: Path) -> None:
    """The new key of that name found the old one's jobs, and was answered with its pictures."""
    ring = Keyring(path)
    first = ring.principal_of(ring.create("alice"))
    assert ring.revoke("alice")
    again = ring.create("alice")
    second = ring.principal_of(again)
    assert first is not None
    assert second is not None
    assert (first.name, second.name) == ("alice", "alice")
    assert first.id != second.id
    assert Keyring(path).principal_of(again) == second  # also after a restart
    assert second.id not in again


BROKEN = [
    "",
    "{",
    "[]",
    "null",
    '{"keys": 3}',
    '{"keys": [{"name": "a"}]}',
    '{"keys": [{"name": "a", "sha256": "beef", "created": "x"}]}',
    '{"keys": [{"name": 3, "sha256": "beef", "created": "x"}]}',
    json.dumps({"keys": [{"name": "a", "sha256": digit * 64, "created": ""} for digit in "01"]}),
    "[" * 100_000,
    "\udcff",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_corrupt_file_stops_the_server_and_names_itself(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        Keyring(path)


def test_a_file_corrupted_while_running_changes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    key = Keyring(path).create("alice")
    ring = Keyring(path, clock=clock)
    path.write_text("{")
    for _ in range(3):
        clock.pass_()
        assert ring.principal_of(key) == Principal("alice", ANY)
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    with pytest.raises(ConfigError):
        ring.create("bob")  # and nothing is written over what somebody may want to repair
    assert path.read_text() == "{"


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring(path)
    key = ring.create("alice")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ring.create("bob")
    monkeypatch.undo()
    assert [entry.name for entry in Keyring(path).list()] == ["alice"]
    assert [entry.name for entry in ring.list()] == ["alice"]
    assert Keyring(path).principal_of(key)
    assert sorted(item.name for item in path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_two_commands_at_once_lose_no_key(path: Path) -> None:
    def make(number: int) -> None:
        Keyring(path).create(f"key{number}")

    threads = [threading.Thread(target=make, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Keyring(path).list()) == 12


def test_in_memory() -> None:
    ring = Keyring.in_memory({"alice": "secret"})
    assert ring.principal_of("secret") == Principal("alice", ANY)
    key = ring.create("bob")
    assert ring.principal_of(key) == Principal("bob", ANY)
    assert ring.revoke("alice")
    assert Keyring.in_memory().empty


def test_limits_and_the_end_of_a_key_are_kept_and_read_again(path: Path) -> None:
    limits = Limits(pictures_per_day=3, megapixel_steps_per_day=0.5, jobs=0, models=("sdxl", "dall-e-3"))
    ring = Keyring(path)
    key = ring.create("alice", but=lambda entry: replace(entry, limits=limits, expires="2027-01-31T00:00:00+00:00"))
    plain = ring.create("bob")
    assert json.loads(path.read_text())["keys"][0] == {
        **{"name": "alice", "sha256": ANY, "created": ANY, "expires": "2027-01-31T00:00:00+00:00"},
        **{"pictures_per_day": 3, "megapixel_steps_per_day": 0.5, "jobs": 0, "models": ["sdxl", "dall-e-3"]},
    }
    assert json.loads(path.read_text())["keys"][1].keys() == {"name", "sha256", "created"}
    again = Keyring(path, now=lambda: 1_700_000_000.0)
    principal = again.principal_of(key)
    assert principal is not None
    assert principal.limits == principal.payer.limits == limits
    assert (principal.payer.name, principal.payer.id) == ("alice", principal.id)
    other = again.principal_of(plain)
    assert other is not None
    assert other.limits == Limits()


def test_an_expired_key_is_nobodys_and_is_known_for_what_it_is(path: Path) -> None:
    now = [1_000.0]
    ring = Keyring(path, now=lambda: now[0])
    key = ring.create("alice", but=lambda entry: replace(entry, expires="1970-01-01T01:00:00+00:00"))
    assert ring.principal_of(key) is not None
    assert ring.expiry_of(key) == ""
    now[0] = 3_600.0
    assert ring.principal_of(key) is None
    assert ring.expiry_of(key) == "1970-01-01T01:00:00+00:00"
    assert ring.expiry_of("dk_another") == ""
    assert not ring.empty, "the server stays closed"
    now[0] = 3_599.0  # the clock was wrong
    assert ring.principal_of(key) is not None


def test_a_key_is_changed_while_the_server_runs(path: Path) -> None:
    clock = Clock()
    key = Keyring(path).create("alice")
    running = Keyring(path, clock=clock)
    assert Keyring(path).change("alice", lambda entry: replace(entry, limits=Limits(jobs=2)))
    assert not Keyring(path).change("bob", lambda entry: entry)
    clock.pass_()
    principal = running.principal_of(key)
    assert principal is not None
    assert principal.limits.jobs == 2


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"pictures_per_day": -1}, "pictures_per_day must be a whole number from 0 to 1000000000"),
        ({"pictures_per_day": 1.5}, "pictures_per_day must be a whole number"),
        ({"pictures_per_day": True}, "pictures_per_day must be a whole number"),
        ({"pictures_per_day": "3"}, "pictures_per_day must be a whole number"),
        ({"pictures_per_day": 10**10}, "pictures_per_day must be a whole number"),
        ({"megapixel_steps_per_day": -0.1}, "megapixel_steps_per_day must be a number from 0"),
        ({"megapixel_steps_per_day": float("nan")}, "megapixel_steps_per_day must be a number from 0"),
        ({"jobs": 100_001}, "jobs must be a whole number from 0 to 100000"),
        ({"models": "sdxl"}, "models must be a list"),
        ({"models": ["a b"]}, "models must be at most 256 names"),
        ({"models": [7]}, "models must be at most 256 names"),
        ({"models": ["m"] * 257}, "models must be at most 256 names"),
        ({"expires": "soon"}, "isoformat"),
        ({"expires": "2027-01-31"}, "expires must name its time zone"),
        ({"expires": 7}, "not a key file"),
        ({"picturs_per_day": 3}, "not a key file"),
    ],
)
def test_limits_that_mean_nothing_stop_the_server_and_leave_a_running_one(
    path: Path, wrong: dict[str, object], why: str
) -> None:
    clock = Clock()
    running = Keyring(path, clock=clock)
    key = running.create("alice")
    content = json.loads(path.read_text())
    content["keys"][0].update(wrong)
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=re.escape(why)):
        Keyring(path)
    clock.pass_()
    assert running.principal_of(key) is not None
