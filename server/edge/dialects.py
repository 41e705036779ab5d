"""Dialects: by what a path is asked for, how its clients send keys and read errors.

Knows paths in the spelling that ``paths`` gives them; knows neither keys nor errors. Programs made for AUTOMATIC1111
send HTTP's Basic authentication, as its ``--api-auth`` asks for, and show the ``detail`` of an error.
"""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

SDAPI_FOLDERS: Final = ("/sdapi/", "/internal/", "/controlnet/")


def speaks_sdapi(scope: Scope) -> bool:
    """Does whoever sent this request take the server for AUTOMATIC1111's?"""
    path: str = scope["path"]
    return path.startswith(SDAPI_FOLDERS)
