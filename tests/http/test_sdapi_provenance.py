"""A1111's API and provenance: what its pictures say of their origin, finished and unfinished; who signs them; and pages
of other origins that ask for them."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.pictures.provenance import EDITED, MADE, PNG_KEYWORD, xmp
from pipelines.plan import Drawing
from pipelines.spec import Encoding, Picture
from tests import upscalers
from tests.certificates import Authority
from tests.paper import Paper, PaperServers
from tests.pictures import opened, png, scene, text
from tests.running import ROOT, Running, eventually
from tests.sdapi import IMG2IMG, SOURCE, TXT2IMG, begin, info, pictures, post, progress

HIRES = {"enable_hr": True, "hr_scale": 2, "width": 64, "height": 64, "steps": 2}
EDIT = {"init_images": [SOURCE], "width": 64, "height": 64, "steps": 2}


def term(picture: bytes) -> str:
    """The digital source type that a picture names; empty: none."""
    said = str(opened(picture).info.get("XML:com.adobe.xmp", ""))
    return said.partition("<Iptc4xmpExt:DigitalSourceType>")[2].partition("<")[0]


@pytest.mark.parametrize("provenance", [True, False])
def test_every_drawing_follows_the_setting(paper_servers: PaperServers, provenance: bool) -> None:
    paper = paper_servers.open(provenance=provenance)
    for path, body in ((TXT2IMG, {}), (TXT2IMG, HIRES), (IMG2IMG, EDIT)):
        assert len(pictures(post(paper, path, body))) == 1
    assert [each.provenance for each in paper.worker.encodings] == [provenance] * 4


@pytest.mark.parametrize(
    ("path", "body", "expected"), [(TXT2IMG, {}, MADE), (TXT2IMG, HIRES, MADE), (IMG2IMG, EDIT, EDITED)]
)
def test_a_picture_says_that_a_model_made_it_and_how(
    server: Running, path: str, body: dict[str, Any], expected: str
) -> None:
    """A second pass begins with a picture of the first, and is no composite of anything else."""
    answer = post(server, path, {"prompt": "a red apple", "steps": 2, "width": 64, "height": 64, **body})
    (picture,) = pictures(answer)
    assert term(picture) == expected
    told = post(server, "/sdapi/v1/png-info", {"image": text(picture)}).json()
    assert told["info"] == info(answer)["infotexts"][0]
    assert told["parameters"]["Seed"] == str(info(answer)["seed"])


@pytest.mark.parametrize("hires", [False, True])
def test_an_unfinished_picture_says_it_too(server: Running, hires: bool) -> None:
    body = {"prompt": "a red apple", "steps": 150, "width": 256, "height": 256, "enable_hr": hires, "hr_scale": 1.5}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, server, TXT2IMG, body)
        eventually(lambda: progress(server)["current_image"])
        post(server, "/sdapi/v1/interrupt")
        answer = waiting.result(60)
    (picture,) = pictures(answer)
    assert term(picture) == MADE
    assert opened(picture).info["parameters"] == info(answer)["infotexts"][0]


def test_a_picture_that_was_only_enlarged_claims_nothing(server: Running) -> None:
    """No model has made it here; what it was made by before is for whoever sends it to say."""
    (drawn,) = pictures(post(server, TXT2IMG, {"prompt": "a red apple", "steps": 2, "width": 64, "height": 64}))
    for source in (drawn, png(scene(32, 32))):
        body = {"image": text(source), "upscaler_1": "Lanczos"}
        enlarged = base64.b64decode(post(server, "/sdapi/v1/extra-single-image", body).json()["image"])
        assert term(enlarged) == ""


# Signed.


@pytest.fixture
def signing(tmp_path: Path) -> dict[str, Any]:
    pytest.importorskip("c2pa", reason="needs c2pa-python: pip install 'darkroom[c2pa]'")
    cert, key = Authority.make().write(tmp_path, "a signer", purpose=ExtendedKeyUsageOID.EMAIL_PROTECTION)
    return {"c2pa_cert": cert, "c2pa_key": key}


def actions(picture: bytes) -> list[str]:
    """What the library's own reader finds was done to a picture, whose signature holds."""
    import c2pa

    reader = c2pa.Reader("image/png", io.BytesIO(picture))
    assert reader.get_validation_state() == "Valid"
    said = json.loads(reader.json())
    assertions = said["manifests"][said["active_manifest"]]["assertions"]
    (data,) = [one["data"] for one in assertions if one["label"].startswith("c2pa.actions")]
    return [action["action"] for action in data["actions"]]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (TXT2IMG, {"batch_size": 2}, ["c2pa.created"]),
        (TXT2IMG, HIRES, ["c2pa.created"]),
        (IMG2IMG, EDIT, ["c2pa.opened", "c2pa.edited"]),
    ],
)
def test_finished_and_unfinished_pictures_are_signed(
    paper_servers: PaperServers, signing: dict[str, Any], path: str, body: dict[str, Any], expected: list[str]
) -> None:
    paper = paper_servers.open(**signing)
    for picture in pictures(post(paper, path, body)):
        assert actions(picture) == expected
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, body, path)
        eventually(lambda: progress(paper)["current_image"])
        post(paper, "/sdapi/v1/interrupt")
        answer = waiting.result(30)
    found = pictures(answer)
    assert len(found) == body.get("batch_size", 1)
    for picture, said in zip(found, info(answer)["infotexts"], strict=True):
        assert actions(picture) == expected
        assert opened(picture).info["parameters"] == said
        assert post(paper, "/sdapi/v1/png-info", {"image": text(picture)}).json()["info"] == said


