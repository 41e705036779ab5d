"""One server to maltreat: keys, four places, little patience, and two models of three that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from server.catalog.catalog import Model
from tests.running import ROOT, Running, start

STEP_TIMEOUT_S = 8.0


@pytest.fixture(scope="package")
def faulty(tmp_path_factory: pytest.TempPathFactory, mini: Model) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("faulty")
    written = yaml.safe_load((ROOT / "models.yaml").read_text())["models"][mini.id]
    good = {**written, "path": mini.plan.folder, "upscaler": str(ROOT / written["upscaler"]), "preload": True}
    models = {
        "good": good,
        "missing": {**good, "path": "no/such/folder", "preload": False},
        "torn": {**good, "path": "torn", "preload": False},
        "deceptive": {**good, "path": "deceptive", "preload": True},
    }
    for name in ("torn", "deceptive"):
        shutil.copytree(mini.plan.folder, folder / name)
    weights = next((folder / "torn" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    config = folder / "deceptive" / "unet" / "config.json"
    wrong = json.loads(config.read_text())
    wrong["block_out_channels"] = [channels * 2 for channels in wrong["block_out_channels"]]
    config.write_text(json.dumps(wrong))
    file: Path = folder / "models.yaml"
    file.write_text(yaml.safe_dump({"default": "good", "models": models}))
    data_dir = folder / "data"
    with start(
        data_dir, keys=True, models=file, queue_size=4, running_jobs=2, step_timeout_s=STEP_TIMEOUT_S
    ) as running:
        yield running
