"""Machines that are not there, described as the doctor's readers would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from server.catalog.catalog import Catalog
from server.catalog.load import load_catalog
from server.commands.doctor.machine import GIB, Host
from server.worker.child.inspection import Answer, Card, Sizes
from server.worker.cores import Cores
from tests.running import ROOT

RTX_4090 = Card("NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, (8, 9), True, True)
TESLA_T4 = Card("Tesla T4", 16 * GIB, 15 * GIB, (7, 5), True, False)
GTX_1080 = Card("NVIDIA GeForce GTX 1080", 8 * GIB, 8 * GIB, (6, 1), False, False)
VERSIONS = {"torch": "2.13.0", "diffusers": "0.42.1", "bitsandbytes": "0.50.2", "torchao": "0.18.0"}

HOST = Host(
    system="Linux x86_64",
    python="3.12.3",
    processor="a processor",
    cores=8,
    processors=Cores(cpus=8, physical=8),
    memory_bytes=64 * GIB,
    memory_limit_bytes=None,
    data_dir="/data",
    disk_free_bytes=100 * GIB,
    data_dir_problem=None,
    driver="580.95.05",
)


def host(**changed: Any) -> Host:
    return msgspec.structs.replace(HOST, **changed)


def catalog(folder: Path, keys: str = "") -> Catalog:
    """One model ``a``: the embedded one's folder, with further keys of models.yaml."""
    file = folder / "models.yaml"
    file.write_text(f"default: a\nmodels:\n  a: {{ path: {ROOT / 'weights/darkroom-mini'}{keys} }}\n", encoding="utf-8")
    return load_catalog(file)


def on(card: Card | None, sizes: Sizes, **changed: Any) -> Answer:
    """What torch says on a machine with one card, or none; its only model is ``a``."""
    said = Answer(
        versions=VERSIONS,
        cuda="13.0",
        architectures=["sm_75", "sm_80", "sm_90", "sm_120"],
        cards=[] if card is None else [card],
        device="cpu" if card is None else "cuda",
        device_name="CPU" if card is None else card.name,
        device_problem="",
        room_bytes=12 * GIB if card is None else card.free_bytes * 3 // 4,
        models={"a": sizes},
    )
    return msgspec.structs.replace(said, **changed)
