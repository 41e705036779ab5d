"""The certificate that the server shows: its two files, what may be wrong with them, and their being read again.

Knows PEM files and TLS contexts; knows nothing of connections. A pair is tried before it is taken, by a handshake in
memory. Files are looked at again and again, as no notification crosses a bind mount; a pair that cannot be used is
named in the log, and the one before stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from server.catalog.watch import Stamps, file_stamp, has_settled
from server.errors import ConfigError
from server.settings import Settings

LOOK_EVERY_S = 1.0
SOON_S: Final = 14 * 86400  # before its end a certificate should have been renewed
REMIND_EVERY_S = 86400.0
MAX_BYTES = 1024 * 1024  # of a file; a chain of ten has 20 kB

CERTIFICATE_NAME: Final = "DARKROOM_TLS_CERT (--tls-cert)"
KEY_NAME: Final = "DARKROOM_TLS_KEY (--tls-key)"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN (?P<kind>[A-Z ]*)PRIVATE KEY-----")
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID
_TRUSTED = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # by itself, whoever has signed it

log = logging.getLogger("darkroom.edge")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, ready for handshakes."""

    context: ssl.SSLContext
    expires: float | None  # unix seconds; None where clients would refuse it, so that it was not told
    warnings: tuple[str, ...]  # it is served, and should not be as it is


class Certificate:
    """The pair of one server. Raises ConfigError for one that cannot be served."""

    def __init__(self, certificate: Path, key: Path, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._certificate, self._key = certificate, key
        self._look_every_s = look_every_s
        self._known = self._stamps()
        self._pair = read_pair(certificate, key)
        self._warn()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._pair.context

    async def watch(self) -> None:
        """Read the files again when they have changed, until cancelled."""
        before = self._known
        while True:
            await asyncio.sleep(self._look_every_s)
            now = await asyncio.to_thread(self._stamps)
            if has_settled(self._known, before, now):  # the two are seldom replaced at one instant
                self._known = now
                await asyncio.to_thread(self._read_again)
            elif time.monotonic() - self._warned_s >= REMIND_EVERY_S:
                self._warn()
            before = now

    def _stamps(self) -> Stamps:
        return {path: file_stamp(path) for path in (self._certificate, self._key)}

    def _read_again(self) -> None:
        try:
            self._pair = read_pair(self._certificate, self._key)
        except ConfigError as error:
            log.error("new certificate not taken, the one before is still shown", extra={"reason": str(error)})
            return
        until = None if self._pair.expires is None else time.strftime("%Y-%m-%d", time.gmtime(self._pair.expires))
        log.info("new certificate taken", extra={"expires": until})
        self._warn()

    def _warn(self) -> None:
        self._warned_s = time.monotonic()
        for warning in (*self._pair.warnings, *soon(self._pair.expires)):
            log.warning("certificate", extra={"reason": warning})


def open_certificate(settings: Settings) -> Certificate | None:
    """What the settings name; None where they name none. Raises ConfigError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def read_pair(certificate: Path, key: Path) -> Pair:
    """Read both files and try them. Raises ConfigError that says which is wrong, and how."""
    chain = _CERTIFICATE.findall(read_pem(certificate, CERTIFICATE_NAME))
    secret = read_pem(key, KEY_NAME)
    found = _KEY.search(secret)
    if not chain:
        swapped = found is None and _CERTIFICATE.search(secret) is not None
        raise _wrong(
            CERTIFICATE_NAME,
            certificate,
            "has no certificate in PEM (-----BEGIN CERTIFICATE-----)"
            + ("; the two settings seem to have each other's file" if swapped else ""),
        )
    if found is None:
        raise _wrong(KEY_NAME, key, "has no private key in PEM (-----BEGIN PRIVATE KEY-----)")
    if "ENCRYPTED" in found["kind"] or "Proc-Type: 4,ENCRYPTED" in secret:
        raise _wrong(
            KEY_NAME,
            key,
            "is encrypted, and a server has nobody to ask for the passphrase: write it without one"
            " (openssl pkey -in FILE -out NEW) for this user's eyes alone",
        )
    for number, pem in enumerate(chain, 1):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError) as error:
            which = "its certificate" if len(chain) == 1 else f"certificate {number} of {len(chain)}"
            raise _wrong(CERTIFICATE_NAME, certificate, f"{which} cannot be read: {_reason(error)}") from None
    context = _context(certificate, key)
    expires, problem = _try(context, chain[0])
    warnings = [warning for warning in (problem, readable_by_others(key)) if warning]
    return Pair(context, expires, tuple(warnings))


def trusting(chain: str) -> ssl.SSLContext:
    """A client's context that trusts the first certificate of ``chain`` (PEM) and no other, under any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= _TRUSTED
    context.load_verify_locations(cadata=_CERTIFICATE.findall(chain)[0])
    return context


def soon(expires: float | None) -> tuple[str, ...]:
    """A warning, where a certificate will have expired within ``SOON_S``, or has by now."""
    if expires is None or (left_s := expires - time.time()) > SOON_S:
        return ()
    return ("has expired: clients refuse it" if left_s <= 0 else f"expires in {left_s / 86400:.0f} days",)


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH" or reason == "KEY_TYPE_MISMATCH":
            raise _wrong(KEY_NAME, key, f"is not the key of the certificate in {certificate}") from None
        if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            raise _wrong(CERTIFICATE_NAME, certificate, f"is too weak for TLS: {_reason(error)}") from None
        raise _wrong(KEY_NAME, key, f"its private key cannot be read: {_reason(error)}") from None
    return context


def _try(context: ssl.SSLContext, certificate: str) -> tuple[float | None, str | None]:
    """One handshake in memory: until when it holds (unix seconds) and why clients would refuse it, if they would.

    Raises ConfigError where no client could shake hands.
    """
    client = trusting(certificate)
    try:
        shown = _handshake(context, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return None, "has expired: clients refuse it"
        if error.verify_code == _NOT_YET:
            return None, "does not hold yet: clients refuse it (or this machine's clock is wrong)"
        return None, f"clients may refuse it: {error.verify_message}"
    except ssl.SSLError as error:
        raise ConfigError(f"{CERTIFICATE_NAME}: no handshake can be made with it: {_reason(error)}") from None
    return float(ssl.cert_time_to_seconds(shown["notAfter"])), None


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """What the client is shown. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    asked = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, asked) * 3:  # one flight more where the server asks for another kind of key share
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(asking.getpeercert() or {})


def read_pem(path: Path, name: str) -> str:
    """The text of a PEM file, of a setting of this name. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _wrong(name, path, f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise _wrong(name, path, "is no PEM file: it has more than a mebibyte")
    return content.decode("ascii", errors="replace")  # text beside the blocks may be anything


def readable_by_others(key: Path) -> str | None:
    """A warning, where others than its owner can read a private key."""
    if os.name == "nt":
        return None
    mode = stat.S_IMODE(key.stat().st_mode)
    if not mode & (stat.S_IRGRP | stat.S_IROTH):
        return None
    whom = "everybody" if mode & stat.S_IROTH else "its group"
    return f"the private key {key} can be read by {whom} (mode {mode:04o}): chmod 600"


def _no_passphrase() -> str:
    raise ValueError("it is encrypted")  # or OpenSSL would ask on the terminal, and the start would wait for ever


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(error)


def _wrong(name: str, path: Path, what: str) -> ConfigError:
    return ConfigError(f"{name} = {path}: {what}")
