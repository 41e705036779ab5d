"""What was sent and has no effect, told by name in the header ``x-ignored-fields``. Values never are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

from fastapi import Request

from server.api.reader import MAX_IGNORED

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def tell_ignored(request: Request, names: Iterable[str]) -> None:
    """Name these fields in the answer, each once, as many as fit."""
    plain = (name for name in names if _NAME.fullmatch(name))
    request.state.ignored_fields = tuple(islice(dict.fromkeys(plain), MAX_IGNORED))
