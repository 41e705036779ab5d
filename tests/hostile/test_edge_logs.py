"""Logs (litellm#39293): no key, prompt, query or forged line in any record of any logger."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from server.edge.keys import Keyring
from server.telemetry import JsonLines
from tests.unit.edge.live import serve, settings_for
from tests.unit.edge.rooms import make_app

CANARY = "canary4711"


def test_no_canary_and_no_forged_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the client's log, not ours
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    settings = settings_for(tmp_path)
    key = {"authorization": f"Bearer {CANARY}"}
    fields = {"prompt": f'{CANARY}\n{{"level"', "n": CANARY}
    forged = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {CANARY}\n".encode()
    with (
        serve(make_app(settings, Keyring.in_memory({"alice": CANARY})), settings) as live,
        live.client() as client,
    ):
        for headers in (key, {"authorization": f"Bearer wrong{CANARY}"}):
            client.post("/pictures", json=fields, headers=headers)
            client.post("/pictures", json={"prompt": CANARY}, headers=headers)
            client.get(f"/{CANARY}%0a%7b?{CANARY}", headers=headers)
            client.get(f"/files/{CANARY}?signature={CANARY}", headers=headers)
            client.get("/fail/accident", headers={**headers, "x-request-id": f'{CANARY} {{"level"'})
            client.get("/v1/models/x", headers={"api-key": CANARY, "x-api-key": f"other{CANARY}"})
            client.post("/read", content=CANARY, headers={**headers, "content-encoding": CANARY})
            client.options(f"/{CANARY}", headers={"origin": CANARY, "access-control-request-headers": CANARY})
            client.get("/livez", headers={**headers, "user-agent": CANARY, "cookie": CANARY, "host": CANARY})
        with live.connect() as connection:
            connection.sendall(forged + f"{CANARY}: \x00\r\n\r\n".encode())
            connection.recv(1000)
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert sum(record.name == "darkroom.access" for record in ours) == 18
    formatter = JsonLines("front")
    for record in ours:
        line = formatter.format(record)
        assert CANARY not in line
        assert "\n" not in line
        assert json.loads(line)["logger"]
