"""A network for one server process: names with scripted answers, one public site, and a list of what was dialled.

``paper_server`` installs it when RELIABILITY_NETWORK names its script. Only the resolver and the dialler are ours; what
decides between them is the server's own.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpcore

VARIABLE = "RELIABILITY_NETWORK"
PUBLIC = "93.184.216.34"  # dialled as the public site that the script names


def install(script: Path) -> None:
    """Answer names as the script says, each time with its next answer (the last stays), and note every dialling."""
    told = json.loads(script.read_text(encoding="utf-8"))
    names: dict[str, list[list[str]]] = told["names"]
    noted = script.with_suffix(".dialled")
    dial = httpcore.AnyIOBackend.connect_tcp

    def getaddrinfo(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        answers = names.get(str(host).rstrip(".").lower())
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        chosen = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in chosen
        ]

    async def connect_tcp(self: Any, host: str, port: int, *arguments: Any, **options: Any) -> Any:
        with noted.open("a", encoding="utf-8") as file:
            file.write(f"{host} {port}\n")
        if host == PUBLIC:
            host, port = told["public"]
        return await dial(self, host, port, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
    httpcore.AnyIOBackend.connect_tcp = connect_tcp  # type: ignore[method-assign]
