"""What was sent and has no effect, told by name in the header ``x-ignored-fields``. Values never are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

from fastapi import Request

from server.api.reader import MAX_IGNORED

_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)
_MAX_NAME: Final = 64  # characters


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """These names as a header takes them, each once, as many as fit: clients name LoRAs and extensions as they like,
    and a line break in a header would begin another."""
    plain = (_ODD.sub("_", name[:_MAX_NAME]) for name in names if name)
    return tuple(islice(dict.fromkeys(plain), MAX_IGNORED))


def tell_ignored(request: Request, names: Iterable[str]) -> None:
    """Name these fields in the answer."""
    request.state.ignored_fields = plain_names(names)
