"""Webhooks: an endpoint is told once that a job has ended, signed, and never anywhere it may not be."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from server.errors import WorkerLost
from server.settings import Settings
from server.webhooks import deliveries
from server.webhooks.secrets import WebhookSecrets
from tests.assertions import assert_api_error
from tests.http.test_async import ASYNC, ask, done, look, rows
from tests.paper import Paper, PaperServers
from tests.receiver import Receiver, receiving
from tests.running import eventually


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again within a second, three times."""
    monkeypatch.setattr(deliveries, "DELAYS_S", (0.1, 0.2, 0.3))


def opened(paper_servers: PaperServers, *receivers: Receiver, **settings: Any) -> tuple[Paper, str]:
    """A server without keys that may tell these endpoints, and the secret of its webhooks."""
    hosts = ",".join(receiver.host for receiver in receivers)
    paper = paper_servers.open(webhooks=hosts, webhook_timeout_s=1.0, **settings)
    return paper, WebhookSecrets(paper.app.state.services.settings.data_dir).make("local")


def told(paper: Paper, job: str, state: str) -> Any:
    """The job's row once its webhook is in this state."""
    return eventually(lambda: (row := look(paper, job))["webhook"]["state"] == state and row, within_s=15)


def test_the_openai_package_verifies_what_is_sent(
    paper_servers: PaperServers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as receiver:
        paper, secret = opened(paper_servers, receiver)
        row = ask(paper, {"prompt": "canary prompt", "webhook": f"{receiver.url}?token=canary", "n": 2})
        assert row["webhook"] == {"state": "waiting", "attempts": 0, "next": None, "last_status": None}
        ended = told(paper, row["id"], "delivered")
    assert ended["webhook"] == {"state": "delivered", "attempts": 1, "next": None, "last_status": 200}
    (sent,) = receiver.sent
    assert sent.path == "/hook?token=canary"
    client = OpenAI(api_key="none", webhook_secret=secret)
    event: Any = client.webhooks.unwrap(sent.body, sent.headers)
    assert event.type == "image.job.done"
    assert event.id == sent.headers["webhook-id"]
    data = json.loads(sent.body)["data"]
    assert {name: data[name] for name in ("id", "status", "n", "error")} == {
        "id": row["id"], "status": "done", "n": 2, "error": None,
    }  # fmt: skip
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(sent.body.replace(b"done", b"gone"), sent.headers)
    with pytest.raises(InvalidWebhookSignatureError):
        OpenAI(api_key="none").webhooks.unwrap(sent.body, sent.headers, secret="whsec_" + "QUJD" * 8)
    assert b"canary" not in sent.body
    assert "canary" not in caplog.text
    assert secret not in caplog.text
    assert rows(paper, "SELECT webhook FROM async_jobs") == [(None,)]


def test_failed_and_cancelled_jobs_are_told_too(paper_servers: PaperServers) -> None:
    with receiving() as receiver:
        paper, _ = opened(paper_servers, receiver, queue_size=1)
        paper.worker.gate.clear()
        first, second = (ask(paper, {"webhook": receiver.url, "seed": seed}) for seed in (1, 2))
        with paper.client() as client:
            client.delete(f"/v1/images/jobs/{second['id']}")
        told(paper, second["id"], "delivered")
        paper.worker.failure = WorkerLost("It ended.")
        paper.worker.gate.set()
        told(paper, first["id"], "delivered")
    events = [json.loads(sent.body) for sent in receiver.sent]
    assert [event["type"] for event in events] == ["image.job.cancelled", "image.job.failed"]
    assert events[1]["data"]["error"]["code"] == "job_lost"


def test_told_again_until_it_is_taken(paper_servers: PaperServers) -> None:
    with receiving(500, "http://127.0.0.1:9/elsewhere", 200) as receiver:
        paper, secret = opened(paper_servers, receiver)
        row = ask(paper, {"webhook": receiver.url})
        ended = told(paper, row["id"], "delivered")
    assert (ended["webhook"]["attempts"], ended["webhook"]["last_status"]) == (3, 200)
    assert len({sent.headers["webhook-id"] for sent in receiver.sent}) == 1
    assert len({sent.body for sent in receiver.sent}) == 1
    client = OpenAI(api_key="none", webhook_secret=secret)
    for sent in receiver.sent:
        client.webhooks.unwrap(sent.body, sent.headers)


def test_redirects_are_not_followed_and_what_is_never_taken_is_given_up(paper_servers: PaperServers) -> None:
    with receiving() as elsewhere, receiving(elsewhere.url) as receiver:
        paper, _ = opened(paper_servers, receiver, elsewhere)
        row = ask(paper, {"webhook": receiver.url})
        ended = told(paper, row["id"], "failed")
    assert (ended["webhook"]["attempts"], ended["webhook"]["last_status"]) == (4, 302)
    assert elsewhere.sent == []
    assert (ended["status"], ended["result_state"]) == ("done", "ready")


def test_an_endpoint_that_wants_no_more_is_told_no_more(paper_servers: PaperServers) -> None:
    with receiving(410) as receiver:
        paper, _ = opened(paper_servers, receiver)
        told(paper, ask(paper, {"webhook": receiver.url})["id"], "failed")
    assert len(receiver.sent) == 1


def test_an_endpoint_that_never_answers_holds_nothing_up(paper_servers: PaperServers) -> None:
    with receiving(None) as silent, receiving() as receiver:
        paper, _ = opened(paper_servers, silent, receiver)
        hung = [ask(paper, {"webhook": silent.url, "seed": seed}) for seed in range(8)]
        assert [done(paper, row["id"])["status"] for row in hung] == ["done"] * 8
        eventually(lambda: len(silent.sent) == deliveries.MAX_PER_ENDPOINT)
        row = ask(paper, {"webhook": receiver.url})
        eventually(lambda: receiver.sent, within_s=0.9)  # before the silent ones have had their time
        told(paper, row["id"], "delivered")
        ended = told(paper, hung[0]["id"], "failed")
    assert (ended["webhook"]["attempts"], ended["webhook"]["last_status"]) == (4, None)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/hook",
        "https://10.0.0.1/hook",
        "https://169.254.169.254/latest",
        "https://[::1]/hook",
        "https://localhost/hook",
        "http://example.com/hook",
        "https://example.com:8443/hook",
        "https://user@example.com/hook",
        "ftp://example.com/hook",
        "no url",
        "https://example.com/" + "x" * 2048,
    ],
)
def test_public_means_https_at_a_public_address(paper_servers: PaperServers, url: str) -> None:
    paper = paper_servers.open(webhooks="public")
    WebhookSecrets(paper.app.state.services.settings.data_dir).make("local")
    answer = paper.post({"prompt": "x", "webhook": url}, headers=ASYNC)
    error = assert_api_error(answer, 400, "invalid_value")
    assert error["param"] == "webhook"
    assert "public address" in error["message"]
    assert not paper.worker.drawings


def test_hosts_that_are_not_listed_and_a_key_without_a_secret(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(webhooks="127.0.0.1:9, hooks.example")
    other = paper.post({"prompt": "x", "webhook": "http://127.0.0.1:10/hook"}, headers=ASYNC)
    assert "DARKROOM_WEBHOOKS" in assert_api_error(other, 400, "invalid_value")["message"]
    listed = paper.post({"prompt": "x", "webhook": "http://127.0.0.1:9/hook"}, headers=ASYNC)
    assert "webhook-secret" in assert_api_error(listed, 400, "invalid_value")["message"]


@pytest.mark.parametrize("value", ["", "https://example.com", "a,,b"])
def test_settings_that_mean_nothing_stop_at_the_door(value: str) -> None:
    with pytest.raises(ValueError, match="must be off, public, or hosts"):
        Settings(webhooks=value)
