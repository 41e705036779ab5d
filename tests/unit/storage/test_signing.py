"""Links: whole, altered, expired; and the one secret behind them."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from server.errors import ConfigError, LinkRefused
from server.storage.signing import Signer, load_or_create_secret

NAME = "0123456789abcdef0123456789abcdef.png"
SIGNER = Signer(b"k" * 32)


def test_a_link_carries_its_own_right_until_it_expires() -> None:
    url = urlsplit(SIGNER.url_path(NAME, 2_000_000_000))
    query = parse_qs(url.query, strict_parsing=True)
    assert url.path == f"/files/{NAME}"
    expires, signature = int(query["expires"][0]), query["signature"][0]
    SIGNER.verify(NAME, expires, signature, now=1_999_999_999.9)
    for now in (2_000_000_000.0, 2_000_086_400.0):
        with pytest.raises(LinkRefused, match="expired"):
            SIGNER.verify(NAME, expires, signature, now=now)


def test_any_altered_byte_is_refused() -> None:
    signature = SIGNER.sign(NAME, 2_000_000_000)
    altered = [
        signature[:at] + ("A" if byte != "A" else "B") + signature[at + 1 :] for at, byte in enumerate(signature)
    ]
    strange = [
        "",
        signature[:-1],
        signature + "=",
        signature.lower(),
        signature + "\n",
        "é" * 43,
        "\ud800",
        "\0",
    ]
    for wrong in altered + strange:
        with pytest.raises(LinkRefused, match="altered"):
            SIGNER.verify(NAME, 2_000_000_000, wrong, now=0)


@pytest.mark.parametrize(
    "expires",
    [1_999_999_999, 2_000_000_001, 0, -1, 2**53, -(10**5000), 10**5000],
    ids=lambda value: value % 1000,
)
def test_an_altered_expiry_is_refused_even_when_it_has_passed(expires: int) -> None:
    with pytest.raises(LinkRefused, match="altered"):
        SIGNER.verify(NAME, expires, SIGNER.sign(NAME, 2_000_000_000), now=2_100_000_000)


@pytest.mark.parametrize("name", ["f" + NAME[1:], NAME + "\n", NAME.upper(), "", "../" + NAME, "\ud800"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(LinkRefused, match="altered"):
        SIGNER.verify(name, 2_000_000_000, SIGNER.sign(NAME, 2_000_000_000), now=0)


def test_another_secret_signs_otherwise_and_a_short_one_not_at_all() -> None:
    with pytest.raises(LinkRefused):
        SIGNER.verify(NAME, 2_000_000_000, Signer(b"K" * 32).sign(NAME, 2_000_000_000), now=0)
    with pytest.raises(ConfigError):
        Signer(b"short")


def test_secret_is_made_once_and_only_for_us(tmp_path: Path) -> None:
    path = tmp_path / "new" / "signing.key"
    secret = load_or_create_secret(path)
    assert len(secret) >= 32
    assert load_or_create_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["signing.key"]


def test_processes_that_start_together_get_the_same_secret(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from server.storage.signing import load_or_create_secret as load;"
        "sys.stdin.read(1); print(load(pathlib.Path(sys.argv[1])).hex())"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(tmp_path / "signing.key")]
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    for process in started:  # all have imported what they need, or nearly, when the first is let go
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    secrets = {process.communicate()[0] for process in started}
    assert len(secrets) == 1
    assert len(secrets.pop().strip()) == 128
    assert len(list(tmp_path.iterdir())) == 1


def test_loser_of_the_race_takes_the_winners_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "signing.key"
    winner = load_or_create_secret(path)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # it looked before the winner was done
    assert load_or_create_secret(path) == winner
    assert len(list(tmp_path.iterdir())) == 1


def test_unusable_secret_stops_at_the_door(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "empty", tmp_path, tmp_path / "file" / "signing.key"):
        with pytest.raises(ConfigError, match=str(tmp_path)):
            load_or_create_secret(path)
