"""The command ``darkroom models compare``: what it draws, what it says, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.errors import BadPicture
from pipelines.facts.comparison import Company, Comparison, Difference, Found, LeftOut, Likeness, Shared
from pipelines.models import selfcheck
from pipelines.models.loader import LoadedModel
from pipelines.spec import Adapter
from server.commands import child
from server.worker.child import inspection
from tests.running import ROOT
from tests.unit.commands.command_line import run

MINI = f"path: {ROOT / 'weights/darkroom-mini'}, native_size: 128x128, multiple: 32"
NEAR, FAR = Likeness((44.0, 45.0), (0.99, 0.99)), Likeness((36.0, 37.0), (0.98, 0.98))
SMALL, LARGE = Difference(0.0003, 0.00001, 0.0001), Difference(41.0, 1.5, 12.0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models that draw twelve steps, too few, with fresh noise, with LoRAs, and one that is not there."""
    monkeypatch.setenv("DARKROOM_DEVICES", "cpu")
    (tmp_path / "ink.safetensors").write_bytes(b"torn")
    loras = "loras: { ink: { path: ink.safetensors, weight: 0.7 }, none: { path: ink.safetensors, weight: 0 } }"
    path = tmp_path / "models.yaml"
    path.write_text(
        f"""
default: a
models:
  a: {{ {MINI}, aliases: [old], quality: {{ standard: {{ steps: 4 }}, hd: {{ steps: 12 }} }} }}
  few: {{ like: a, quality: {{ standard: {{ steps: 4 }}, hd: {{ steps: 8 }} }} }}
  fresh: {{ like: a, quality: {{ standard: {{ steps: 20, scheduler: euler_a }} }} }}
  lcm: {{ like: a, quality: {{ standard: {{ steps: 20, scheduler: lcm }} }} }}
  preset: {{ like: a, quality: {{ standard: {{ steps: 30, step_cache: 1, prompt_suffix: "!" }} }} }}
  adapted: {{ {MINI}, {loras} }}
  gone: {{ path: nowhere }}
"""
    )
    return path


