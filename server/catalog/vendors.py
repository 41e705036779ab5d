"""Vendors' habits: what a request leaves out means to programs written for a vendor's own models, told from the ID.

Knows the beginnings of IDs. A key of models.yaml that is written wins over all of it.
"""

from __future__ import annotations

from typing import Final

# OpenAI's and Google's models that answer with base64 alone and keep the size of a picture that they edit.
_INLINE: Final = ("gpt-image", "chatgpt-image", "gemini", "imagen")


def answers_inline(*names: str) -> bool:
    """Do clients of a model of any of these names read base64, and an edit at the size of its source?"""
    return any(name.rpartition("/")[2].lower().startswith(_INLINE) for name in names)
