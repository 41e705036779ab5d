"""The keyring: which API keys exist, and whose they are.

Knows one JSON file; knows nothing of HTTP. A key is shown once, when it is made; the file has only its
SHA-256. A fast hash is right here: a key is 256 random bits, which nobody can guess at any speed, unlike a
password. The file is read again when it changes, so that a key made or revoked while the server runs
counts within a second, without a restart.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from server.errors import ConfigError
from server.jobs.limits import NO_LIMITS, Limits, Payer
from server.storage import atomic

if sys.platform != "win32":
    import fcntl

KEY_PREFIX = "dk_"
ADMIN: Final = "admin"
CHECK_INTERVAL_S = 1.0
_ID_DIGITS = 32  # 128 bits of a key's hash: no two keys have the same, and nobody gets back to the key
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)  # names go into logs and metric labels
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

log = logging.getLogger("darkroom.edge")

Stamp = tuple[int, int, int]  # mtime_ns, size, inode


@dataclass(frozen=True)
class Principal:
    """Whose request it is. Jobs and repeats are found by ``id``: a name may be given again, to somebody else."""

    name: str  # for people: answers, logs
    id: str  # of the key itself
    admin: bool = field(default=False, compare=False)  # may load and unload models, and the like
    limits: Limits = field(default=NO_LIMITS, compare=False)

    @property
    def payer(self) -> Payer:
        """Whose use is counted."""
        return Payer(self.id, self.name, self.limits)


LOCAL = Principal("local", "local")  # whoever reaches a server that has no keys
LOCAL_OWNER = Principal("local", "local", admin=True)  # a program on this machine, where no other reaches it


@dataclass(frozen=True)
class KeyEntry:
    """What is kept of one key."""

    name: str
    sha256: str
    created: str  # ISO 8601, UTC
    role: Literal["user", "admin"] = "user"  # files of before have none: ordinary keys
    expires: str = ""  # ISO 8601, UTC; empty: never
    limits: Limits = NO_LIMITS

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.sha256[:_ID_DIGITS], self.role == ADMIN, self.limits)

    def has_expired(self, now: float) -> bool:
        """Is it of no use any more, at this moment (unix seconds)?"""
        return bool(self.expires) and datetime.fromisoformat(self.expires).timestamp() <= now


class Keyring:
    """The keys of one server. With ``path=None`` they live in memory only, for tests."""

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now  # unix seconds, for expiry
        self._entries: tuple[KeyEntry, ...] = ()
        self._stamp: Stamp | None = None
        self._checked = clock()
        if path is not None:
            self._stamp, self._entries = _stamp_of(path), _read(path)  # raises ConfigError: fail at the door

    @classmethod
    def in_memory(cls, keys: Mapping[str, str] | None = None) -> Keyring:
        """A keyring of the given plaintext keys by name."""
        ring = cls(None)
        ring._entries = tuple(_entry(name, key) for name, key in (keys or {}).items())
        return ring

    @property
    def empty(self) -> bool:
        """Are there no keys at all?"""
        self._refresh()
        return not self._entries

    @property
    def had_keys(self) -> bool:
        """Is there a key, or was there one? Revoking the last key leaves the file, with no key in it."""
        self._refresh()
        return bool(self._entries) or self._stamp is not None

    def principal_of(self, key: str) -> Principal | None:
        """Whose key this is; nobody's, if it has expired."""
        entry = self._entry_of(key)
        return None if entry is None or entry.has_expired(self._now()) else entry.principal

    def expiry_of(self, key: str) -> str:
        """When a key that we know has expired; empty: it has not, or we do not know it."""
        entry = self._entry_of(key)
        return entry.expires if entry is not None and entry.has_expired(self._now()) else ""

    def _entry_of(self, key: str) -> KeyEntry | None:
        """Compares with every hash in constant time, whichever matches."""
        self._refresh()
        digest = _digest(key)
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found

    def create(
        self, name: str, *, admin: bool = False, but: Callable[[KeyEntry], KeyEntry] = lambda entry: entry
    ) -> str:
        """Make a key, as ``but`` changes it, and return it: the only time that it is seen. ConfigError for a bad or
        taken name."""
        if not _NAME.fullmatch(name) or name == LOCAL.name:
            raise ConfigError(f"a key's name is 1 to 64 of A-Z a-z 0-9 _ . @ -, and not {LOCAL.name!r}")
        key = KEY_PREFIX + secrets.token_urlsafe(32)  # 32 bytes are 43 characters
        with self._changing():
            if any(entry.name == name for entry in self._entries):
                raise ConfigError(f"there is a key named {name!r} already; revoke it first")
            self._entries = (*self._entries, but(_entry(name, key, admin=admin)))
        return key

    def change(self, name: str, change: Callable[[KeyEntry], KeyEntry]) -> bool:
        """Change what is kept of the key of this name; False if there is none."""
        with self._changing():
            found = any(entry.name == name for entry in self._entries)
            self._entries = tuple(change(entry) if entry.name == name else entry for entry in self._entries)
        return found

    def revoke(self, name: str) -> bool:
        """Forget the key of this name; False if there is none."""
        with self._changing():
            kept = tuple(entry for entry in self._entries if entry.name != name)
            found = len(kept) < len(self._entries)
            self._entries = kept
        return found

    def list(self) -> tuple[KeyEntry, ...]:
        """Every key, oldest first."""
        self._refresh()
        return self._entries

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Read, let the caller change, write: under a lock, as two commands may do it at once."""
        if self._path is None:
            yield
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._path.with_name(self._path.name + ".lock")):
            self._entries = before = _read(self._path)
            try:
                yield
                if self._entries != before:
                    _write(self._path, self._entries)
            except BaseException:
                self._entries = before  # what is not on the disk is not a key
                raise
            self._stamp = _stamp_of(self._path)

    def _refresh(self) -> None:
        if self._path is None or self._clock() - self._checked < CHECK_INTERVAL_S:
            return
        self._checked = self._clock()
        stamp = _stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also if it cannot be read: said once, not once a second
        try:
            self._entries = _read(self._path)
        except ConfigError as error:
            log.error("keys unchanged, their file cannot be read: %s", error)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _entry(name: str, key: str, *, admin: bool = False) -> KeyEntry:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return KeyEntry(name, _digest(key), created, ADMIN if admin else "user")


def _stamp_of(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[KeyEntry, ...]:
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path}: the keys cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a key file: not valid JSON") from error
    try:
        entries = tuple(_parsed(item) for item in content["keys"])
        sound = all(_NAME.fullmatch(entry.name) and _DIGEST.fullmatch(entry.sha256) for entry in entries)
        sound = sound and all(entry.role in ("user", ADMIN) for entry in entries)
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not a key file: keys must be a list of name, sha256, created") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a key file: {error}") from error
    if not sound or len({entry.name for entry in entries}) < len(entries):
        raise ConfigError(f"{path}: not a key file: a name, a hash or a role is malformed, or a name is there twice")
    return entries


def _write(path: Path, entries: tuple[KeyEntry, ...]) -> None:
    """Whole or not at all: a reader sees the old file or the new one."""
    text = json.dumps({"keys": [_written(entry) for entry in entries]}, indent=2) + "\n"
    atomic.write(path, text.encode())


def _written(entry: KeyEntry) -> dict[str, Any]:
    """Without what an ordinary key does not have, so that an earlier version reads it too."""
    fields: dict[str, Any] = {"name": entry.name, "sha256": entry.sha256, "created": entry.created}
    if entry.role == ADMIN:
        fields["role"] = entry.role
    if entry.expires:
        fields["expires"] = entry.expires
    return fields | entry.limits.written()


def _parsed(item: Mapping[str, Any]) -> KeyEntry:
    """Raises ValueError, TypeError and KeyError."""
    rest = dict(item)
    fields = {name: rest.pop(name) for name in ("name", "sha256", "created", "role", "expires") if name in rest}
    entry = KeyEntry(**fields, limits=Limits.read(rest))
    if entry.expires and datetime.fromisoformat(entry.expires).tzinfo is None:
        raise ValueError("expires must name its time zone, as 2027-01-31T00:00:00+00:00")
    return entry


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