class SpeakingChild:
    """A process that says what a test has it say, and keeps what it is asked."""

    returncode = 9
    asked: Mapping[str, Any]

    def __init__(self, *says: dict[str, Any]) -> None:
        self._says = says

    def __call__(self, module: str, environment: Mapping[str, str]) -> SpeakingChild:
        assert module == "server.worker.child.comparison"
        assert "DARKROOM_DATA_DIR" not in environment
        return self

    def __enter__(self) -> SpeakingChild:
        return self

    def __exit__(self, *_: object) -> None: ...

    def answers(self, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self.asked = asked
        yield from self._says

    def last_words(self) -> str:
        return "  Killed"

    @property
    def comparison(self) -> Comparison:
        return msgspec.convert(self.asked["comparison"], Comparison)


@pytest.fixture
def compare(file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with a process that says this; its exit code, and the process."""

    def run_with(*arguments: str, says: tuple[dict[str, Any], ...]) -> tuple[int, SpeakingChild]:
        speaking = SpeakingChild(*says)
        monkeypatch.setattr(child, "start", speaking)
        return run("models", "--models", str(file), "compare", *arguments), speaking

    return run_with


def said(**changed: Any) -> tuple[dict[str, Any], ...]:
    """What a process says that has found this."""
    found = Found("a card", "float32", 2.0, (Shared(Company.PLAIN, SMALL, 6.5),))
    return ({"found": msgspec.to_builtins(msgspec.structs.replace(found, **changed))},)


@pytest.mark.long
@pytest.mark.usefixtures("near_child")
def test_the_embedded_model_is_compared(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models", str(file), "compare", "old", "--prompts", "2") == 0
    captured = capsys.readouterr()
    assert "a on CPU, " in captured.out
    assert "float32: 2 prompts, 128x128, quality hd (12 steps" in captured.out
    assert "p99 within the tolerance of 1." in captured.out
    assert "of 12 steps were computed" in captured.out
    assert "against 48 steps, taken for converged" in captured.out
    assert "a: each alone, 24 steps\n" in captured.err, "the progress is shown"


@pytest.mark.usefixtures("near_child")
def test_a_model_that_shares_no_steps_is_told(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unshare(model: LoadedModel) -> None:
        model.shares, model.reason = False, "the unet has a step cache"

    monkeypatch.setattr(selfcheck, "check", unshare)
    assert run("models", "--models", str(file), "compare", "a") == 2
    assert "a: it shares no steps, so that there is nothing to compare: the unet has" in capsys.readouterr().err


@pytest.mark.usefixtures("near_child")
@pytest.mark.parametrize("fault", ["full", "black"])
def test_a_model_that_cannot_be_loaded_is_told(
    fault: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: LoadedModel) -> None:
        raise BadPicture("nothing but black")

    if fault == "full":
        monkeypatch.setattr(inspection, "budget_of", lambda device, setting: 1 << 20)
    else:
        monkeypatch.setattr(selfcheck, "check", refuse)
    assert run("models", "--models", str(file), "compare", "a") == 2
    assert ("the device has 0 MiB for them" if fault == "full" else "nothing but black") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nobody"], "nobody: No such model. This server has: a, "),
        (["gone"], "nowhere: the folder does not exist"),
        (["a", "--prompts", "1"], "1: must be an integer from 2 to 32"),
        (["a", "--prompts", "33"], "33: must be an integer from 2 to 32"),
        (["a", "--prompts", "many"], "many: must be an integer"),
        (["a", "--tolerance", "-1"], "-1: must be a number of levels, 0 or more"),
        (["a", "--tolerance", "nan"], "nan: must be a number of levels"),
        (["a", "--tolerance", "inf"], "inf: must be a number of levels"),
        (["a", "--tolerance", "little"], "little: must be a number of levels"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(
    arguments: list[str], says: str, compare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, speaking = compare(*arguments, says=())
    assert code == 2
    assert says in capsys.readouterr().err
    assert not hasattr(speaking, "asked")


@pytest.mark.parametrize(
    ("dtype", "p99", "flags", "code"),
    [
        ("float32", 0.5, [], 0),
        ("float32", 3.0, [], 1),
        ("bfloat16", 3.0, [], 0),
        ("bfloat16", 5.0, [], 1),
        ("float32", 3.0, ["--tolerance", "3"], 0),
        ("bfloat16", 3.0, ["--tolerance", "0.5"], 1),
    ],
)
def test_the_exit_code_is_that_of_pictures_in_company(
    dtype: str, p99: float, flags: list[str], code: int, compare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = (Shared(Company.PLAIN, SMALL, 6.5), Shared(Company.ADAPTED, Difference(60, 1, p99), 6.5))
    assert compare("a", *flags, says=said(dtype=dtype, shared=shared))[0] == code
    assert (" NOT within the tolerance" in capsys.readouterr().out) is bool(code)


@pytest.mark.parametrize(
    ("cached", "plain", "says"),
    [(NEAR, FAR, "worth having here"), (FAR, NEAR, "leave it off here"), (NEAR, NEAR, "No clear difference")],
)
def test_what_is_nearer_is_said_and_fails_nothing(
    cached: Likeness, plain: Likeness, says: str, compare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = LeftOut((18, 20), LARGE, SMALL, NEAR, FAR, 120, NEAR, cached, plain)
    assert compare("a", says=said(left_out=left_out))[0] == 0
    out = capsys.readouterr().out
    assert says in out
    assert "19.0 of 12 steps were computed" in out
    assert "18 to 20 plain steps" in out


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("few", "8 steps are fewer than 12"),
        ("fresh", "EulerAncestralDiscreteScheduler, or it draws fresh noise"),
        ("lcm", "lcm draws few steps, and each counts"),
    ],
)
def test_where_the_step_cache_cannot_act_it_is_not_drawn_with(
    name: str, why: str, compare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, speaking = compare(name, says=said())
    assert code == 0
    assert speaking.comparison.step_cache == 0
    out = capsys.readouterr().out
    assert "Step cache: it cannot act here, so there is nothing to compare: " in out
    assert why in out


def test_where_it_left_out_nothing_that_is_said(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("a", says=said())[0] == 0
    assert "none of the 12 steps was left out" in capsys.readouterr().out


def test_what_is_compared_is_what_a_request_would_draw(compare: Any) -> None:
    _, speaking = compare("preset", "--prompts", "3", says=said())
    asked = speaking.comparison
    assert asked.step_cache == 0.5
    assert len(asked.specs) == 3
    for spec in asked.specs:
        assert (spec.steps, spec.step_cache, spec.draw_width, spec.draw_height) == (30, 0, 128, 128)
        assert spec.prompt.endswith("!")


def test_adapters_are_those_of_the_entry_that_weigh_something(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ink = Adapter("ink", 0.7)
    shared = (Shared(Company.PLAIN, SMALL, 6.5), Shared(Company.WITHOUT, SMALL, 6.5))
    code, speaking = compare(
        "adapted", says=said(shared=shared, adapters=(ink,), broken={"torn": "no header"}, mixed=False, retried=2)
    )
    assert code == 0
    assert speaking.comparison.adapters == (ink,)
    out = capsys.readouterr().out
    assert "with LoRAs (ink), beside others without" in out
    assert "LoRA torn was not drawn with: no header" in out
    assert "Runs with different LoRAs share no steps" in out
    assert "2 shared steps failed" in out


def test_company_that_shares_no_step_is_told(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("a", says=said(shared=(Shared(Company.PLAIN, SMALL, 2.0),)))[0] == 0
    assert "No step was shared" in capsys.readouterr().out


def test_a_picture_that_cannot_be_drawn_is_a_failure(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("a", says=({"failed": "OutOfMemory: the device has no room"},))[0] == 1
    assert "a: a picture could not be drawn: OutOfMemory" in capsys.readouterr().err


def test_a_process_that_dies_has_its_last_words_shown(compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    says = ({"note": "drawing on the CPU"}, {"part": "load", "steps": None}, {"part": "alone", "steps": 9}, {"done": 4})
    assert compare("a", says=says)[0] == 1
    captured = capsys.readouterr()
    assert "a: the process that drew ended (exit code 9), and it said last:\n  Killed" in captured.err
    assert "a: drawing on the CPU" in captured.err
