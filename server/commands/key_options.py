"""The flags of a key's limits, and what is shown of them.

Knows numbers, times and words as people type them; knows neither the key file nor the server.
"""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from server.edge.keys import KeyEntry

_NONE: Final = "none"  # lifts a limit
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SPAN = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_MAX_SPAN = timedelta(days=36_500)

Lifted = Literal["none"]


def add_limits(parser: argparse.ArgumentParser, *, lifting: bool) -> None:
    """Add the flags. With ``lifting``, each takes ``none``."""

    def add(flag: str, metavar: str, read: Callable[[str], Any], text: str) -> None:
        parser.add_argument(flag, metavar=metavar, type=_or_none(read) if lifting else read, help=text)

    add("--pictures-per-day", "N", _limit("pictures_per_day", int), "most pictures in a UTC day; 0: none at all")
    add(
        "--megapixel-steps-per-day",
        "N",
        _limit("megapixel_steps_per_day", float),
        "most of width × height × steps × pictures / 1,000,000 in a UTC day",
    )
    add("--jobs", "N", _limit("jobs", int), "most jobs at once, in place of the server's key_jobs")
    add("--models", "A,B", _models, "the only models that it may use, by any of their names")
    add("--expires", "WHEN", expiry, "until when it is of use: 12h, 30d, 8w or a date as 2027-01-31")


def changed(entry: KeyEntry, arguments: Namespace) -> KeyEntry:
    """The key with what the flags say; what they do not name stays."""
    given = {
        name: None if value == _NONE else value
        for name in ("pictures_per_day", "megapixel_steps_per_day", "jobs", "models")
        if (value := getattr(arguments, name)) is not None
    }
    entry = replace(entry, limits=replace(entry.limits, **given))
    if arguments.expires is None:
        return entry
    expires = "" if arguments.expires == _NONE else arguments.expires.isoformat(timespec="seconds")
    return replace(entry, expires=expires)


def shown(entry: KeyEntry, now: float) -> list[str]:
    """What a key may use, in words; nothing for one that may use all. ``now``: unix seconds."""
    limits, words = entry.limits, list[str]()
    if limits.pictures_per_day is not None:
        words.append(f"{limits.pictures_per_day} pictures a day")
    if limits.megapixel_steps_per_day is not None:
        words.append(f"{limits.megapixel_steps_per_day:.15g} megapixel-steps a day")
    if limits.jobs is not None:
        words.append(f"{limits.jobs} {'job' if limits.jobs == 1 else 'jobs'} at once")
    if limits.models is not None:
        words.append(f"models {','.join(limits.models) or 'none'}")
    if entry.expires:
        words.append(f"{'expired' if entry.has_expired(now) else 'expires'} {entry.expires}")
    return words


def expiry(text: str) -> datetime:
    """When a key ends: so long from now, or at the beginning of a UTC day."""
    now, span = datetime.now(UTC), _SPAN.fullmatch(text.strip())
    if span is not None:
        lasts = int(span[1]) * _UNITS[span[2]]
        if not timedelta(0) < lasts <= _MAX_SPAN:
            raise ArgumentTypeError(f"{text!r}: must be from 1h to {_MAX_SPAN.days}d")
        return now + lasts
    try:
        ends = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: must be a time as 12h, 30d or 8w, or a date as 2027-01-31") from None
    if not now < ends <= now + _MAX_SPAN:
        raise ArgumentTypeError(f"{text!r}: must be a day to come, within {_MAX_SPAN.days} days")
    return ends


def _limit(name: str, number: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        from server.jobs.limits import Limits

        try:
            value = number(text)
        except ValueError:
            kind = "a whole number" if number is int else "a number"
            raise ArgumentTypeError(f"{text!r}: must be {kind}") from None
        try:
            Limits.read({name: value})
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r}: {error}") from None
        return value

    return read


def _models(text: str) -> tuple[str, ...]:
    from server.jobs.limits import Limits

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    try:
        Limits(models=names)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from None
    return names


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: _NONE if text.strip() == _NONE else read(text)
