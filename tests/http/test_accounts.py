"""Accounts over a real socket: who used what, who may have how much, and what is said at the end of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI, RateLimitError

from server.catalog.catalog import Model
from server.edge.keys import KeyEntry, Keyring
from server.errors import ConfigError, WorkerLost
from server.jobs.limits import Limits
from server.jobs.usage import SCHEMA
from server.storage.database import FILE_NAME, Database, Schema
from tests.assertions import assert_api_error
from tests.paper import STEP_S, Paper, PaperServers
from tests.running import Running, eventually, start

USAGE = "/v1/usage"
BODY = {"prompt": "x", "model": "dall-e-3", "num_inference_steps": 10, "response_format": "b64_json"}


def limited(limits: Limits = Limits(), expires: str = "") -> Callable[[KeyEntry], KeyEntry]:
    return lambda entry: replace(entry, limits=limits, expires=expires)


class Keyed:
    """A server with keys of several people."""

    def __init__(self, servers: PaperServers, **people: Limits) -> None:
        self.paper = servers.open(keys=True)
        self.ring = Keyring(self.paper.app.state.services.settings.data_dir / "keys.json")
        self.keys = {name: self.ring.create(name, but=limited(limits)) for name, limits in people.items()}
        self.keys["root"] = self.ring.create("root", admin=True)
        eventually(lambda: self.get("root", "/v1/models").status_code == 200)

    def client(self, name: str) -> httpx.Client:
        return self.paper.client(headers={"authorization": f"Bearer {self.keys[name]}"})

    def get(self, name: str, path: str = USAGE, **params: Any) -> httpx.Response:
        with self.client(name) as client:
            return client.get(path, params=params)

    def draw(self, name: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        with self.client(name) as client:
            return client.post("/v1/images/generations", json={**BODY, **fields}, headers=headers or {})

    def total(self, name: str) -> dict[str, Any]:
        total: dict[str, Any] = self.get(name).json()["total"]
        return total


def in_the_background(work: Callable[[], httpx.Response]) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    threading.Thread(target=lambda: future.set_result(work()), daemon=True).start()
    return future


def drawn_at(paper: Paper) -> float:
    """Megapixels of a picture of BODY as the model draws it."""
    spec = paper.worker.drawings[-1].spec
    return spec.draw_width * spec.draw_height / 1e6


def test_each_key_sees_its_own_use_and_an_admin_that_of_all(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(), bob=Limits())
    assert keyed.draw("ada", n=2).status_code == 200
    assert keyed.draw("bob", model="darkroom-mini").status_code == 200
    pixels = drawn_at(keyed.paper)
    mine = keyed.get("ada").json()
    today = datetime.now(UTC).date()
    (row,) = mine["data"]
    assert row == {
        **{"object": "usage", "day": today.isoformat(), "key": "ada", "model": "dall-e-3", "pictures": 2},
        **{"megapixel_steps": round(10 * 2 * pixels, 3), "device_s": round(10 * STEP_S, 3)},
    }
    assert (mine["until"], mine["since"]) == (today.isoformat(), (today - timedelta(days=29)).isoformat())
    assert mine["complete"] is True
    assert mine["principal"] == {"name": "ada", "admin": False}
    assert mine["quotas"]["pictures"] == {"limit": None, "used": 2, "set_aside": 0, "left": None}
    everyone = keyed.get("root").json()
    assert everyone["principal"] == {"name": "root", "admin": True}
    assert [(row["key"], row["model"], row["pictures"]) for row in everyone["data"]] == [
        ("ada", "dall-e-3", 2),
        ("bob", "darkroom-mini", 1),
    ]
    assert everyone["total"]["pictures"] == 3
    assert keyed.get("root", key="bob").json()["total"]["pictures"] == 1
    assert keyed.get("ada", key="ada").json() == mine
    assert_api_error(keyed.get("ada", key="bob"), 403, "admin_required")
    assert keyed.get("root", "/api/usage", until="2020-01-01", days=3).json()["data"] == []
    for wrong in ({"days": 0}, {"days": 367}, {"until": "yesterday"}):
        assert_api_error(keyed.get("ada", **wrong), 400, "invalid_value")
    assert keyed.get("ada", until="0001-01-01", days=366).status_code == 200
    with keyed.paper.client(headers={}) as client:
        assert_api_error(client.get(USAGE), 401, "invalid_api_key")


def test_at_the_end_of_its_day_a_key_is_told_when_the_next_begins(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(pictures_per_day=2))
    assert keyed.draw("ada").status_code == 200
    before = time.time()
    refused = keyed.draw("ada", n=2)
    error = assert_api_error(refused, 429, "quota_exceeded")
    assert "2 pictures a day" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert abs(int(refused.headers["retry-after"]) - (86_400 - before % 86_400)) < 5
    assert keyed.draw("ada").status_code == 200
    assert_api_error(keyed.draw("ada"), 429, "quota_exceeded")
    assert keyed.get("ada").json()["quotas"]["pictures"] == {"limit": 2, "used": 2, "set_aside": 0, "left": 0}
    assert keyed.draw("root").status_code == 200
    with keyed.client("root") as client:
        assert 'darkroom_quota_refused_total{quota="pictures"} 2.0' in client.get("/metrics").text


def test_the_openai_client_does_not_repeat_it(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(pictures_per_day=0))
    client = OpenAI(base_url=f"{keyed.paper.url}/v1", api_key=keyed.keys["ada"])
    with client, pytest.raises(RateLimitError, match="0 pictures a day"):
        client.images.generate(model="dall-e-3", prompt="x")
    with keyed.client("root") as http:
        assert 'darkroom_quota_refused_total{quota="pictures"} 1.0' in http.get("/metrics").text


def test_what_goes_on_is_set_aside_and_a_failure_gives_it_back(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(pictures_per_day=3))
    worker = keyed.paper.worker
    worker.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(keyed.draw, "ada", seed=number, n=2) for number in range(3)]
        eventually(lambda: sum(future.done() for future in asked) == 2)
        assert keyed.get("ada").json()["quotas"]["pictures"] == {"limit": 3, "used": 0, "set_aside": 2, "left": 1}
        worker.failure = WorkerLost("It died.")
        worker.gate.set()
        answers = [future.result() for future in asked]
    assert sorted(answer.status_code for answer in answers) == [429, 429, 503]
    worker.failure = None
    total = keyed.total("ada")
    assert total["pictures"] == 0
    assert total["megapixel_steps"] == round(2 * drawn_at(keyed.paper), 3), "the step that was drawn"
    assert keyed.draw("ada", n=3, seed=9).status_code == 200


def test_a_cancelled_job_pays_the_steps_that_were_drawn(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(pictures_per_day=1, megapixel_steps_per_day=1000))
    keyed.paper.worker.gate.clear()
    waiting = in_the_background(lambda: keyed.draw("ada", {"x-job-id": "the-first-one"}))
    eventually(lambda: keyed.paper.worker.drawings)
    quota = eventually(lambda: keyed.get("ada").json()["quotas"]["megapixel_steps"])
    step = drawn_at(keyed.paper)
    assert (quota["used"], quota["set_aside"]) == (round(step, 3), round(9 * step, 3))
    with keyed.client("ada") as client:
        assert client.delete("/v1/images/jobs/the-first-one").json()["status"] == "cancelled"
    assert_api_error(waiting.result(10), 409, "job_cancelled")
    total = keyed.total("ada")
    assert (total["pictures"], total["megapixel_steps"]) == (0, round(step, 3))
    assert keyed.get("ada").json()["quotas"]["megapixel_steps"]["set_aside"] == 0
    keyed.paper.worker.gate.set()
    assert keyed.draw("ada").status_code == 200


def test_steps_that_the_day_has_no_room_for_are_refused_before_they_are_drawn(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(megapixel_steps_per_day=0.5))
    error = assert_api_error(keyed.draw("ada", n=4, num_inference_steps=150), 429, "quota_exceeded")
    assert "megapixel-steps" in error["message"]
    assert keyed.paper.worker.drawings == []
    streamed = keyed.draw("ada", n=4, num_inference_steps=150, stream=True)
    assert_api_error(streamed, 429, "quota_exceeded")
    assert keyed.get("ada").json()["quotas"]["megapixel_steps"]["used"] == 0


def test_a_repeat_that_joins_pays_nothing(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(pictures_per_day=1))
    keyed.paper.worker.gate.clear()
    headers = {"idempotency-key": "once"}
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(keyed.draw, "ada", headers) for _ in range(2)]
        eventually(lambda: keyed.paper.worker.drawings)
        keyed.paper.worker.gate.set()
        assert [future.result().status_code for future in asked] == [200, 200]
    assert keyed.draw("ada", headers).status_code == 200, "nor one that comes later"
    assert keyed.total("ada")["pictures"] == 1
    assert_api_error(keyed.draw("ada"), 429, "quota_exceeded")


def test_a_key_has_its_own_models(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(models=("openai/dall-e-3", "gone")), bob=Limits(models=()))
    error = assert_api_error(keyed.draw("ada", model="darkroom-mini"), 403, "model_forbidden")
    assert (error["param"], "It may use: dall-e-3." in error["message"]) == ("model", True)
    assert keyed.draw("ada", model="openai/dall-e-3").status_code == 200
    names = {row["id"] for row in keyed.get("ada", "/v1/models").json()["data"]}
    assert "dall-e-3" in names
    assert "darkroom-mini" not in names
    assert names == {row["id"] for row in keyed.get("root", "/v1/models").json()["data"] if row["id"] in names}
    assert_api_error(keyed.get("ada", "/v1/models/darkroom-mini"), 403, "model_forbidden")
    assert keyed.get("ada", "/v1/models/dall-e-3").status_code == 200
    assert {row["model"] for row in keyed.get("ada", "/api/ai/models").json()} == names
    assert keyed.get("ada", "/api/v2/status", model="darkroom-mini").json()["code"] == "model_forbidden"
    assert keyed.get("bob", "/v1/models").json()["data"] == []
    error = assert_api_error(keyed.draw("bob"), 403, "model_forbidden")
    assert "none that this server has" in error["message"]


def test_a_keys_own_bound_of_jobs_stands_in_place_of_the_servers(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(jobs=1), bob=Limits(jobs=0))
    keyed.paper.worker.gate.clear()
    first = in_the_background(lambda: keyed.draw("ada"))
    eventually(lambda: keyed.paper.worker.drawings)
    assert "1 jobs" in assert_api_error(keyed.draw("ada", seed=2), 429, "key_limit")["message"]
    assert_api_error(keyed.draw("bob"), 429, "quota_exceeded")
    keyed.paper.worker.gate.set()
    assert first.result(10).status_code == 200


def test_an_expired_key_is_told_so(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers)
    soon = datetime.now(UTC) + timedelta(seconds=2.5)
    keyed.keys["ada"] = keyed.ring.create("ada", but=limited(expires=soon.isoformat()))
    eventually(lambda: keyed.get("ada", "/v1/models").status_code == 200)
    eventually(lambda: keyed.get("ada", "/v1/models").status_code == 401)
    error = assert_api_error(keyed.get("ada"), 401, "expired_api_key")
    assert "expired at" in error["message"]
    assert keyed.ring.change("ada", limited())
    eventually(lambda: keyed.get("ada").status_code == 200)


def test_an_admin_sees_jobs_of_others_if_it_asks_for_them(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(), bob=Limits())
    for name in ("ada", "bob"):
        assert keyed.draw(name, {"x-job-id": f"{name}s-very-own"}).status_code == 200
    jobs = "/v1/images/jobs"
    assert keyed.get("root", jobs).json()["data"] == []
    rows = keyed.get("root", jobs, all=True).json()["data"]
    assert [(row["id"], row["key"]) for row in rows] == [("adas-very-own", "ada"), ("bobs-very-own", "bob")]
    assert_api_error(keyed.get("root", f"{jobs}/bobs-very-own"), 404, "not_found")
    row = keyed.get("root", f"{jobs}/bobs-very-own", all=True).json()
    assert (row["status"], row["key"]) == ("done", "bob")
    assert_api_error(keyed.get("root", f"{jobs}/nobodys-own", all=True), 404, "not_found")
    for path in (jobs, f"{jobs}/bobs-very-own", f"{jobs}/adas-very-own"):
        assert_api_error(keyed.get("ada", path, all=True), 403, "admin_required")
    with keyed.client("root") as client:
        assert_api_error(client.delete(f"{jobs}/bobs-very-own"), 404, "not_found")


def test_a_database_that_fails_costs_no_picture_and_is_said(paper_servers: PaperServers) -> None:
    keyed = Keyed(paper_servers, ada=Limits(pictures_per_day=2))
    assert keyed.get("root", "/readyz").json()["usage"] == {"state": "written"}
    path: Path = keyed.paper.app.state.services.database.path
    for file in path.parent.glob("darkroom.db*"):
        file.unlink()
    path.mkdir()
    assert keyed.draw("ada").status_code == 200
    said = eventually(
        lambda: (usage := keyed.get("root", "/readyz").json()["usage"])["state"] == "in memory" and usage, within_s=10
    )
    assert said == {"state": "in memory", "reason": "it cannot be opened: Is a directory", "rows": 1}
    assert keyed.get("root", "/readyz").status_code == 200
    answer = keyed.get("ada").json()
    assert (answer["complete"], answer["total"]["pictures"]) == (False, 1)
    assert keyed.draw("ada").status_code == 200
    assert_api_error(keyed.draw("ada"), 429, "quota_exceeded")
    path.rmdir()
    eventually(lambda: keyed.get("root", "/readyz").json()["usage"] == {"state": "written"}, within_s=20)
    answer = keyed.get("ada").json()
    assert (answer["complete"], answer["total"]["pictures"]) == (True, 2)


def test_a_file_of_a_later_version_stops_the_server_at_the_door(paper_servers: PaperServers, tmp_path: Path) -> None:
    later = Schema("usage", (*SCHEMA.migrations, ("ALTER TABLE usage ADD COLUMN more TEXT",)))
    Database(tmp_path / FILE_NAME, (later,)).prepare()
    with pytest.raises(ConfigError, match=r"a later Darkroom wrote it \(usage has version 2; this one knows 1\)"):
        paper_servers.open(data_dir=tmp_path)


def test_a_damaged_file_does_not_stop_it(paper_servers: PaperServers, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database, though long enough for one" * 100)
    paper = paper_servers.open(data_dir=tmp_path)
    assert paper.post(BODY).status_code == 200
    with paper.client() as client:
        said = client.get("/readyz").json()["usage"]
        assert (said["state"], said["reason"]) == ("in memory", "it is no SQLite file")
        (tmp_path / FILE_NAME).rename(tmp_path / "damaged.db")
        eventually(lambda: client.get("/readyz").json()["usage"] == {"state": "written"}, within_s=20)
        assert client.get(USAGE).json()["total"]["pictures"] == 1


def test_seconds_of_two_keys_together_are_no_more_than_the_device_had(tmp_path: Path, mini: Model) -> None:
    """The real worker, before and after a restart."""
    ring = Keyring(tmp_path / "keys.json")
    keys = {name: ring.create(name) for name in ("ada", "bob")}
    root = ring.create("root", admin=True)
    body = {"prompt": "a red apple", "model": "darkroom-mini", "n": 2, "response_format": "b64_json"}
    body["size"] = "128x128"  # as drawn: an upscaler works beside the forwards, and its seconds count on their own

    def draw(running: Running, name: str, steps: int) -> httpx.Response:
        with running.client(headers={"authorization": f"Bearer {keys[name]}"}) as client:
            return client.post("/v1/images/generations", json={**body, "num_inference_steps": steps})

    def used(running: Running) -> dict[str, dict[str, Any]]:
        with running.client(headers={"authorization": f"Bearer {root}"}) as client:
            return {row["key"]: row for row in client.get(USAGE).json()["data"]}

    with start(tmp_path) as running:
        assert draw(running, "ada", 2).status_code == 200  # loads what is loaded at first
        before = used(running)["ada"]
        with ThreadPoolExecutor(2) as pool:
            began = time.monotonic()
            asked = [pool.submit(draw, running, name, steps) for name, steps in (("ada", 40), ("bob", 20))]
            answers = [future.result() for future in asked]
            passed_s = time.monotonic() - began
        assert [answer.status_code for answer in answers] == [200, 200]
        rows = used(running)
        ada_s, bob_s = rows["ada"]["device_s"] - before["device_s"], rows["bob"]["device_s"]
        assert 0 < bob_s < ada_s
        assert 0.3 * passed_s < ada_s + bob_s <= passed_s
        pixels = mini.plan.native_width * mini.plan.native_height
        assert rows["bob"]["megapixel_steps"] == pytest.approx(20 * 2 * pixels / 1e6, abs=0.001)
        assert rows["ada"]["megapixel_steps"] == pytest.approx(42 * 2 * pixels / 1e6, abs=0.001)
        assert running.stop() == 0
    with start(tmp_path, wait=False) as running:
        eventually(lambda: used(running) == rows)
