"""The two prefixes of every route that OpenAI's clients know, and the one that the OpenAPI document shows.

OpenAI's SDKs are given a base URL that ends in /v1; AIGNE's clients ask under /api, where the hub's own routes are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter

SHOWN: Final = "/v1"
CONTRACT: Final = "/api"  # where what a request leaves out is the contract's to say, not the vendor's of its model
PREFIXES: Final = (SHOWN, CONTRACT)


def prefix_of(path: str) -> str:
    """The prefix under which a path is asked for; one without any counts as OpenAI's."""
    return CONTRACT if path.startswith(f"{CONTRACT}/") else SHOWN


def add_under_both(routes: APIRouter, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
    """Add one route under both prefixes."""
    for prefix in PREFIXES:
        routes.add_api_route(prefix + path, endpoint, include_in_schema=prefix == SHOWN, **options)
