"""Open WebUI draws through our AUTOMATIC1111 routes and through our OpenAI ones, and edits through these."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.pictures import opened, pixels, png, scene
from tests.programs.running import serving
from tests.running import ROOT, Running, start

COMMAND = ROOT / ".programs" / "open-webui" / "bin" / "open-webui"
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "ollama",  # else it wants a sentence encoder of a hub's
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_OPENAI_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "WEBUI_SECRET_KEY": "a secret of this test",
    "ANONYMIZED_TELEMETRY": "false",
}

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if not COMMAND.exists():
        pytest.skip("needs Open WebUI: make openwebui")
    with start(tmp_path_factory.mktemp("data"), keys=True) as running:
        yield running


@pytest.fixture(scope="module")
def webui(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One that runs, and its first user, who is its administrator."""
    folder = tmp_path_factory.mktemp("webui")
    with serving(
        lambda port: [str(COMMAND), "serve", "--host", "127.0.0.1", "--port", str(port)],
        folder=folder,
        alive="/health",
        environment={**SETTINGS, "DATA_DIR": str(folder)},
        within_s=240,
    ) as client:
        user = {"name": "Anna", "email": "anna@example.com", "password": "a passw0rd of this test"}
        token = client.post("/api/v1/auths/signup", json=user).raise_for_status().json()["token"]
        client.headers["authorization"] = f"Bearer {token}"
        yield client


def configure(webui: httpx.Client, **changes: Any) -> None:
    """As the settings page does: read all, change some, write all."""
    config = webui.get("/api/v1/images/config").raise_for_status().json()
    answer = webui.post("/api/v1/images/config/update", json={**config, "ENABLE_IMAGE_GENERATION": True, **changes})
    answer.raise_for_status()


def fetched(webui: httpx.Client, answer: httpx.Response) -> bytes:
    (picture,) = answer.raise_for_status().json()
    return webui.get(picture["url"]).raise_for_status().content


def test_it_draws_through_automatic1111s_routes(webui: httpx.Client, server: Running) -> None:
    configure(
        webui,
        IMAGE_GENERATION_ENGINE="automatic1111",
        AUTOMATIC1111_BASE_URL=f"{server.url}/",
        AUTOMATIC1111_API_AUTH=f"anna:{server.key}",
        IMAGE_GENERATION_MODEL="",
        IMAGE_SIZE="512x512",
        IMAGE_STEPS=20,
        AUTOMATIC1111_PARAMS={"seed": 7, "cfg_scale": 7, "sampler_name": "DDIM"},
    )
    assert webui.get("/api/v1/images/models").json() == [{"id": "darkroom-mini", "name": "darkroom-mini"}]
    data = fetched(webui, webui.post("/api/v1/images/generations", json={"prompt": "a red apple", "n": 1}))
    ours = server.draw(
        model="darkroom-mini",
        prompt="a red apple",
        seed=7,
        size="512x512",
        num_inference_steps=20,
        guidance_scale=7,
        scheduler="ddim",
        response_format="b64_json",
    ).json()
    assert opened(data).tobytes() == opened(base64.b64decode(ours["data"][0]["b64_json"])).tobytes()


def test_it_draws_and_edits_through_openais_routes(webui: httpx.Client, server: Running) -> None:
    own = {"BASE_URL": f"{server.url}/v1", "KEY": server.key}
    configure(
        webui,
        IMAGE_GENERATION_ENGINE="openai",
        IMAGES_OPENAI_API_BASE_URL=own["BASE_URL"],
        IMAGES_OPENAI_API_KEY=own["KEY"],
        IMAGE_GENERATION_MODEL="dall-e-2",
        ENABLE_IMAGE_EDIT=True,
        IMAGE_EDIT_ENGINE="openai",
        IMAGES_EDIT_OPENAI_API_BASE_URL=own["BASE_URL"],
        IMAGES_EDIT_OPENAI_API_KEY=own["KEY"],
        IMAGE_EDIT_MODEL="gpt-image-1",
        IMAGE_EDIT_SIZE="512x512",
    )
    made = fetched(webui, webui.post("/api/v1/images/generations", json={"prompt": "a bear", "n": 1}))
    assert opened(made).size == (512, 512)
    assert pixels(made).std() > 5
    source = "data:image/png;base64," + base64.b64encode(png(scene(512, 512))).decode()
    edited = fetched(webui, webui.post("/api/v1/images/edit", json={"image": source, "prompt": "a bear"}))
    assert opened(edited).size == (512, 512)
    assert (pixels(edited) != pixels(made)).any()


def test_it_sees_that_a_key_is_wrong(webui: httpx.Client, server: Running) -> None:
    configure(webui, IMAGE_GENERATION_ENGINE="automatic1111", AUTOMATIC1111_BASE_URL=server.url)
    configure(webui, AUTOMATIC1111_API_AUTH="anna:dk_nobody")
    assert webui.post("/api/v1/images/generations", json={"prompt": "a bear", "n": 1}).status_code == 400
