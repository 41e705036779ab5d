"""image-generation-mcp draws through our AUTOMATIC1111 routes, as an agent asks it to."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.pictures import opened, pixels
from tests.running import ROOT, start

PYTHON = ROOT / ".programs" / "image-generation-mcp" / "bin" / "python"


@pytest.mark.timeout(240)
def test_a_picture_and_one_made_from_it(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("needs image-generation-mcp: make programs")
    out = tmp_path / "out"
    out.mkdir()
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    with start(tmp_path / "data") as server:
        done = subprocess.run(
            [str(PYTHON), "-I", str(Path(__file__).with_name("mcp_for_a1111.py"))],
            env={**clean, "HOME": str(tmp_path), "URL": server.url, "OUT": str(out)},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert "darkroom-mini" in report["providers"]
    assert report["made"]["status"] == report["changed"]["status"] == "completed"
    pictures = {name: (out / f"{report[name]['image_id']}-original.png").read_bytes() for name in ("made", "changed")}
    first, second = (opened(picture) for picture in pictures.values())
    assert first.size == second.size
    assert pixels(pictures["made"]).std() > 5
    assert (pixels(pictures["made"]) != pixels(pictures["changed"])).any()
