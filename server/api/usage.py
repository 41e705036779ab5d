"""Usage: what a request took in and gave out, counted in tokens as OpenAI's clients read it.

Knows sizes and counts; counts no text itself: the worker does, with the model's own tokenizer. A picture is worth
one token for each 16 × 16 pixels, begun ones included.
"""

from __future__ import annotations

from typing import Any

from pipelines.plan import Drawing

_PATCH = 16  # pixels


def usage(drawing: Drawing, text_tokens: int, pictures: int) -> dict[str, Any]:
    """The usage of a drawing, as if it had made this many ``pictures``."""
    sources = sum(_tokens(source.width, source.height) for source in drawing.spec.sources)
    made = _tokens(drawing.spec.width, drawing.spec.height) * pictures
    return {
        "input_tokens": text_tokens + sources,
        "output_tokens": made,
        "total_tokens": text_tokens + sources + made,
        "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": sources},
        "output_tokens_details": {"image_tokens": made, "text_tokens": 0},
    }


def _tokens(width: int, height: int) -> int:
    return -(-width // _PATCH) * -(-height // _PATCH)