def test_what_a_network_has_enlarged_is_signed(
    paper_servers: PaperServers, signing: dict[str, Any], tmp_path: Path
) -> None:
    """Of POST /v1/images/upscale it was; here what was answered was written after it had been signed."""
    upscalers.write(tmp_path / "twice.safetensors", upscalers.compact(2))
    models = tmp_path / "models.yaml"
    weights = ROOT / "weights" / "darkroom-mini"
    models.write_text(
        f"default: mini\nupscalers: {{ twice: twice.safetensors }}\nmodels: {{ mini: {{ path: {weights} }} }}\n"
    )
    paper = paper_servers.open(models=models, **signing)

    def by_network(encoding: Encoding, drawing: Drawing, index: int) -> Picture:
        out, said = io.BytesIO(), PngInfo()
        said.add_itxt(PNG_KEYWORD, xmp(drawing.spec))
        scene(16, 16).save(out, "PNG", pnginfo=said)
        return Picture(index, out.getvalue(), "image/png", 16, 16, 0, upscaler="twice")

    paper.worker._paper = by_network  # type: ignore[method-assign]
    for upscaler, expected in (("twice", True), ("Lanczos", False)):
        body = {"image": text(png(scene(8, 8))), "upscaler_1": upscaler}
        enlarged = base64.b64decode(post(paper, "/sdapi/v1/extra-single-image", body).json()["image"])
        assert (term(enlarged) == EDITED) is expected
        assert (b"caBX" in enlarged) is expected  # the chunk of the manifest
        assert not expected or actions(enlarged) == ["c2pa.opened", "c2pa.edited"]


def test_an_unfinished_picture_that_cannot_be_signed_is_not_given_out(
    paper_servers: PaperServers, signing: dict[str, Any]
) -> None:
    paper = paper_servers.open(**signing)
    with ThreadPoolExecutor(1) as pool:
        waiting = begin(pool, paper, {})
        eventually(lambda: progress(paper)["current_image"])
        credentials = paper.app.state.services.credentials
        credentials._chain = b"no certificate"
        post(paper, "/sdapi/v1/interrupt")
        answer = waiting.result(30)
    assert answer.status_code == 500
    assert "could not be signed" in answer.json()["detail"]
    assert "images" not in answer.json()


# Pages: KoboldAI Lite is one.

PAGE = "https://lite.koboldai.net"


@pytest.fixture
def keyed(paper_servers: PaperServers) -> Paper:
    return paper_servers.open(keys=True, cors_origins=PAGE)


@pytest.mark.parametrize("path", [TXT2IMG, "/sdapi/v1/options", "/sdapi/v1/sd-models", "/internal/ping"])
def test_a_page_asks_before_it_sends_a_key(keyed: Paper, path: str) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    with keyed.live.client() as client:
        answer = client.options(path, headers={"origin": PAGE, **asked})
        other = client.options(path, headers={"origin": "https://evil.example", **asked})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, PAGE)
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("status", [200, 400, 401, 404, 413])
def test_a_page_can_read_answers_and_refusals(keyed: Paper, status: int) -> None:
    key = base64.b64encode(f"kobold:{keyed.key}".encode()).decode()
    headers = {"origin": PAGE, "authorization": f"Basic {key}"}
    path, body = TXT2IMG, b'{"tiling": true}'
    if status == 400:
        body = b'{"steps": "many"}'
    elif status == 401:
        headers["authorization"] = "Basic eDp5"
    elif status == 404:
        path = "/sdapi/v1/interrogate"
    elif status == 413:
        body = b" " * (keyed.app.state.services.settings.max_body_bytes + 1)
    with keyed.live.client() as client:
        answer: httpx.Response = client.post(path, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert "x-request-id" in exposed
    if status == 200:
        assert "x-ignored-fields" in exposed
        assert Image.open(io.BytesIO(pictures(answer)[0])).format == "PNG"
    else:
        assert answer.json()["detail"] == answer.json()["error"]["message"]
