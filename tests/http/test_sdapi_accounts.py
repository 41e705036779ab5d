"""A1111's API and accounts: which models a key sees and draws with, and what its pictures cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.edge.keys import Keyring
from server.jobs.limits import Limits
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene, text
from tests.running import ROOT, eventually
from tests.sdapi import IMG2IMG, SOURCE, TXT2IMG, begin, get, pictures, post, progress, refused

WEIGHTS = ROOT / "weights" / "darkroom-mini"
MODELS = f"""
default: large
models:
  large: {{ path: {WEIGHTS}, loras: {{ pixel: {{ path: l/p.safetensors }} }}, controlnets: {{ canny: nowhere }} }}
  small: {{ like: large, aliases: [tiny] }}
  other: {{ path: {WEIGHTS}/../darkroom-mini, quality: {{ standard: {{ steps: 3 }} }}, loras: {{}} }}
"""


Open = Callable[..., Paper]  # of its key's limits


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(MODELS)
    return tmp_path / "models.yaml"


@pytest.fixture
def limited(paper_servers: PaperServers, models: Path) -> Open:
    """Opens a server whose key has these limits."""

    def open_(limits: Limits, expires: str = "") -> Paper:
        paper = paper_servers.open(keys=True, models=models)
        change(paper, lambda entry: replace(entry, limits=limits, expires=expires))
        return paper

    return open_


def change(paper: Paper, but: Any) -> None:
    """Another key for this server, whose entry is made so."""
    paper.key = keyring(paper).create("limited", but=but)
    with paper.client() as client:
        eventually(lambda: client.get("/v1/models").json().get("error", {}).get("code") != "invalid_api_key")


def keyring(paper: Paper) -> Keyring:
    return Keyring(paper.app.state.services.settings.data_dir / "keys.json")


def quotas(paper: Paper) -> Any:
    return get(paper, "/v1/usage")["quotas"]


class TestModels:
    def test_lists_and_options_are_of_those_that_the_key_may_use(self, limited: Open) -> None:
        paper = limited(Limits(models=("other",)))
        assert [row["title"] for row in get(paper, "/sdapi/v1/sd-models")] == ["other"]
        assert get(paper, "/sdapi/v1/options")["sd_model_checkpoint"] == "other"
        assert get(paper, "/sdapi/v1/loras") == []
        assert len(pictures(post(paper, TXT2IMG, {"prompt": "x"}))) == 1
        assert paper.worker.drawings[-1].spec.model == "other"

    def test_controlnets_are_those_of_the_model_that_it_draws_with(self, limited: Open) -> None:
        """They were the default's, which the key may not use."""
        for models, status in ((("large",), 200), (("other",), 404), (("gone",), 403)):
            paper = limited(Limits(models=models))
            with paper.client() as client:
                for name in ("model_list", "module_list"):
                    assert client.get(f"/controlnet/{name}").status_code == status

    def test_weights_that_a_key_has_under_another_id_are_its_own(self, limited: Open) -> None:
        """Programs name what is listed, which are weights."""
        paper = limited(Limits(models=("tiny",)))
        (title,) = (row["title"] for row in get(paper, "/sdapi/v1/sd-models"))
        assert get(paper, "/sdapi/v1/options")["sd_model_checkpoint"] == title == "large"
        for sent in ({}, {"model": "large"}, {"override_settings": {"sd_model_checkpoint": title}}):
            assert post(paper, TXT2IMG, sent).status_code == 200
            assert paper.worker.drawings[-1].spec.model == "small"
        assert [row["name"] for row in get(paper, "/sdapi/v1/loras")] == ["pixel"]

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            (TXT2IMG, {"model": "large"}, "model"),
            (TXT2IMG, {"override_settings": {"sd_model_checkpoint": "tiny"}}, "override_settings"),
            (IMG2IMG, {"init_images": [SOURCE], "model": "LARGE.safetensors [0123abcdef]"}, "model"),
            ("/sdapi/v1/options", {"sd_model_checkpoint": "large"}, "sd_model_checkpoint"),
        ],
    )
    def test_others_are_refused_naming_those(self, limited: Open, path: str, body: Any, param: str) -> None:
        paper = limited(Limits(models=("other",)))
        answer = post(paper, path, body)
        message = refused(answer, 403, param)
        assert (answer.json()["error"]["code"], answer.json()["detail"]) == ("model_forbidden", message)
        assert message.endswith("It may use: other.")
        assert "small" not in refused(post(paper, TXT2IMG, {"model": "nobody's"}), 404, "model")
        assert paper.worker.drawings == []

    def test_a_model_that_was_chosen_and_forbidden_since(self, limited: Open) -> None:
        paper = limited(Limits())
        assert post(paper, "/sdapi/v1/options", {"sd_model_checkpoint": "other"}).status_code == 200
        entry = keyring(paper).list()[-1]
        keyring(paper).change(entry.name, lambda old: replace(old, limits=Limits(models=("small",))))
        eventually(lambda: get(paper, "/sdapi/v1/options")["sd_model_checkpoint"] == "large")

    def test_a_key_that_may_use_none(self, limited: Open) -> None:
        paper = limited(Limits(models=("gone",)))
        assert get(paper, "/sdapi/v1/sd-models") == get(paper, "/sdapi/v1/loras") == []
        for answer in (post(paper, TXT2IMG, {}), post(paper, IMG2IMG, {"init_images": [SOURCE]})):
            assert "none that this server has" in refused(answer, 403, "model")
        with paper.client() as client:
            assert client.get("/sdapi/v1/options").status_code == 403
        assert get(paper, "/sdapi/v1/progress")["progress"] == 0


