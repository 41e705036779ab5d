"""Signed pictures: what C2PA's own reader finds in them, and certificates that cannot sign."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from pipelines.pictures.provenance import EDITED, MADE
from pipelines.spec import ImageSpec, Picture, Pixels
from server.api.credentials import Credentials, open_credentials
from server.errors import ConfigError, ServerFault
from server.settings import Settings, read_settings
from tests.assertions import assert_api_error
from tests.certificates import DAY, Authority, encrypted
from tests.paper import PaperServers
from tests.running import eventually
from tests.unit.commands.command_line import run

SPEC = ImageSpec("m", "a secret prompt", 64, 48, 64, 48, 8, 2.5)
EDIT = ImageSpec("m", "x", 64, 48, 64, 48, 8, 2.5, sources=(Pixels(1, 1, "RGB", b"\0\0\0"),), strength=0.5)
CERT, KEY = r"DARKROOM_C2PA_CERT \(--c2pa-cert\)", r"DARKROOM_C2PA_KEY \(--c2pa-key\)"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    return authority.write(tmp_path, "a signer", purpose=ExtendedKeyUsageOID.EMAIL_PROTECTION)


@pytest.fixture
def c2pa() -> Any:
    return pytest.importorskip("c2pa", reason="needs c2pa-python: pip install 'darkroom[c2pa]'")


def drawn(format_: str) -> Picture:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(out, format_.upper())
    return Picture(0, out.getvalue(), f"image/{format_}", 64, 48, 7)


def read(c2pa: Any, data: bytes, mime: str) -> tuple[str, dict[str, Any], list[str]]:
    """What the library's own reader says: the state, the manifest, and codes of what is wrong."""
    reader = c2pa.Reader(mime, io.BytesIO(data))
    said = json.loads(reader.json())
    failures = said["validation_results"]["activeManifest"]["failure"]
    return reader.get_validation_state(), said["manifests"][said["active_manifest"]], [one["code"] for one in failures]


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(
    ("spec", "actions", "term"), [(SPEC, ["c2pa.created"], MADE), (EDIT, ["c2pa.opened", "c2pa.edited"], EDITED)]
)
def test_its_own_reader_finds_who_made_a_picture_and_how(
    c2pa: Any, files: tuple[Path, Path], format_: str, spec: ImageSpec, actions: list[str], term: str
) -> None:
    picture = drawn(format_)
    (signed,) = asyncio.run(Credentials(*files).sign((picture,), edited=bool(spec.sources)))
    state, manifest, failures = read(c2pa, signed.data, picture.mime)
    # Nobody has put a test's authority on a list; all else is as it should be.
    assert (state, failures) == ("Valid", ["signingCredential.untrusted"])
    assert manifest["signature_info"]["common_name"] == "a signer"
    (data,) = [one["data"] for one in manifest["assertions"] if one["label"].startswith("c2pa.actions")]
    assert [action["action"] for action in data["actions"]] == actions
    assert data["actions"][-1]["digitalSourceType"] == term
    assert manifest["claim_generator_info"][0]["name"] == "Darkroom"
    assert b"secret" not in signed.data
    before, after = (Image.open(io.BytesIO(data)) for data in (picture.data, signed.data))
    assert before.tobytes() == after.tobytes()


def test_a_changed_picture_is_found_out(c2pa: Any, files: tuple[Path, Path]) -> None:
    (signed,) = asyncio.run(Credentials(*files).sign((drawn("jpeg"),), edited=False))
    changed = signed.data[:-40] + bytes([signed.data[-40] ^ 1]) + signed.data[-39:]
    state, _, failures = read(c2pa, changed, "image/jpeg")
    assert state == "Invalid"
    assert "assertion.dataHash.mismatch" in failures


def test_pictures_are_signed_at_once(c2pa: Any, files: tuple[Path, Path]) -> None:
    """The library lets one thread at a time have a signer."""
    credentials = Credentials(*files)

    async def many() -> list[tuple[Picture, ...]]:
        return await asyncio.gather(*(credentials.sign((drawn("png"), drawn("webp")), edited=False) for _ in range(8)))

    for one, other in asyncio.run(many()):
        assert read(c2pa, one.data, "image/png")[0] == read(c2pa, other.data, "image/webp")[0] == "Valid"


