"""Forms as programs, browsers and broken connections send them."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.assertions import assert_api_error
from tests.hostile.memory import FORM, form, part
from tests.paper import Paper, PaperServers
from tests.pictures import png, right_half, scene

EDITS = "/v1/images/edits"
PICTURE = png(scene(64, 64))
OTHER = png(scene(48, 48))
MASK = png(right_half(64, 64))
PROMPT = part("prompt", b"x")


def send(paper: Paper, body: bytes, path: str = EDITS) -> httpx.Response:
    with paper.client() as client:
        return client.post(path, content=body, headers=FORM)


def file(name: str, data: bytes, filename: str = "a.png") -> bytes:
    return part(name, data, filename=filename)


def test_a_form_that_was_cut_off_is_refused(paper: Paper) -> None:
    """It was drawn without its last part: without the mask, the whole picture was redrawn."""
    whole = form(PROMPT, file("image", PICTURE), file("mask", MASK))
    for end in (whole.rindex(b"--\r\n"), whole.rindex(b"\r\n--"), whole.rindex(MASK) + 20):
        message = assert_api_error(send(paper, whole[:end]), 400, "invalid_value")["message"]
        assert "closing delimiter" in message
    assert not paper.worker.drawings
    assert send(paper, whole).status_code == 200
    assert paper.worker.drawings[0].spec.mask is not None


@pytest.mark.parametrize("image", ["image", "image[]", "image[0]", "image[1]", "images", "images[]", "images[0]"])
@pytest.mark.parametrize("mask", ["mask", "mask[]", "mask[0]"])
def test_files_are_found_under_the_names_that_programs_use(paper: Paper, image: str, mask: str) -> None:
    """They were ignored: the whole picture was redrawn, or one picture used of two."""
    assert send(paper, form(PROMPT, file(image, PICTURE), file(mask, MASK))).status_code == 200
    spec = paper.worker.drawings[0].spec
    assert spec.mask is not None
    assert len(spec.sources) == 1


@pytest.mark.parametrize("names", [("image", "images[]"), ("image[0]", "image[1]"), ("image[]", "image[]")])
def test_no_picture_of_two_is_lost(paper: Paper, names: tuple[str, str]) -> None:
    answer = send(paper, form(PROMPT, file(names[0], PICTURE), file(names[1], OTHER)))
    assert "2" not in assert_api_error(answer, 400, "invalid_value")["param"]  # this model takes one, and says so
    assert not paper.worker.drawings


@pytest.mark.parametrize("name", ["picture", "image_1", "mask2", "file", "image[x]", "masks"])
def test_a_file_under_any_other_name_is_refused_by_that(paper: Paper, name: str) -> None:
    error = assert_api_error(send(paper, form(PROMPT, file("image", PICTURE), file(name, MASK))), 400, "invalid_value")
    assert name in error["message"]
    assert error["param"] == name
    assert not paper.worker.drawings


def test_a_name_that_cannot_be_shown_is_not_echoed(paper: Paper) -> None:
    answer = send(paper, form(PROMPT, file("image", PICTURE), file("<canary>" * 20, MASK)))
    assert "canary" not in answer.text
    assert_api_error(answer, 400, "invalid_value")


def test_several_masks_are_refused(paper: Paper) -> None:
    body = form(PROMPT, file("image", PICTURE), file("mask", MASK), file("mask[]", MASK))
    assert assert_api_error(send(paper, body), 400, "invalid_value")["param"] == "mask"


def test_a_variation_with_a_mask_is_refused(paper: Paper) -> None:
    body = form(file("image", PICTURE), file("mask", MASK))
    assert assert_api_error(send(paper, body, "/v1/images/variations"), 400, "invalid_value")["param"] == "mask"


def test_empty_slots_of_a_browsers_form_are_absent(paper: Paper) -> None:
    """They counted as pictures: "not a PNG", "edits one picture at a time"."""
    slots = [file(name, b"", "") for name in ("image[]", "mask", "mask", "attachment")] * 3
    assert send(paper, form(PROMPT, file("image", PICTURE), *slots, part("image", b""))).status_code == 200
    assert paper.worker.drawings[0].spec.mask is None
    assert_api_error(send(paper, form(PROMPT, file("image", b"", ""))), 400, "missing_field")


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "utf-7", "unicode_escape", "utf-32", "rot13", "zip", "none-such"]
)
def test_no_character_set_of_a_clients_choice_is_decoded(paper: Paper, charset: str) -> None:
    """One field of 1 MB, said to be punycode, stopped the whole front for eight minutes."""
    named = charset.encode()
    head = b"--a-boundary\r\nContent-Disposition: form-data; name=user; name*=" + named + b"''x\r\n"
    body = head + b"Content-Type: text/plain; charset=" + named + b"\r\n\r\n" + b"a-" * 400_000 + b"\r\n"
    started = time.monotonic()
    answer = send(paper, body + form(PROMPT, file("image", PICTURE)))
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - started < 10


def test_a_field_that_is_not_utf8_is_named(paper: Paper) -> None:
    body = form(part("prompt", b"caf\xe9"), file("image", PICTURE))
    assert assert_api_error(send(paper, body), 400, "invalid_value")["param"] == "prompt"
    assert send(paper, form(part("prompt", "café".encode()), file("image", PICTURE))).status_code == 200
    assert paper.worker.drawings[-1].spec.prompt == "café"


def test_uploads_need_no_temporary_folder(paper_servers: PaperServers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or missing /tmp made every upload over 1 MiB a 500."""
    monkeypatch.setattr("tempfile.tempdir", "/none/such")
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    large = png(Image.fromarray(noise))
    assert len(large) > 1024 * 1024
    answer = send(paper_servers.open(), form(PROMPT, file("image", large), part("user", b"x" * 1_000_000)))
    assert answer.status_code == 200, answer.text