HIRES = {
    "enable_hr": True, "hr_scale": 2, "width": 256, "height": 128, "steps": 8, "batch_size": 2,
    "hr_second_pass_steps": 10, "denoising_strength": 0.5,
}  # fmt: skip


def megapixel_steps(paper: Paper) -> float:
    """Of what was drawn, as the worker of paper tells it: it draws all of ``steps``."""
    specs = [(drawing.spec, len(drawing.seeds)) for drawing in paper.worker.drawings]
    return sum(spec.draw_width * spec.draw_height * spec.steps * n for spec, n in specs) / 1e6


class TestCost:
    def test_a_second_pass_pays_what_it_draws(self, limited: Open) -> None:
        paper = limited(Limits(megapixel_steps_per_day=1000))
        assert len(pictures(post(paper, TXT2IMG, HIRES))) == 2
        assert len(paper.worker.drawings) == 3
        used = get(paper, "/v1/usage")
        assert used["total"]["pictures"] == 2
        assert used["total"]["megapixel_steps"] == pytest.approx(megapixel_steps(paper), abs=0.01)
        assert used["quotas"]["megapixel_steps"]["set_aside"] == 0
        assert used["total"]["device_s"] == pytest.approx(0.001 * (8 + 2 * 10))

    def test_both_passes_are_set_aside_before_anything_is_drawn(self, limited: Open) -> None:
        first = post(paper := limited(Limits()), TXT2IMG, {**HIRES, "enable_hr": False})
        assert first.status_code == 200
        one_pass = megapixel_steps(paper)
        tight = limited(Limits(megapixel_steps_per_day=one_pass + 0.1))
        answer = post(tight, TXT2IMG, HIRES)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        assert abs(int(answer.headers["retry-after"]) - (86_400 - time.time() % 86_400)) < 10
        assert answer.json()["detail"] == answer.json()["error"]["message"]
        assert tight.worker.drawings == []
        assert quotas(tight)["megapixel_steps"]["set_aside"] == 0
        assert post(tight, TXT2IMG, {**HIRES, "enable_hr": False}).status_code == 200

    def test_only_masked_pays_the_part_that_is_drawn(self, limited: Open) -> None:
        paper = limited(Limits(megapixel_steps_per_day=1000))
        mask = scene(64, 64).convert("L").point(lambda _: 0)
        mask.paste(255, (8, 8, 24, 24))
        body = {"init_images": [SOURCE], "mask": text(png(mask)), "width": 256, "height": 256, "steps": 4}
        assert post(paper, IMG2IMG, body).status_code == 200
        assert paper.worker.drawings[0].spec.draw_width > 64
        assert get(paper, "/v1/usage")["total"]["megapixel_steps"] == pytest.approx(megapixel_steps(paper), abs=0.01)

    @pytest.mark.parametrize("waiting", [1, 2])
    def test_an_interrupt_pays_the_pictures_that_it_is_answered_with(self, limited: Open, waiting: int) -> None:
        """Else whoever interrupts at the last step has pictures for nothing. Who joined pays nothing."""
        paper = limited(Limits(pictures_per_day=4, megapixel_steps_per_day=1000))
        with ThreadPoolExecutor(2) as pool:
            asked = [begin(pool, paper, {"batch_size": 3, "seed": 4})]
            eventually(lambda: progress(paper)["current_image"])
            if waiting == 2:
                asked.append(pool.submit(post, paper, TXT2IMG, {"batch_size": 3, "seed": 4}))
                work = paper.app.state.services.admission.repeats.going_on[0]
                eventually(lambda: work.waiters == 2)
            assert quotas(paper)["pictures"]["set_aside"] == 3
            post(paper, "/sdapi/v1/interrupt")
            post(paper, "/sdapi/v1/interrupt")
            assert len(pictures(asked[0].result(10))) == 3
        told = quotas(paper)
        assert told["pictures"] == {"limit": 4, "used": 3, "set_aside": 0, "left": 1}
        spec = paper.worker.drawings[0].spec
        one_step = spec.draw_width * spec.draw_height * 3 / 1e6
        assert told["megapixel_steps"]["used"] == pytest.approx(one_step, abs=0.01)
        assert told["megapixel_steps"]["set_aside"] == 0
        assert post(paper, TXT2IMG, {"batch_size": 2}).status_code == 429

    def test_a_second_pass_that_is_interrupted_pays_the_steps_of_both(self, limited: Open) -> None:
        paper = limited(Limits(pictures_per_day=4))
        with ThreadPoolExecutor(1) as pool:
            paper.worker.gate.clear()
            asked = pool.submit(post, paper, TXT2IMG, HIRES)
            eventually(lambda: len(paper.worker.drawings) == 1)
            paper.worker.gate.set()
            draw = paper.worker.draw

            async def held(drawing: Any, *arguments: Any) -> Any:
                paper.worker.gate.clear()
                return await draw(drawing, *arguments)

            paper.worker.draw = held  # type: ignore[assignment,method-assign]
            eventually(lambda: len(paper.worker.drawings) == 3)
            post(paper, "/sdapi/v1/interrupt")
            assert len(pictures(asked.result(10))) == 2
        first, *second = (drawing.spec for drawing in paper.worker.drawings)
        drawn = first.draw_width * first.draw_height * first.steps * 2
        drawn += sum(spec.draw_width * spec.draw_height for spec in second)  # a step of each
        total = get(paper, "/v1/usage")["total"]
        assert (total["pictures"], total["megapixel_steps"]) == (2, pytest.approx(drawn / 1e6, abs=0.01))

    def test_what_has_no_pictures_yet_pays_none(self, limited: Open) -> None:
        paper = limited(Limits(pictures_per_day=4))
        draw = paper.worker.draw

        async def unseen(drawing: Any, encoding: Any, progress: Any, *_: Any) -> Any:
            return await draw(drawing, encoding, progress)

        paper.worker.draw = unseen  # type: ignore[assignment,method-assign]
        with ThreadPoolExecutor(1) as pool:
            asked = begin(pool, paper, {"batch_size": 2})
            post(paper, "/sdapi/v1/interrupt")
            assert pictures(asked.result(10)) == []
        assert quotas(paper)["pictures"] == {"limit": 4, "used": 0, "set_aside": 0, "left": 4}

    def test_larger_pictures_and_lists_cost_nothing(self, limited: Open) -> None:
        paper = limited(Limits(pictures_per_day=0))
        sent = {"image": SOURCE, "upscaler_1": "Lanczos"}
        assert post(paper, "/sdapi/v1/extra-single-image", sent).status_code == 200
        assert post(paper, "/sdapi/v1/png-info", sent).status_code == 200
        assert post(paper, TXT2IMG, {}).json()["error"]["code"] == "quota_exceeded"

    def test_a_keys_own_limit_of_jobs(self, limited: Open) -> None:
        paper = limited(Limits(jobs=1))
        with ThreadPoolExecutor(1) as pool:
            asked = begin(pool, paper, {})
            answer = post(paper, TXT2IMG, {"prompt": "another"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "key_limit")
            assert answer.headers["x-should-retry"] == "true"
            assert int(answer.headers["retry-after"]) >= 1
            paper.worker.gate.set()
            assert asked.result(10).status_code == 200


@pytest.mark.parametrize("way", ["expired", "revoked"])
def test_a_key_that_is_none_any_more_is_told_so_everywhere(limited: Open, way: str) -> None:
    """What it has begun is drawn on and answered: it was admitted."""
    paper = limited(Limits())
    ring = keyring(paper)
    name = ring.list()[-1].name
    with ThreadPoolExecutor(1) as pool:
        asked = begin(pool, paper, {"prompt": "a cat"})
        if way == "revoked":
            ring.revoke(name)
        else:
            ring.change(name, lambda old: replace(old, expires="2020-01-01T00:00:00+00:00"))

        def answers() -> list[httpx.Response]:
            with paper.client() as client:
                gets = [client.get(f"/sdapi/v1/{path}") for path in ("progress", "options", "sd-models")]
                return [*gets, client.post("/sdapi/v1/interrupt")]

        with paper.client() as client:
            eventually(lambda: client.get("/sdapi/v1/progress").status_code == 401)
        code = "expired_api_key" if way == "expired" else "invalid_api_key"
        for answer in answers():
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
            assert answer.headers["www-authenticate"].startswith("Basic ")
        paper.worker.gate.set()
        assert len(pictures(asked.result(10))) == 1
    assert paper.worker.cancelled == []
