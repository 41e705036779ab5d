"""The two files of HTTPS: what is wrong with which, what is only worth a warning, and their being read again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from server.edge.certificate import MAX_BYTES, Certificate, read_pair, soon
from server.errors import ConfigError
from tests.certificates import DAY, DER, Authority, encrypted
from tests.running import eventually

CERT, KEY = r"DARKROOM_TLS_CERT \(--tls-cert\)", r"DARKROOM_TLS_KEY \(--tls-key\)"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    return authority.write(tmp_path, "pictures.example", "127.0.0.1")


def refused(files: tuple[Path, Path], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        read_pair(*files)
    assert "BEGIN CERTIFICATE-----\n" not in str(error.value)


def test_a_good_pair_is_taken_without_a_word(files: tuple[Path, Path]) -> None:
    pair = read_pair(*files)
    assert pair.warnings == ()
    assert pair.context.minimum_version is ssl.TLSVersion.TLSv1_2
    leaf = x509.load_pem_x509_certificate(files[0].read_bytes())
    assert pair.expires == leaf.not_valid_after_utc.timestamp()


def test_both_in_one_file_and_text_around_them(files: tuple[Path, Path]) -> None:
    cert, key = files
    key.write_bytes("Schlüssel\n".encode() + key.read_bytes() + b"subject=x\n" + cert.read_bytes())
    assert read_pair(key, key).warnings == ()


def test_what_is_missing_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = files
    refused((tmp_path / "no.pem", key), f"{CERT} = .*no.pem: cannot be read: No such file")
    refused((cert, tmp_path / "no.pem"), f"{KEY} = .*no.pem: cannot be read: No such file")
    refused((tmp_path, key), f"{CERT} = .*: cannot be read: Is a directory")


def test_what_is_no_pem_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = files
    other = tmp_path / "other"
    leaf = x509.load_pem_x509_certificate(cert.read_bytes())
    for content in (b"", b"hello", b"\0" * 100, leaf.public_bytes(DER)):
        other.write_bytes(content)
        refused((other, key), f"{CERT} = .*other: has no certificate in PEM")
        refused((cert, other), f"{KEY} = .*other: has no private key in PEM")
    other.write_bytes(b"x" * (MAX_BYTES + 1))
    refused((other, key), "more than a mebibyte")


def test_exchanged_files_are_recognised(files: tuple[Path, Path]) -> None:
    refused((files[1], files[0]), f"{CERT} = .*key.pem.*each other's file")


def test_damaged_files_are_named(files: tuple[Path, Path]) -> None:
    cert, key = files
    good_cert, good_key = cert.read_text(), key.read_text()
    lines = good_cert.splitlines()
    cert.write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))
    refused(files, f"{CERT} = .*: certificate 1 of 2 cannot be read")
    cert.write_text(good_cert)
    lines = good_key.splitlines()
    key.write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))
    refused(files, f"{KEY} = .*: its private key cannot be read")


def test_a_key_of_another_certificate_is_named(files: tuple[Path, Path], authority: Authority) -> None:
    files[1].write_bytes(authority.sign("pictures.example")[1])
    refused(files, f"{KEY} = .*key.pem: is not the key of the certificate in .*cert.pem")


@pytest.mark.timeout(20)
def test_a_passphrase_is_asked_of_nobody(files: tuple[Path, Path]) -> None:
    """OpenSSL asks on the terminal, and the start waits for ever."""
    files[1].write_bytes(encrypted(files[1].read_bytes()))
    refused(files, f"{KEY} = .*: is encrypted.*without one")


def test_a_certificate_that_has_expired_is_served_with_a_warning(authority: Authority, tmp_path: Path) -> None:
    pair = read_pair(*authority.write(tmp_path, "x.example", lasts=-DAY))
    assert pair.warnings == ("has expired: clients refuse it",)


def test_a_certificate_for_clients_is_served_with_a_warning(authority: Authority, tmp_path: Path) -> None:
    pair = read_pair(*authority.write(tmp_path, "x.example", purpose=ExtendedKeyUsageOID.CLIENT_AUTH))
    (warning,) = pair.warnings
    assert warning.startswith("clients may refuse it: ")
    assert "purpose" in warning


@pytest.mark.parametrize(("lasts", "says"), [(20, ()), (3, ("expires in 3 days",))])
def test_the_end_of_a_certificate_is_told_before_it_comes(
    authority: Authority, tmp_path: Path, lasts: int, says: tuple[str, ...]
) -> None:
    pair = read_pair(*authority.write(tmp_path, "x.example", lasts=datetime.timedelta(days=lasts)))
    assert soon(pair.expires) == says


@pytest.mark.parametrize(("mode", "whom"), [(0o640, "its group"), (0o604, "everybody"), (0o400, None), (0o620, None)])
def test_a_key_that_others_can_read_is_served_with_a_warning(
    files: tuple[Path, Path], mode: int, whom: str | None
) -> None:
    files[1].chmod(mode)
    warnings = read_pair(*files).warnings
    assert [f"{whom} (mode {mode:04o})" in warning for warning in warnings] == ([] if whom is None else [True])


def replace(path: Path, content: bytes) -> None:
    """As certbot and Kubernetes do it: another file in its place."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)


def test_changed_files_are_read_again_and_a_bad_pair_is_not_taken(
    files: tuple[Path, Path], authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "darkroom.edge")
    certificate = Certificate(*files, look_every_s=0.02)
    first = certificate.context

    async def changes() -> None:
        watch = asyncio.create_task(certificate.watch())
        try:
            await asyncio.sleep(0.1)
            assert certificate.context is first  # nothing has changed

            chain, key = authority.sign("new.example")
            replace(files[0], chain)  # the key comes later, too late: the two do not fit
            await asyncio.to_thread(eventually, lambda: "not taken" in caplog.text, within_s=20)
            assert certificate.context is first
            assert "is not the key of the certificate" in caplog.records[-1].reason  # type: ignore[attr-defined]
            assert len(caplog.records) == 1  # once, not at every look
            replace(files[1], key)
            await asyncio.to_thread(eventually, lambda: certificate.context is not first, within_s=20)

            taken = certificate.context
            files[0].unlink()
            await asyncio.to_thread(eventually, lambda: len(caplog.records) == 3, within_s=20)
            assert "cannot be read" in caplog.records[-1].reason  # type: ignore[attr-defined]
            assert certificate.context is taken
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    asyncio.run(changes())
    assert [record.message for record in caplog.records][1] == "new certificate taken"
