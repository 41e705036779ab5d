"""``darkroom keys``: make, change, list and revoke API keys, and the secrets of their webhooks.

Knows the keyring of this machine's data folder; a running server reads the same file, and is not asked.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.commands import key_options
from server.commands.failure import CommandFailed
from server.errors import ConfigError

if TYPE_CHECKING:
    from server.edge.keys import Keyring


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("keys", help="make, change, list and revoke API keys")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("create", "make a key and print it, once"),
        ("change", "change what a key may use; `none` lifts a limit"),
        ("revoke", "end a key"),
    ):
        added = actions.add_parser(action, help=text)
        added.add_argument("name", metavar="NAME")
        if action == "create":
            added.add_argument("--admin", action="store_true", help="it may load and unload models, and the like")
        if action != "revoke":
            key_options.add_limits(added, lifting=action == "change")
    secret = actions.add_parser("webhook-secret", help="make the secret that a key's webhooks are signed with")
    secret.add_argument("name", metavar="NAME", help="of the key; local for a server without keys")
    actions.add_parser("list", help="names of the keys and what they may use; the keys themselves are not kept")


def run(arguments: Namespace) -> int:
    """Do one action on the keyring. Raises CommandFailed for a name that it does not have, ConfigError where the keys
    cannot be written."""
    from server.edge.keys import ADMIN, Keyring
    from server.settings import read_settings
    from server.webhooks.secrets import WebhookSecrets

    path = read_settings().data_dir / "keys.json"
    keyring = Keyring(path)
    match arguments.action:
        case "create":
            try:
                key = keyring.create(
                    arguments.name, admin=arguments.admin, but=lambda entry: key_options.changed(entry, arguments)
                )
            except OSError as error:
                raise _unwritable(str(path), error) from None
            print(f"{arguments.name}'s key follows. It is shown this once; only its hash is kept.", file=sys.stderr)
            _show_once(keyring, arguments.name, key)
        case "change":
            try:
                found = keyring.change(arguments.name, lambda entry: key_options.changed(entry, arguments))
            except OSError as error:
                raise _unwritable(str(path), error) from None
            if not found:
                raise CommandFailed(f"no key is named {arguments.name}")
        case "revoke":
            principals = [entry.principal.id for entry in keyring.list() if entry.name == arguments.name]
            try:
                found = keyring.revoke(arguments.name)
                for principal in principals:
                    WebhookSecrets(path.parent).forget(principal)
            except OSError as error:
                raise _unwritable(str(path), error) from None
            if not found:
                raise CommandFailed(f"no key is named {arguments.name}")
        case "webhook-secret":
            _show_webhook_secret(keyring, path.parent, arguments.name)
        case "list":
            for entry in keyring.list():
                role = [entry.role] if entry.role == ADMIN else []
                print(entry.name, entry.created, *role, *key_options.shown(entry, time.time()), sep="\t")
    return 0


def _show_webhook_secret(keyring: Keyring, data_dir: Path, name: str) -> None:
    """Make a secret in place of the one before, and print it. Raises CommandFailed, ConfigError."""
    from server.edge.keys import LOCAL
    from server.webhooks.secrets import WebhookSecrets

    principals = {LOCAL.name: LOCAL.id} | {entry.name: entry.principal.id for entry in keyring.list()}
    if name not in principals:
        raise CommandFailed(f"no key is named {name}")
    secrets = WebhookSecrets(data_dir)
    try:
        secret = secrets.make(principals[name])
    except OSError as error:
        raise ConfigError(
            f"{data_dir}: no secret can be kept there ({error.strerror}); DARKROOM_DATA_DIR names the folder"
        ) from None
    print(f"The secret of {name}'s webhooks follows. It is shown this once; the one before is void.", file=sys.stderr)
    try:
        print(secret, flush=True)
    except OSError as error:
        secrets.forget(principals[name])
        raise CommandFailed(f"the secret could not be shown ({error.strerror}), so it was deleted; try again") from None


def _unwritable(path: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be written ({error.strerror}), the keys are as they were; DARKROOM_DATA_DIR names the folder"
    )


def _show_once(keyring: Keyring, name: str, key: str) -> None:
    """A key that nobody has seen is of no use to anyone: it is ended again."""
    try:
        print(key, flush=True)
    except OSError as error:
        keyring.revoke(name)
        raise CommandFailed(f"the key could not be shown ({error.strerror}), so it was ended; try again") from None
