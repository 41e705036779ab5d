"""The route of accounts, GET …/usage: what was used by key, model and day, and what is left of today.

Knows the parameters and the rows; a principal sees its own use, an admin that of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from server.api import openapi
from server.api.prefixes import add_under_both
from server.api.services import Services
from server.edge.keys import Principal
from server.errors import AdminRequired, BadRequest, Unauthorized
from server.jobs.accounts import Today
from server.jobs.usage import Place, Row, Spending

_MAX_DAYS = 366
_DAYS = 30
_MAX_ROWS = 20_000

DaysQuery = Annotated[int, Query(ge=1, le=_MAX_DAYS, description="how many days, `until` included")]
UntilQuery = Annotated[date | None, Query(description="the last of them, YYYY-MM-DD in UTC; default: today")]
KeyQuery = Annotated[
    str | None, Query(max_length=64, description="only the key of this name; another than yours needs an admin key")
]


class UsageSums(BaseModel):
    pictures: int = Field(description="that were delivered")
    megapixel_steps: float = Field(description="drawn width × height × steps computed × pictures / 1,000,000")
    device_s: float = Field(description="seconds of forwards, each divided among its jobs by rows, and of upscalers")


class UsageRow(UsageSums):
    object: str = Field(description="usage")
    day: str = Field(description="YYYY-MM-DD, in UTC: that on which the job was admitted")
    key: str = Field(description="the key's name")
    model: str = Field(description="the ID in models.yaml")


class Quota(BaseModel):
    limit: float | None = Field(description="a day; null: there is none")
    used: float = Field(description="today")
    set_aside: float = Field(description="for jobs that go on")
    left: float | None = Field(description="null: there is no limit")


class Quotas(BaseModel):
    day: str = Field(description="YYYY-MM-DD, in UTC")
    ends: int = Field(description="when the day ends, unix seconds")
    pictures: Quota
    megapixel_steps: Quota


class Asker(BaseModel):
    name: str = Field(description="of the key; `local` on a server without keys")
    admin: bool = Field(description="may it see others' use and jobs, and load and unload models?")


class UsageAnswer(BaseModel):
    object: str = Field(description="list")
    principal: Asker = Field(description="whose key asks")
    since: str = Field(description="the first day")
    until: str = Field(description="the last day")
    data: list[UsageRow]
    total: UsageSums
    quotas: Quotas = Field(description="of the key that asks")
    complete: bool = Field(description="false: the database cannot be read, and this is what is in memory alone")


def router(services: Services) -> APIRouter:
    routes = APIRouter(
        tags=["operations"],
        dependencies=[openapi.KEY],
        responses=openapi.errors(BadRequest, Unauthorized, AdminRequired),
    )

    async def usage(
        request: Request, days: DaysQuery = _DAYS, until: UntilQuery = None, key: KeyQuery = None
    ) -> dict[str, Any]:
        """What your key has used; with an admin key, what all have."""
        principal: Principal = request.state.principal
        if key not in (None, principal.name) and not principal.admin:
            raise AdminRequired("Only an admin key may ask what another key has used.")
        today = services.accounts.today(principal.payer)
        last = until or date.fromisoformat(today.day)
        first = last - timedelta(days=min(days - 1, (last - date.min).days))
        mine = not principal.admin or key == principal.name
        rows, is_all = await services.accounts.between(
            first.isoformat(), last.isoformat(), principal.id if mine else None, _MAX_ROWS + 1
        )
        if len(rows) > _MAX_ROWS:
            raise BadRequest(f"That is more than {_MAX_ROWS} rows; ask for fewer days.", param="days")
        data = _summed({place: row for place, row in rows.items() if mine or key in (None, row.name)})
        total = Spending()
        for spent in data.values():
            total.add(spent)
        return {
            "object": "list",
            "principal": {"name": principal.name, "admin": principal.admin},
            "since": first.isoformat(),
            "until": last.isoformat(),
            "data": [
                {"object": "usage", "day": day, "key": name, "model": model, **_told(spent)}
                for (day, name, model), spent in data.items()
            ],
            "total": _told(total),
            "quotas": _quotas(principal, today),
            "complete": is_all,
        }

    add_under_both(
        routes,
        "/usage",
        usage,
        methods=["GET"],
        summary="What was used?",
        response_description="The use of each day, key and model.",
        response_model=None,
        responses={200: {"model": UsageAnswer}},
    )
    return routes


def _summed(rows: Mapping[Place, Row]) -> dict[tuple[str, str, str], Spending]:
    """By day, name and model: keys that had one name, one after another, are one."""
    sums: dict[tuple[str, str, str], Spending] = {}
    for place, row in rows.items():
        sums.setdefault((place.day, row.name, place.model), Spending()).add(row.spent)
    return sums


def _told(spent: Spending) -> dict[str, Any]:
    return {
        "pictures": spent.pictures,
        "megapixel_steps": round(spent.megapixel_steps, 3),
        "device_s": round(spent.device_s, 3),
    }


def _quotas(principal: Principal, today: Today) -> dict[str, Any]:
    limits, used = principal.limits, today.used
    return {
        "day": today.day,
        "ends": today.ends,
        "pictures": _quota(limits.pictures_per_day, used.pictures, today.pictures),
        "megapixel_steps": _quota(limits.megapixel_steps_per_day, used.megapixel_steps, today.megapixel_steps),
    }


def _quota(limit: float | None, used: float, taken: float) -> dict[str, Any]:
    return {
        "limit": limit,
        "used": round(used, 3),
        "set_aside": round(taken - used, 3),
        "left": None if limit is None else round(max(0.0, limit - taken), 3),
    }