def test_a_body_without_room_is_429_and_comes_later(paper_servers: PaperServers) -> None:
    """Whatever was sent at once was taken, until the machine had no memory left."""
    paper = paper_servers.open(max_body_bytes=1_000_000, max_held_bytes=2_000_000)
    budget = paper.app.state.services.budget
    body: dict[str, Any] = {"prompt": "x", "user": base64.b64encode(bytes(600_000)).decode()}
    with budget.hold("somebody") as hold:
        hold.take(1_900_000)
        answer = paper.post(body)
        assert_api_error(answer, 429, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-should-retry"] == "true"
        with paper.live.client() as client:
            assert client.get("/livez").status_code == 200
    assert paper.post({"prompt": "x"}).status_code == 200
    assert budget.held <= 4096  # what is kept for repeats, at the most


@pytest.mark.parametrize("name", ["mask", "image", "mask[]", "images"])
@pytest.mark.parametrize("blank", ["", " "])
def test_an_empty_text_where_a_file_goes_is_absent(paper: Paper, name: str, blank: str) -> None:
    """Programs that send every field they know were answered that the mask must be an uploaded file."""
    answer = send(paper, form(PROMPT, file("image", png(scene(40, 40))), part(name, blank.encode())))
    assert answer.status_code == 200, answer.text


def test_a_field_that_comes_twice_and_differs_is_refused(paper: Paper) -> None:
    """Only the last one counted: of two prompts one was not drawn."""
    whole = form(PROMPT, part("prompt", b"y"), file("image", PICTURE))
    assert assert_api_error(send(paper, whole), 400, "invalid_value")["param"] == "prompt"
    assert not paper.worker.drawings
    for twice in (part("n", b"1"), part("n", b"")):
        answer = send(paper, form(PROMPT, part("n", b"1"), twice, file("image", PICTURE)))
        assert answer.status_code == 200


def test_a_field_with_the_brackets_of_php_is_read(paper: Paper) -> None:
    """``n[]`` was dropped, and not even told: brackets cannot stand in a header."""
    answer = send(paper, form(PROMPT, part("n[]", b"2"), file("image", PICTURE)))
    assert len(answer.json()["data"]) == 2


def test_an_edit_in_one_step_is_not_refused_for_a_strength_that_nobody_sent(paper: Paper) -> None:
    """``steps: 1`` was 400, "strength must be at least 1/1", although the request had no strength."""
    steps = part("steps", b"1")
    assert send(paper, form(PROMPT, steps, file("image", PICTURE))).status_code == 200
    assert paper.worker.drawings[0].spec.strength == 1
    own = send(paper, form(PROMPT, steps, part("denoise", b"0.5"), file("image", PICTURE)))
    assert assert_api_error(own, 400, "invalid_value")["param"] == "denoise"


def encoded(name: str, encoding: str, data: bytes, filename: str | None = None) -> bytes:
    head, blank, tail = part(name, data, filename=filename).partition(b"\r\n\r\n")
    return head + f"\r\nContent-Transfer-Encoding: {encoding}".encode() + blank + tail


def test_parts_are_decoded_as_they_say(paper: Paper) -> None:
    """Content-Transfer-Encoding was ignored: the prompt "eA==" was drawn, and a picture was "not a PNG"."""
    lines = base64.encodebytes
    body = form(
        encoded("prompt", "base64", lines("é a".encode())),
        encoded("negative_prompt", "quoted-printable", b"a=C3=A9=\r\n b"),
        encoded("image", "BASE64", lines(PICTURE).replace(b"\n", b"\r\n"), "a.png"),
        encoded("mask", "quoted-printable", binascii.b2a_qp(MASK, istext=False), "b.png"),
    )
    assert send(paper, body).status_code == 200
    plain = form(part("prompt", "é a".encode()), part("negative_prompt", "aé b".encode()), file("image", PICTURE),
                 file("mask", MASK))  # fmt: skip
    assert send(paper, plain).status_code == 200
    one, other = (drawing.spec for drawing in paper.worker.drawings)
    assert one == other
    for name, filename in (("image", "a.png"), ("seed", None)):
        answer = send(paper, form(PROMPT, file("image", PICTURE), encoded(name, "base64", b"?!", filename)))
        error = assert_api_error(answer, 400, "invalid_value")
        assert error["param"] == name
        assert "base64, as its Content-Transfer-Encoding says" in error["message"]


def test_a_part_in_base64_has_the_limits_of_its_data(paper_servers: PaperServers) -> None:
    paper = paper_servers.open(max_image_bytes=100_000)
    fits, large = (PICTURE + bytes(size - len(PICTURE)) for size in (100_000, 100_001))
    for data, status in ((fits, 200), (large, 413), (large * 2, 413)):
        answer = send(paper, form(PROMPT, encoded("image", "base64", base64.encodebytes(data), "a")))
        assert answer.status_code == status, answer.text


def test_a_picture_without_a_file_name_is_told_what_it_lacks(paper: Paper) -> None:
    for name, param in (("image", "image"), ("image[]", "image"), ("mask", "mask")):
        answer = send(paper, form(PROMPT, file("image", PICTURE), part(name, PICTURE)))
        error = assert_api_error(answer, 400, "invalid_value")
        assert error["param"] == param
        assert "has no filename" in error["message"]


def test_an_empty_file_is_said_to_be_empty(paper: Paper) -> None:
    """It was "not a PNG, JPEG or WebP file"."""
    for body, param in ((file("image", b""), "image"), (file("image", PICTURE) + file("mask", b""), "mask")):
        error = assert_api_error(send(paper, form(PROMPT, body)), 400, "invalid_image")
        assert error["param"] == param
        assert "is empty" in error["message"]
