"""``darkroom keys``: make, change, list and revoke API keys.

Knows the keyring of this machine's data folder; a running server reads the same file, and is not asked.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
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
    actions.add_parser("list", help="names of the keys and what they may use; the keys themselves are not kept")


def run(arguments: Namespace) -> int:
    """Do one action on the keyring. Raises CommandFailed for a name that it does not have, ConfigError where the keys
    cannot be written."""
    from server.edge.keys import ADMIN, Keyring
    from server.settings import read_settings

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
            try:
                found = keyring.revoke(arguments.name)
            except OSError as error:
                raise _unwritable(str(path), error) from None
            if not found:
                raise CommandFailed(f"no key is named {arguments.name}")
        case "list":
            for entry in keyring.list():
                role = [entry.role] if entry.role == ADMIN else []
                print(entry.name, entry.created, *role, *key_options.shown(entry, time.time()), sep="\t")
    return 0


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
