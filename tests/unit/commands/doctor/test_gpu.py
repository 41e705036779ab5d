"""``darkroom doctor --gpu``: the time that sections may take, and what is told of one that does not end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from server.commands.doctor import gpu
from server.commands.doctor.gpu import Examination, steps_of
from server.worker.child.examination import Step
from tests.running import ROOT
from tests.unit.commands.command_line import run

STEPS = (Step("environment"), Step("device"), Step("lost"))
# Does what its first argument says for the section "device"; all others pass.
CHILD = """
import json, sys, time
steps = json.load(sys.stdin)["steps"]
print("a library's own line")
for step in steps:
    print(json.dumps({"section": step["section"]}), flush=True)
    if step["section"] == "device":
        if sys.argv[1] == "hang":
            time.sleep(600)
        if sys.argv[1] == "die":
            sys.exit(3)
    print(json.dumps({"figures": {"of": step["section"]}}), flush=True)
    print(json.dumps({"verdict": "PASS", "says": "it is well"}), flush=True)
print(json.dumps({"ended": True}), flush=True)
"""


def examined(tmp_path: Path, does: str, seconds: float = 300.0) -> tuple[int, dict[str, list[str]]]:
    out = tmp_path / "doctor.json"
    code = Examination("cpu", (), out, seconds).run(STEPS, [sys.executable, "-c", CHILD, does])
    document = json.loads(out.read_text())
    verdicts: dict[str, list[str]] = {}
    for verdict, title, says in document["verdicts"]:
        verdicts.setdefault(title, []).append(f"{verdict} {says}")
    return code, verdicts


def test_figures_and_verdicts_go_to_the_file(tmp_path: Path) -> None:
    code, verdicts = examined(tmp_path, "pass")
    assert code == 0
    assert verdicts == {step.title: ["PASS it is well"] for step in STEPS}
    assert json.loads((tmp_path / "doctor.json").read_text())["figures"]["lost"] == {"of": "lost"}


def test_a_section_that_hangs_is_ended_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that hangs would have taken the whole loan of a machine, and every figure."""
    monkeypatch.setitem(gpu.LIMITS_S, "device", 0.5)
    code, verdicts = examined(tmp_path, "hang")
    assert code == 1
    assert verdicts["device"] == ["FAIL no end within 0 s; its process was ended"]
    assert verdicts["lost"] == ["PASS it is well"]


def test_a_section_that_takes_its_process_with_it_is_a_failure_and_the_rest_goes_on(tmp_path: Path) -> None:
    code, verdicts = examined(tmp_path, "die")
    assert code == 1
    assert verdicts["device"] == ["FAIL its process ended with exit code 3"]
    assert verdicts["lost"] == ["PASS it is well"]


def test_the_time_is_kept_and_what_was_left_out_is_told(tmp_path: Path) -> None:
    code, verdicts = examined(tmp_path, "hang", seconds=3.0)
    assert code == 0
    assert verdicts["lost"] == ["LOOK left out: the time was over"]


def test_each_model_has_its_sections_between_those_of_the_device() -> None:
    titles = [step.title for step in steps_of(("a", "b"))]
    assert titles[:2] == ["environment", "device"]
    assert titles[-1] == "lost"
    of_model = ("check", "rows", "graphs", "engine", "memory", "beside", "residency")
    assert titles[2:9] == [f"a/{name}" for name in of_model]
    assert len(titles) == 17


def test_without_a_gpu_it_says_so_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    models = str(ROOT / "models.yaml")
    assert run("doctor", "--gpu", "--models", models) == 1
    assert "no GPU to measure" in capsys.readouterr().err


def test_a_model_that_there_is_not_is_a_wrong_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--gpu", "--model", "nobody", "--models", str(ROOT / "models.yaml")) == 2
    assert "--model nobody: no such ID" in capsys.readouterr().err
