"""The ``embeddings`` of models.yaml: words that prompts may say, and the files that say what they stand for.

Knows words and paths; knows neither HTTP nor torch. What a file holds is told by pipelines.facts.textual_inversion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipelines.facts import textual_inversion
from pipelines.plan import EmbeddingFile

MAX_EMBEDDINGS = 200
_TOKEN = re.compile(r"[^\s()\[\]\\]{1,100}")


def _check_token(token: str) -> str:
    if not _TOKEN.fullmatch(token) or not token.isprintable():
        raise ValueError("a token is one word of at most 100 characters, without blanks, brackets and backslashes")
    return token


def _check_together(written: dict[str, str]) -> dict[str, str]:
    problem = textual_inversion.clash(written)
    if problem is not None:
        raise ValueError(problem)
    return written


Token = Annotated[str, AfterValidator(_check_token)]
Embeddings = Annotated[
    dict[Token, Annotated[str, Field(min_length=1)]],
    Field(max_length=MAX_EMBEDDINGS),
    AfterValidator(_check_together),
]


def files(entries: Mapping[str, str], base: Path) -> tuple[EmbeddingFile, ...]:
    """The files of these tokens, by token, with paths relative to ``base`` made whole."""
    return tuple(EmbeddingFile(token, str((base / path).absolute())) for token, path in sorted(entries.items()))
