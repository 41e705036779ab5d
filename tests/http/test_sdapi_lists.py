"""AUTOMATIC1111's API beside the drawing: options, lists, keys, errors; what recorded clients ask, as they ask it."""

from __future__ import annotations

import base64
import contextlib
import http.client
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.edge.keys import Keyring
from server.errors import ANSWERS, DarkroomError
from tests.assertions import assert_api_error
from tests.paper import Paper, PaperServers
from tests.pictures import png, scene, text
from tests.running import ROOT, eventually

IDS = "dall-e-2, dall-e-3, darkroom-mini"


def assert_sdapi_error(answer: httpx.Response, status: int, code: str) -> str:
    """Our error object, and its message once more as ``detail``. Returns the message."""
    body = answer.json()
    assert set(body) == {"error", "detail"}, body
    plain = httpx.Response(answer.status_code, headers=answer.headers, json={"error": body["error"]})
    error = assert_api_error(plain, status, code)
    assert body["detail"] == error["message"]
    assert body["detail"] != "Not Found"  # by which AI-Render tells a server without this API
    return str(error["message"])


def asked(paper: Paper, authorization: str, path: str = "/sdapi/v1/options") -> httpx.Response:
    """The answer to a header just as it stands: Open WebUI and SillyTavern send one that httpx refuses to send."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", paper.live.port, timeout=10)) as connection:
        connection.request("GET", path, headers={"authorization": authorization})
        answer = connection.getresponse()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def basic(pair: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


# What each list answers with a catalog without adapters: the items' types are the recorded clients'.
LISTS: dict[str, Any] = {
    "sd-vae": [],
    "latent-upscale-modes": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "extensions": [],
    "prompt-styles": [],
    "script-info": [],
    "loras": [],
    "scripts": {"txt2img": [], "img2img": []},
    "embeddings": {"loaded": {}, "skipped": {}},
    "cmd-flags": {"api": True},
}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_not_offered_is_an_empty_list(paper: Paper, name: str) -> None:
    with paper.client() as client:
        answer = client.get(f"/sdapi/v1/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == LISTS[name]


def test_lists_have_the_items_that_strict_clients_read(paper: Paper) -> None:
    with paper.client() as client:
        rows = {name: client.get(f"/sdapi/v1/{name}").json() for name in ("sd-models", "samplers", "upscalers")}
        (schedulers, *_) = client.get("/sdapi/v1/schedulers").json()
        memory = client.get("/sdapi/v1/memory").json()
        assert client.get("/internal/ping").json() == {}
    (model,) = rows["sd-models"]  # six IDs of models.yaml share these weights
    assert model["title"] == model["model_name"] == "darkroom-mini"
    assert set(model) == {"title", "model_name", "hash", "sha256", "filename", "config"}
    assert "/" not in model["filename"]
    assert {"Euler a", "DPM++ 2M", "UniPC"} <= {row["name"] for row in rows["samplers"]}
    assert len({row["name"] for row in rows["samplers"]}) == len(rows["samplers"])
    assert all(isinstance(row["aliases"], list) and isinstance(row["options"], dict) for row in rows["samplers"])
    assert [row["name"] for row in rows["upscalers"]] == ["None", "Lanczos", "Nearest"]
    assert all(type(row["scale"]) is int for row in rows["upscalers"])
    assert (schedulers["name"], schedulers["label"]) == ("automatic", "Automatic")
    assert memory["ram"]["total"] == memory["ram"]["free"] + memory["ram"]["used"] > 2**20
    assert memory["cuda"] == {"error": "unavailable"}


def test_adapters_are_listed_with_their_models(paper_servers: PaperServers, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    weights, loras = ROOT / "weights" / "darkroom-mini", "{pixel: {path: l/p.safetensors, weight: 0.5}}"
    file.write_text(f"default: a\nmodels:\n  a:\n    path: {weights}\n    loras: {loras}\n  b: {{like: a}}\n")
    with paper_servers.open(models=file).client() as client:
        (row,) = client.get("/sdapi/v1/loras").json()
    assert (row["name"], row["alias"], row["path"]) == ("pixel", "pixel", "p.safetensors")
    assert row["metadata"]["models"] == ["a", "b"]


class TestOptions:
    def test_the_whole_object_is_accepted_back(self, paper_servers: PaperServers) -> None:
        """As Open WebUI does, which reads it, sets the model and sends all of it."""
        paper = paper_servers.open()
        options = asked(paper, "Basic ", "//sdapi/v1/options").json()
        with paper.client() as client:
            assert options["sd_model_checkpoint"] == client.get("/sdapi/v1/sd-models").json()[0]["title"]
            assert "forge_preset" not in options  # its presence makes SillyTavern think of Forge
            answer = client.post("/sdapi/v1/options", json=options)
            assert (answer.status_code, answer.text) == (200, "null")
            assert "x-ignored-fields" not in answer.headers

    @pytest.mark.parametrize("body", [b"", b"{}", b'""', b"null", b" null \n", b'{"sd_model_checkpoint": null}'])
    def test_nothing_keeps_what_was_chosen(self, paper: Paper, body: bytes) -> None:
        answer = paper.post(body, "/sdapi/v1/options")
        assert (answer.status_code, answer.json()) == (200, None)

    def test_a_choice_is_the_keys_own(self, paper_servers: PaperServers, tmp_path: Path) -> None:
        file = tmp_path / "models.yaml"
        mini = ROOT / "weights" / "darkroom-mini"
        file.write_text(f"default: one\nmodels:\n  one: {{path: {mini}}}\n  two: {{path: {mini}, multiple: 16}}\n")
        paper = paper_servers.open(keys=True, models=file)
        other = Keyring(paper.app.state.services.settings.data_dir / "keys.json").create("other")
        with paper.client() as mine, paper.live.client(headers=basic(f"x:{other}")) as theirs:
            assert mine.post("/sdapi/v1/options", json={"sd_model_checkpoint": "TWO.safetensors [0a]"}).json() is None
            eventually(lambda: theirs.get("/sdapi/v1/options").status_code == 200)  # keys are read once a second
            titles = [client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] for client in (mine, theirs)]
        assert titles == ["two", "one"]

    def test_the_title_sent_back_keeps_an_id_of_the_same_weights(self, paper: Paper) -> None:
        with paper.client() as client:
            for name in ("dall-e-3", "darkroom-mini"):  # what Open WebUI reads after the first, and sends again
                client.post("/sdapi/v1/options", json={"sd_model_checkpoint": name})
                assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "darkroom-mini"

    def test_an_unknown_model_is_named(self, paper: Paper) -> None:
        answer = paper.post({"sd_model_checkpoint": "v1-5-pruned.ckpt [abc]"}, "/sdapi/v1/options")
        assert IDS in assert_sdapi_error(answer, 404, "model_not_found")
        assert answer.json()["error"]["param"] == "sd_model_checkpoint"

    def test_other_options_are_named_as_ignored_and_not_told(self, paper: Paper) -> None:
        sent = {"inpainting_mask_weight": 1.0, "samples_format": "webp", "auth": "user:secret", "a b": 1}
        answer = paper.post(sent, "/sdapi/v1/options")
        assert answer.headers["x-ignored-fields"] == "inpainting_mask_weight, samples_format, auth, a_b"
        assert "secret" not in str(answer.headers) + answer.text

    def test_the_content_type_is_not_asked(self, paper: Paper) -> None:
        with paper.client() as client:
            for kind in ("text/plain", "application/x-www-form-urlencoded"):
                answer = client.post(
                    "/sdapi/v1/options", content=b'{"sd_vae": "Automatic"}', headers={"content-type": kind}
                )
                assert answer.json() is None


class TestUpkeep:
    @pytest.mark.parametrize("body", [b"", b"{}", b'""'])
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            *((f"refresh-{name}", None) for name in ("checkpoints", "vae", "loras")),
            ("unload-checkpoint", {}),
            ("reload-checkpoint", {}),
        ],
    )
    def test_a_body_is_not_needed(self, paper: Paper, name: str, said: Any, body: bytes) -> None:
        answer = paper.post(body, f"/sdapi/v1/{name}")
        assert (answer.status_code, answer.json()) == (200, said)

    def test_weights_leave_for_an_admin_alone(self, paper_servers: PaperServers) -> None:
        keyed, own = paper_servers.open(keys=True), paper_servers.open()
        for paper, state in ((keyed, "ready"), (own, "unloaded")):
            assert paper.post(b"", "/sdapi/v1/unload-checkpoint").json() == {}
            assert str(paper.worker.models["darkroom-mini"].state) == state

    def test_a_wrong_models_file_is_told_to_an_admin(self, paper_servers: PaperServers, tmp_path: Path) -> None:
        file = tmp_path / "models.yaml"
        file.write_bytes(b"default: a\nmodels:\n  a: {path: %s}\n" % bytes(ROOT / "weights" / "darkroom-mini"))
        paper = paper_servers.open(models=file)
        file.write_text("nonsense")
        answer = paper.post(b"", "/sdapi/v1/refresh-checkpoints")
        assert_sdapi_error(answer, 400, "invalid_models_file")


class TestKeys:
    @pytest.fixture
    def keyed(self, paper_servers: PaperServers) -> Paper:
        return paper_servers.open(keys=True)

    @pytest.mark.parametrize("form", ["password", "user", "alone", "bearer", "api-key"])
    def test_every_way_to_send_a_key(self, keyed: Paper, form: str) -> None:
        key = keyed.key or ""
        headers = {
            "password": basic(f"anybody:{key}"),
            "user": basic(f"{key}:"),
            "alone": basic(key),
            "bearer": {"authorization": f"Bearer {key}"},
            "api-key": {"api-key": key},
        }[form]
        with keyed.live.client() as client:
            assert client.get("/sdapi/v1/options", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "value", [None, "Basic ", "Basic", "Basic Og==", "Basic !!", "Basic eDp5", "Basic /w==", "Bearer x"]
    )
    def test_no_key_is_refused_and_told_how_to_send_one(self, keyed: Paper, value: str | None) -> None:
        if value is None:
            with keyed.live.client() as client:
                answer = client.get("/sdapi/v1/options")
        else:
            answer = asked(keyed, value)
        assert "Basic" in assert_sdapi_error(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"].startswith("Basic ")

    def test_elsewhere_keys_come_as_before(self, keyed: Paper) -> None:
        with keyed.live.client() as client:
            answer = client.get("/v1/models", headers=basic(f"x:{keyed.key}"))
            assert_api_error(answer, 401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("value", ["Basic ", "Basic Og==", "Basic !!", "Basic", "Digest x", "?", "Bearer"])
    def test_an_open_server_ignores_the_header(self, paper: Paper, value: str) -> None:
        assert asked(paper, value, "//sdapi/v1/options").status_code == 200


class TestErrors:
    def test_what_is_there_for_other_methods_is_405(self, paper: Paper) -> None:
        """sd-backend-client learns of POST routes by asking for them with GET."""
        with paper.client() as client:
            for name in ("extra-single-image", "extra-batch-images", "png-info", "refresh-vae", "unload-checkpoint"):
                answer = client.get(f"/sdapi/v1/{name}")
                assert_sdapi_error(answer, 405, "method_not_allowed")
                assert answer.headers["allow"] == "POST, OPTIONS"

    @pytest.mark.parametrize(
        "path",
        [
            *("/sdapi/v1/interrogate", "/sdapi/v1/sd-modules", "/sdapi/v1/nothing", "/sdapi/v1/train/embedding"),
            *("/controlnet/model_list", "/controlnet/module_list", "/internal/progress"),
        ],
    )
    def test_what_is_not_there_is_404(self, paper: Paper, path: str) -> None:
        with paper.client() as client:
            assert_sdapi_error(client.get(path), 404, "not_found")

    @pytest.mark.parametrize("path", ["/system_stats", "/login_check", "/config"])
    def test_other_servers_paths_are_not_there_either(self, paper: Paper, path: str) -> None:
        with paper.client() as client:
            assert_api_error(client.get(path), 404, "not_found")

    def test_a_body_that_is_too_large(self, paper_servers: PaperServers) -> None:
        small = paper_servers.open(max_body_bytes=2_000)
        assert_sdapi_error(small.post(b" " * 3_000, "/sdapi/v1/options"), 413, "too_large")
        with small.client() as client:  # in chunks, whose end nobody knows before

            def chunks() -> Any:
                for _ in range(30):
                    yield b" " * 100

            assert_sdapi_error(client.post("/sdapi/v1/options", content=chunks()), 413, "too_large")

    @pytest.mark.parametrize("body", [b"{", b"[]", b"prompt=x", b"\xff\xfe", b'{"a": NaN}', b"3"])
    def test_a_body_that_is_no_object(self, paper: Paper, body: bytes) -> None:
        assert_sdapi_error(paper.post(body, "/sdapi/v1/options"), 400, "invalid_value")

    def test_no_room_for_the_body(self, paper: Paper) -> None:
        budget = paper.app.state.services.budget
        with budget.hold("somebody else") as hold:
            hold.take(budget.limit)
            answer = paper.post({"image": text(png(scene(8, 8)))}, "/sdapi/v1/png-info")
        assert_sdapi_error(answer, 429, "busy")

    @pytest.mark.parametrize("kind", [kind for kind in ANSWERS if ANSWERS[kind].status in (429, 500, 503, 507)])
    def test_whatever_a_route_raises(
        self, paper: Paper, monkeypatch: pytest.MonkeyPatch, kind: type[DarkroomError]
    ) -> None:
        def fail(*_: object) -> None:
            raise kind("It cannot be done now.")

        monkeypatch.setattr("server.api.sdapi.lists.options.shown", fail)
        with paper.client() as client:
            answer = client.get("/sdapi/v1/options")
        message = assert_sdapi_error(answer, ANSWERS[kind].status, ANSWERS[kind].code)
        assert message.startswith("It cannot be done now.")

    def test_an_accident_says_nothing_of_itself(self, paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr("server.api.sdapi.lists.options.shown", fail)
        with paper.client() as client:
            assert "secret" not in assert_sdapi_error(client.get("/sdapi/v1/options"), 500, "internal_error")


class TestPings:
    def test_sillytaverns(self, paper: Paper) -> None:
        with paper.client() as client:
            assert client.options("/v1/images/generations").status_code == 204  # source sdcpp
            assert client.get("/v1/models").status_code == 200
            assert client.head("/").status_code == 200  # source drawthings
            assert client.get("/sdapi/v1/options").status_code == 200  # source auto

    def test_sillytaverns_menus(self, paper: Paper) -> None:
        """Each of these answers 500 to its user where one of the two is no list."""
        with paper.client(headers={"connection": "close"}) as client:
            for name in ("upscalers", "latent-upscale-modes", "sd-vae", "samplers", "schedulers", "sd-models"):
                assert isinstance(client.get(f"/sdapi/v1/{name}").json(), list)
            assert client.get("/sdapi/v1/sd-modules").status_code == 404

    def test_koboldai_lites(self, paper: Paper) -> None:
        with paper.client() as client:
            titles = [row["title"] for row in client.get("/sdapi/v1/sd-models").json()]
            assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] in titles

    def test_text_generation_webuis(self, paper: Paper) -> None:
        """It raises for any other status, and sends the text "" as the body."""
        for name in ("unload-checkpoint", "reload-checkpoint"):
            assert paper.post(b'""', f"/sdapi/v1/{name}").status_code == 200


def test_none_of_it_is_there_where_the_owner_wants_none(paper_servers: PaperServers) -> None:
    with paper_servers.open(sdapi=False).client() as client:
        for path in ("/sdapi/v1/options", "/sdapi/v1/sd-models", "/sdapi/v1/extra-single-image", "/internal/ping"):
            assert_sdapi_error(client.get(path), 404, "not_found")
            assert_sdapi_error(client.post(path, json={}), 404, "not_found")
