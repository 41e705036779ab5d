"""Signatures, against the example that Standard Webhooks publishes, and the secrets that make them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from server.webhooks.secrets import WebhookSecrets
from server.webhooks.signature import signed_headers


def test_the_published_example() -> None:
    """standard-webhooks' own test vector, as its libraries have it."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_secrets_are_made_read_replaced_and_forgotten(tmp_path: Path) -> None:
    secrets = WebhookSecrets(tmp_path)
    assert secrets.get("local") is None
    shown = secrets.make("local")
    assert secrets.get("local") == base64.b64decode(shown.removeprefix("whsec_"))
    assert len(secrets.get("local") or b"") == 32
    assert secrets.make("local") != shown
    (tmp_path / "webhook_secrets" / "abc").write_text("whsec_?")
    assert secrets.get("abc") is None
    secrets.forget("local")
    secrets.forget("local")
    assert secrets.get("local") is None
    with pytest.raises(ValueError, match="not the id"):
        secrets.get("../signing_key")
