"""Certificates that tests sign themselves."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
PKCS8 = serialization.PrivateFormat.PKCS8
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


@dataclass
class Authority:
    """An authority of one's own: a key, and the certificate that clients are to trust."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder("a test's authority", "a test's authority", key, datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    def sign(
        self,
        *names: str,
        lasts: datetime.timedelta = 30 * DAY,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> tuple[bytes, bytes]:
        """A certificate for these host names or addresses (with the authority's behind it), and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(names[0], "a test's authority", key, lasts)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return leaf.public_bytes(PEM) + self.pem, key.private_bytes(PEM, PKCS8, serialization.NoEncryption())

    def write(self, folder: Path, *names: str, **options: object) -> tuple[Path, Path]:
        """The same, in files of this folder that only their owner can read."""
        chain, key = self.sign(*names, **options)  # type: ignore[arg-type]
        (folder / "cert.pem").write_bytes(chain)
        (folder / "key.pem").touch(mode=0o600)
        (folder / "key.pem").write_bytes(key)
        return folder / "cert.pem", folder / "key.pem"


def encrypted(key: bytes) -> bytes:
    """The same private key behind a passphrase."""
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"a passphrase"))


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, lasts: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 40 * DAY)
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a test"), x509.NameAttribute(NameOID.COMMON_NAME, text)]
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
