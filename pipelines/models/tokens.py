"""How many tokens a text is to a model.

Knows transformers' tokenizers; knows neither prompts' templates nor what an encoder cuts off. Counts with a copy:
a fast tokenizer must not be entered while a run uses it.
"""

from __future__ import annotations

import copy
import logging
import threading
from typing import Any

log = logging.getLogger("darkroom.tokens")


class TokenCounter:
    """Counts with the first tokenizer that a pipeline has; without one, nothing counts. Safe from any thread."""

    def __init__(self, pipeline: Any) -> None:
        named = {name: part for name, part in pipeline.components.items() if name.startswith("tokenizer")}
        first = named.get(min(named, default=""))
        self._tokenizer = None if first is None else copy.deepcopy(first)
        self._lock = threading.Lock()

    def count(self, *texts: str | None) -> int:
        """Tokens of all texts, without those that mark a text's ends."""
        if self._tokenizer is None:
            return 0
        try:
            with self._lock:
                return sum(len(self._tokenizer(text, add_special_tokens=False).input_ids) for text in texts if text)
        except Exception as error:  # a tokenizer of its own kind; no count is worth a drawing
            log.warning("tokens not counted", extra={"error": type(error).__name__})
            return 0
