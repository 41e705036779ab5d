"""``darkroom keys``: make, list and revoke API keys.

Knows the keyring of this machine's data folder; a running server reads the same file, and is not asked.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from server.commands.failure import CommandFailed


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("keys", help="make, list and revoke API keys")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (("create", "make a key and print it, once"), ("revoke", "end a key")):
        actions.add_parser(action, help=text).add_argument("name", metavar="NAME")
    actions.add_parser("list", help="names of the keys; the keys themselves are not kept")


def run(arguments: Namespace) -> int:
    """Do one action on the keyring. Raises CommandFailed for a name that it does not have."""
    from server.edge.keys import Keyring
    from server.settings import read_settings

    keyring = Keyring(read_settings().data_dir / "keys.json")
    match arguments.action:
        case "create":
            key = keyring.create(arguments.name)
            print(f"{arguments.name}'s key follows. It is shown this once; only its hash is kept.", file=sys.stderr)
            print(key)
        case "revoke":
            if not keyring.revoke(arguments.name):
                raise CommandFailed(f"no key is named {arguments.name}")
        case "list":
            for entry in keyring.list():
                print(entry.name, entry.created, sep="\t")
    return 0
