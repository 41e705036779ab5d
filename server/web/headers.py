"""The security headers of the two pages: what both have, and the policy of each. Knows headers only."""

from __future__ import annotations

from typing import Final

_FORBIDDEN: Final = ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")


def _headers(*sources: str) -> dict[str, str]:
    """The headers of a page that may load from ``sources`` only, send no form and stand in no frame."""
    return {
        "content-security-policy": "; ".join((*sources, *_FORBIDDEN)),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
    }


# Nothing from another origin, nothing inline, no eval. Pictures that the page holds are blob: and data:.
PAGE: Final = {
    **_headers("default-src 'self'", "img-src 'self' blob: data:", "object-src 'none'"),
    "cross-origin-opener-policy": "same-origin",
}

# Nothing from another origin, no inline script, no eval. Inline styles are allowed: the viewer writes its theme as a
# <style> element inside its own shadow root.
DOCS: Final = _headers(
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
)
