"""What one key may use: pictures and megapixel-steps a day, jobs at once, models.

Knows numbers and names; knows neither keys nor what was used. Zero is a limit like any other, and means nothing at
all; None means that there is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_PER_DAY = 1_000_000_000
MAX_JOBS = 100_000
MAX_MODELS = 256
_MODEL = re.compile(r"[^\s,\x00-\x1f\x7f]{1,256}")


def _require_number(name: str, value: object, most: int, *, whole: bool) -> None:
    if value is None:
        return
    kinds = int if whole else (int, float)
    sound = isinstance(value, kinds) and not isinstance(value, bool)
    if not sound or not math.isfinite(value) or not 0 <= value <= most:  # type: ignore[arg-type, operator]
        raise ValueError(f"{name} must be {'a whole number' if whole else 'a number'} from 0 to {most}")


@dataclass(frozen=True)
class Limits:
    """The limits of one key. A day is one of UTC."""

    pictures_per_day: int | None = None
    megapixel_steps_per_day: float | None = None  # drawn width × height × steps × pictures / 1,000,000
    jobs: int | None = None  # at once, waiting ones included; in place of the server's key_jobs
    models: tuple[str, ...] | None = None  # by any of their names, in the order that they were given

    def __post_init__(self) -> None:
        """Raises ValueError naming the limit and what it may be."""
        _require_number("pictures_per_day", self.pictures_per_day, MAX_PER_DAY, whole=True)
        _require_number("megapixel_steps_per_day", self.megapixel_steps_per_day, MAX_PER_DAY, whole=False)
        _require_number("jobs", self.jobs, MAX_JOBS, whole=True)
        models = self.models
        if models is None:
            return
        if len(models) > MAX_MODELS or not all(isinstance(name, str) and _MODEL.fullmatch(name) for name in models):
            raise ValueError(f"models must be at most {MAX_MODELS} names of models, without spaces and commas")

    @staticmethod
    def read(fields: Mapping[str, Any]) -> Limits:
        """The limits that a file has. Raises ValueError and TypeError."""
        models = fields.get("models")
        if models is not None and not isinstance(models, list):
            raise ValueError("models must be a list")
        return Limits(**{**fields, "models": None if models is None else tuple(models)})

    def written(self) -> dict[str, Any]:
        """Those that there are, for a file."""
        fields = {
            "pictures_per_day": self.pictures_per_day,
            "megapixel_steps_per_day": self.megapixel_steps_per_day,
            "jobs": self.jobs,
            "models": None if self.models is None else list(self.models),
        }
        return {name: value for name, value in fields.items() if value is not None}


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Payer:
    """Whose use is counted: a key, by its id; its name is for people."""

    id: str
    name: str
    limits: Limits = NO_LIMITS
