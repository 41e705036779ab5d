"""The upscalers of models.yaml: what a typing error is told, who shares them, which files are wrong, which size is
enlarged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from server.api import specs
from server.api.specs import Sources
from server.api.wire import ImageFields
from server.errors import ConfigError
from tests import upscalers
from tests.unit.catalog.models_files import GOOD, catalog

TWO = "upscalers:\n  x2: nets/x2.safetensors\n  x4: nets/x4.safetensors\n"
WITH_UPSCALERS = GOOD.replace("models:\n", TWO + "models:\n").replace(
    "    multiple: 16\n", "    multiple: 16\n    upscaler: x2\n"
)


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    for scale in (2, 4):
        upscalers.write(tmp_path / "nets" / f"x{scale}.safetensors", upscalers.compact(scale))


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("  x2:", "  lanczos:", 3, ["upscalers", "stands for resampling"]),
        ("  x2:", "  'x 2':", 3, ["upscalers", "letters, digits"]),
        ("x2: nets/x2.safetensors", "x2: ''", 4, ["upscalers.x2", "at least 1 character"]),
        ("upscaler: x2", "upscaler: 2", 10, ["models.mini.upscaler", "string"]),
        ("like: mini", "like: mini\n    upscaler: other/x2.safetensors", 17, ["x2 is", "under another ID"]),
    ],
)
def test_a_typing_error_is_told(tmp_path: Path, old: str, new: str, line: int, says: list[str]) -> None:
    assert old in WITH_UPSCALERS
    with pytest.raises(ConfigError) as refused:
        catalog(tmp_path, WITH_UPSCALERS.replace(old, new, 1))
    message = str(refused.value)
    assert f"{tmp_path / 'models.yaml'}, line " in message
    for part in says:
        assert part in message, message


def test_ids_that_share_weights_have_an_upscaler_each(tmp_path: Path) -> None:
    both = catalog(tmp_path, WITH_UPSCALERS.replace("like: mini", "like: mini\n    upscaler: nets/x4.safetensors"))
    mini, other = both.models["mini"], both.models["dall-e-2"]
    assert mini.plan == other.plan
    assert [file.name for file in mini.plan.upscalers] == ["x2", "x4"]
    assert (mini.upscaler, other.upscaler) == mini.plan.upscalers
    inherits = catalog(tmp_path, WITH_UPSCALERS).models["dall-e-2"]
    assert inherits.upscaler is not None
    assert inherits.upscaler.name == "x2"
    plain = catalog(tmp_path, WITH_UPSCALERS.replace("like: mini", "like: mini\n    upscaler: Lanczos"))
    assert plain.models["dall-e-2"].upscaler is None


def test_each_by_itself_has_a_plan_of_its_own(tmp_path: Path) -> None:
    found = catalog(tmp_path, WITH_UPSCALERS)
    assert list(found.served_plans) == ["mini", "upscaler x2", "upscaler x4"]
    assert list(found.plans) == ["mini"]
    assert found.served_plans["upscaler x4"].only_enlarges
    before = found.upscalers["x4"].plan
    upscalers.write(tmp_path / "nets" / "x4.safetensors", upscalers.compact(4, seed=1, depth=4))
    assert catalog(tmp_path, WITH_UPSCALERS).upscalers["x4"].plan != before, "another file, and it would not be loaded"


def test_wrong_files_are_told_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "nets" / "x4.safetensors").unlink()
    text = WITH_UPSCALERS.replace("like: mini", "like: mini\n    upscaler: nets/net.pth")
    found = catalog(tmp_path, text)
    problems = found.upscaler_problems()
    assert problems["upscalers.x4"] == "x4.safetensors does not exist"
    assert "pickles" in problems["models.dall-e-2.upscaler"]
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("size", "upscaler"), [("64x64", None), ("256x256", "x2"), ("1024x1024", "x2"), ("48x48", None)]
)
def test_only_what_is_drawn_smaller_is_enlarged(tmp_path: Path, size: str, upscaler: str | None) -> None:
    model = catalog(tmp_path, WITH_UPSCALERS).models["mini"]
    fields = ImageFields(prompt="a cat", size=size)
    spec = specs.make_spec(fields, model, model.size(size), Sources())
    assert spec.upscaler == upscaler
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=type(spec)) == spec


def test_a_name_that_is_none_of_them_is_told_as_one(tmp_path: Path) -> None:
    """It was told to be no .safetensors file, and to convert it."""
    problems = catalog(tmp_path, WITH_UPSCALERS.replace("upscaler: x2", "upscaler: x8")).upscaler_problems()
    assert set(problems) == {"models.mini.upscaler", "models.dall-e-2.upscaler"}
    assert set(problems.values()) == {"x8 is none of the names under upscalers, and no .safetensors file"}
