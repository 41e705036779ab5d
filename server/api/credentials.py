"""Content credentials: finished pictures, signed as C2PA has it with the owner's certificate.

Knows c2pa-python, which the extra ``c2pa`` brings, and what to say of a picture; knows nothing of stores and answers.
Signing is done in the front, on threads: the private key stays in one process, whatever draws, and no step waits for
it. A picture is signed before anything else sees its bytes. Nothing is asked of the network: there is no time-stamping
authority, and no manifest is fetched.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import msgspec
from PIL import Image

from pipelines.pictures.provenance import EDITED, MADE
from pipelines.spec import Picture
from server import __version__
from server.edge.certificate import read_pem, readable_by_others
from server.errors import ConfigError, ServerFault
from server.settings import Settings

CERTIFICATE_NAME: Final = "DARKROOM_C2PA_CERT (--c2pa-cert)"
KEY_NAME: Final = "DARKROOM_C2PA_KEY (--c2pa-key)"
_AGENT: Final = {"name": "Darkroom", "version": __version__}
_SOURCE: Final = "source"
# Thumbnails would be a second picture in each file, and nothing of ours is on the network.
_LIBRARY: Final = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False},
}

log = logging.getLogger("darkroom.api")


class Credentials:
    """Signs pictures with one certificate, which is tried here. Raises ConfigError for one that cannot sign."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._library = _library()
        self._chain = read_pem(certificate, CERTIFICATE_NAME).encode()
        self._key = read_pem(key, KEY_NAME).encode()
        self._algorithm = _algorithm(self._key, key)
        blank = io.BytesIO()
        Image.new("RGB", (8, 8)).save(blank, "PNG")
        try:
            for edited in (False, True):
                self._signed(blank.getvalue(), "image/png", edited=edited)
        except self._library.C2paError as error:
            raise ConfigError(
                f"{CERTIFICATE_NAME} = {certificate}: pictures cannot be signed with it and {key}: {error}"
            ) from None
        if (warning := readable_by_others(key)) is not None:
            log.warning("certificate of pictures", extra={"reason": warning})

    async def sign(self, pictures: tuple[Picture, ...], *, edited: bool) -> tuple[Picture, ...]:
        """The same pictures, signed, off the event loop. Raises ServerFault: none is given out without. ``edited``:
        they are made of pictures that were sent."""
        return await anyio.to_thread.run_sync(self._sign, pictures, edited)

    def _sign(self, pictures: tuple[Picture, ...], edited: bool) -> tuple[Picture, ...]:
        try:
            return tuple(
                msgspec.structs.replace(picture, data=self._signed(picture.data, picture.mime, edited=edited))
                for picture in pictures
            )
        except self._library.C2paError as error:
            log.error("picture not signed", extra={"reason": str(error)})
            raise ServerFault("The picture could not be signed; the server's log says why.") from None

    def _signed(self, data: bytes, mime: str, *, edited: bool) -> bytes:
        """The file with its manifest. A signer for each: the library lets one thread at a time have one."""
        library = self._library
        info = library.C2paSignerInfo(self._algorithm, self._chain, self._key, None)
        out = io.BytesIO()
        with (
            library.Settings.from_dict(_LIBRARY) as settings,
            library.Context(settings) as context,
            library.Signer.from_info(info) as signer,
            library.Builder(_manifest(edited=edited), context) as builder,
        ):
            builder.sign(signer, mime, io.BytesIO(data), out)
        return out.getvalue()


def open_credentials(settings: Settings) -> Credentials | None:
    """What the settings name; None where they name none. Raises ConfigError."""
    if settings.c2pa_cert is None or settings.c2pa_key is None:
        return None
    if not settings.provenance:
        raise ConfigError(
            f"{CERTIFICATE_NAME} = {settings.c2pa_cert}: signs what DARKROOM_PROVENANCE (--provenance) = false leaves"
            " out; set that to true, or leave this out"
        )
    return Credentials(settings.c2pa_cert, settings.c2pa_key)


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise ConfigError(
            f"{CERTIFICATE_NAME}: signing pictures needs another package: pip install 'darkroom[c2pa]' ({error})"
        ) from None
    return c2pa


def _manifest(*, edited: bool) -> dict[str, Any]:
    """What is said of a picture. An edit was opened first, and its source is named as that it came from: C2PA asks for
    both (2.2, 18.15.4). The source's own bytes, and what it may say of itself, are not kept."""
    actions: list[dict[str, Any]]
    ingredients: list[dict[str, str]] = []
    if edited:
        ingredients = [{"label": _SOURCE, "instance_id": _SOURCE, "title": _SOURCE, "relationship": "parentOf"}]
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_SOURCE]}}
        actions = [opened, {"action": "c2pa.edited", "digitalSourceType": EDITED, "softwareAgent": _AGENT}]
    else:
        actions = [{"action": "c2pa.created", "digitalSourceType": MADE, "softwareAgent": _AGENT}]
    return {
        "claim_generator_info": [_AGENT],
        "ingredients": ingredients,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _algorithm(pem: bytes, path: Path) -> bytes:
    """C2PA's name for what a private key signs with. Raises ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # c2pa-python brings it
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:  # what it raises for a passphrase that is needed
        raise ConfigError(f"{KEY_NAME} = {path}: is encrypted; write it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{KEY_NAME} = {path}: has no private key in PEM that can be read") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _OF_CURVES:
        return _OF_CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    raise ConfigError(f"{KEY_NAME} = {path}: C2PA signs with EC keys on P-256, P-384 or P-521, Ed25519 and RSA keys")


_OF_CURVES: Final = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}
