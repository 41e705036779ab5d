"""The token of a cluster: whoever holds it runs code on every machine of it, as the user that Ray runs as.

Knows files and environment variables; starts nothing. Without one nothing of Ray is started, on loopback neither: each
replica listens on all interfaces, and would run what any stranger sends it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from server.errors import ConfigError
from server.settings import Settings

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_MIN_CHARACTERS = 16
_OWN = "ray_token"  # in the data folder


def make_own(settings: Settings) -> Path:
    """The file with the token of this server's own cluster, for its owner alone; made once. Raises ConfigError."""
    path = settings.data_dir.absolute() / _OWN
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            # Whole or not at all: a link never replaces a file, and nobody reads one that is half written.
            part = path.with_name(f".{_OWN}.{secrets.token_hex(8)}.part")
            try:
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(secrets.token_hex(32))
                os.link(part, path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{settings.cluster_as_set}: its token can be neither made nor kept in {path} ({error.strerror}); choose"
            " another DARKROOM_DATA_DIR (--data-dir)"
        ) from None
    _check_file(settings, path)
    return path


def check_given(settings: Settings, home: Path | None = None) -> None:
    """See that the token of the cluster that is joined is where Ray looks for it. Raises ConfigError."""
    if TOKEN in os.environ:
        _check_text(settings, TOKEN, os.environ[TOKEN])
        return
    named = os.environ.get(TOKEN_PATH)
    path = Path(named) if named else (home or Path.home()) / ".ray" / "auth_token"
    if not named and not path.exists():
        raise ConfigError(
            f"{settings.cluster_as_set}: a cluster is joined with its token alone; name the file that has it with"
            f" {TOKEN_PATH} (or put it into ~/.ray/auth_token)"
        )
    _check_file(settings, path)


def _check_file(settings: Settings, path: Path) -> None:
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except OSError as error:
        raise ConfigError(
            f"{settings.cluster_as_set}: the token {path} cannot be read ({error.strerror}); name another file with"
            f" {TOKEN_PATH}"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{settings.cluster_as_set}: the token {path} can be read by others, and who has it runs code here; `chmod"
            f" 600 {path}`"
        )
    _check_text(settings, str(path), text)


def _check_text(settings: Settings, where: str, text: str) -> None:
    if len(text.strip()) < _MIN_CHARACTERS:
        raise ConfigError(
            f"{settings.cluster_as_set}: the token in {where} has fewer than {_MIN_CHARACTERS} characters; make one"
            " with `openssl rand -hex 32`, the same for all machines"
        )