@pytest.mark.usefixtures("c2pa")
def test_what_cannot_be_signed_is_not_given_out(files: tuple[Path, Path]) -> None:
    credentials = Credentials(*files)
    broken = Picture(0, b"no picture", "image/png", 1, 1, 7)
    with pytest.raises(ServerFault, match="could not be signed"):
        asyncio.run(credentials.sign((broken,), edited=False))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda cert, key, _: cert.unlink(), f"{CERT} = .*cert.pem: cannot be read: No such file"),
        (lambda cert, key, _: key.unlink(), f"{KEY} = .*key.pem: cannot be read: No such file"),
        (lambda cert, key, _: key.write_text("nonsense"), f"{KEY} = .*has no private key in PEM"),
        (lambda cert, key, _: key.write_bytes(encrypted(key.read_bytes())), f"{KEY} = .*is encrypted"),
        (lambda cert, key, _: cert.write_text("nonsense"), f"{CERT} = .*pictures cannot be signed"),
        (lambda cert, key, a: key.write_bytes(a.sign("x")[1]), f"{CERT} = .*pictures cannot be signed"),
        (lambda cert, key, a: a.write(cert.parent, "x", lasts=-DAY, purpose=ExtendedKeyUsageOID.EMAIL_PROTECTION),
         f"{CERT} = .*pictures cannot be signed"),
        (lambda cert, key, a: a.write(cert.parent, "x"), f"{CERT} = .*pictures cannot be signed"),  # one for HTTPS
    ],
)  # fmt: skip
@pytest.mark.usefixtures("c2pa")
def test_a_pair_that_cannot_sign_stops_the_start(
    files: tuple[Path, Path], authority: Authority, damage: Any, says: str
) -> None:
    damage(*files, authority)
    with pytest.raises(ConfigError, match=says) as refused:
        Credentials(*files)
    assert "BEGIN" not in str(refused.value).replace("-----BEGIN PRIVATE KEY-----", "")


@pytest.mark.usefixtures("c2pa")
def test_a_kind_of_key_that_c2pa_does_not_know_is_named(files: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives import serialization

    key = ec.generate_private_key(ec.SECP256K1())
    none = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none))
    with pytest.raises(ConfigError, match=f"{KEY} = .*P-256, P-384 or P-521"):
        Credentials(*files)


def test_without_the_package_the_extra_is_named(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ConfigError, match=r"pip install 'darkroom\[c2pa\]'"):
        open_credentials(Settings(c2pa_cert=files[0], c2pa_key=files[1]))


def test_check_says_that_the_package_is_missing(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    monkeypatch.setenv("DARKROOM_C2PA_CERT", str(files[0]))
    monkeypatch.setenv("DARKROOM_C2PA_KEY", str(files[1]))
    models = tmp_path / "models.yaml"
    models.write_text("default: a\nmodels:\n  a: { path: nowhere }\n")
    assert run("check", "--models", str(models)) == 1
    assert "darkroom[c2pa]" in capsys.readouterr().err


def test_settings_that_contradict_each_other_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"DARKROOM_PROVENANCE.*false"):
        open_credentials(Settings(c2pa_cert=files[0], c2pa_key=files[1], provenance=False))
    with pytest.raises(ConfigError, match=r"DARKROOM_C2PA_CERT .*is set and DARKROOM_C2PA_KEY .*is not"):
        read_settings(c2pa_cert=files[0])
    assert open_credentials(Settings()) is None


def test_answers_carry_signed_pictures_alone(c2pa: Any, files: tuple[Path, Path], paper_servers: PaperServers) -> None:
    paper = paper_servers.open(c2pa_cert=files[0], c2pa_key=files[1])
    inline = paper.post({"prompt": "x", "n": 2, "response_format": "b64_json"}).json()["data"]
    kept = paper.post({"prompt": "x"}).json()["data"]
    with paper.client() as client:
        pictures = [base64.b64decode(one["b64_json"]) for one in inline] + [client.get(kept[0]["url"]).content]
    assert [read(c2pa, data, "image/png")[0] for data in pictures] == ["Valid"] * 3

    row = paper.post({"prompt": "x"}, headers={"prefer": "respond-async"}).json()
    with paper.client() as client:
        job = f"/v1/images/jobs/{row['id']}"
        fetched = eventually(lambda: client.get(job).json().get("result"), within_s=20)
        assert read(c2pa, client.get(fetched["data"][0]["url"]).content, "image/png")[0] == "Valid", "kept for later"

    source = inline[0]["b64_json"]  # one of ours, signed, is a source like any other
    edit = paper.post({"prompt": "x", "image": source, "response_format": "b64_json", "output_format": "jpeg"}).json()
    _, manifest, _ = read(c2pa, base64.b64decode(edit["data"][0]["b64_json"]), "image/jpeg")
    assert manifest["assertions"][0]["data"]["actions"][-1]["action"] == "c2pa.edited"


@pytest.mark.usefixtures("c2pa")
def test_a_picture_that_cannot_be_signed_is_a_failure_and_the_next_is_not(
    files: tuple[Path, Path], paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = paper_servers.open(c2pa_cert=files[0], c2pa_key=files[1], queue_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(paper.worker, "_paper", lambda *_: Picture(0, b"no picture", "image/png", 1, 1, 7))
        error = assert_api_error(paper.post({"prompt": "x"}), 500, "internal_error")
        assert "could not be signed" in error["message"]
    assert paper.post({"prompt": "x"}).status_code == 200
