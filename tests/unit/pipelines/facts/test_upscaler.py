"""What a super-resolution file is, told from its header; what is none is refused by name, with what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.errors import LoadRefused
from pipelines.facts import checkpoint, upscaler
from pipelines.facts.checkpoint import Kind
from pipelines.facts.upscaler import Network, UpscalerShape
from tests import upscalers


@pytest.mark.parametrize(
    ("weights", "shape"),
    [
        (upscalers.compact(2, 8, 3), UpscalerShape(Network.COMPACT, 2, 8, 3)),
        (upscalers.compact(4, 64, 16), UpscalerShape(Network.COMPACT, 4, 64, 16)),
        (upscalers.rrdb(4, 64, 6, 32), UpscalerShape(Network.RRDB, 4, 64, 6, 32)),
        (upscalers.rrdb(2, 16, 2, 8), UpscalerShape(Network.RRDB, 2, 16, 2, 8)),
    ],
)
def test_the_header_tells(tmp_path: Path, weights: dict[str, Tensor], shape: UpscalerShape) -> None:
    path = upscalers.write(tmp_path / "net.safetensors", weights)
    assert upscaler.tell(path) == shape
    assert upscaler.problem(path) is None
    assert upscaler.weight_bytes(path, 2) == 2 * sum(tensor.numel() for tensor in weights.values())
    assert checkpoint.tell(path).kind is Kind.UPSCALER


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        del weights[name]

    return change


def with_(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        weights[name] = tensor

    return change


@pytest.mark.parametrize(
    ("weights", "change", "says"),
    [
        (upscalers.compact(), without("body.4.bias"), "body.4.bias is missing"),
        (upscalers.compact(), without("body.1.weight"), "without PReLU"),
        (upscalers.compact(), with_("body.4.weight", torch.zeros(8, 9, 3, 3)), "body.4.weight has another shape"),
        (upscalers.compact(), with_("tail.weight", torch.zeros(1)), "has tail.weight beside it"),
        (upscalers.compact(), with_("body.0.bias", torch.zeros(8, dtype=torch.int32)), "stored as I32"),
        (upscalers.compact(1), lambda weights: None, "does not enlarge by 2 to 8"),
        (upscalers.rrdb(), with_("conv_first.weight", torch.zeros(8, 48, 3, 3)), "RRDBNet for 48 channels"),
        (upscalers.rrdb(), without("conv_hr.weight"), "conv_hr.weight is missing"),
        ({"model.1.sub.0.RDB1.conv1.0.weight": torch.zeros(1)}, lambda weights: None, "older layout"),
        ({"unet.weight": torch.zeros(1)}, lambda weights: None, "no upscaler that is known here"),
    ],
)
def test_what_is_none_is_refused(
    tmp_path: Path, weights: dict[str, Tensor], change: Callable[[dict[str, Tensor]], None], says: str
) -> None:
    weights = dict(weights)
    change(weights)
    path = upscalers.write(tmp_path / "net.safetensors", weights)
    with pytest.raises(LoadRefused, match=says) as refusal:
        upscaler.tell(path)
    assert str(refusal.value).startswith("net.safetensors")
    assert str(tmp_path) not in str(refusal.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "RealESRGAN_x4plus.pth"
    path.write_bytes(b"PK\x03\x04")
    assert "pickles, which can run code" in (upscaler.problem(path) or "")
    renamed = path.rename(tmp_path / "x4.safetensors")
    assert "pickle, which can run code" in (upscaler.problem(renamed) or "")


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    assert upscaler.problem(tmp_path / "a.safetensors") == "a.safetensors does not exist"
    (tmp_path / "b.safetensors").mkdir()
    assert upscaler.problem(tmp_path / "b.safetensors") == "b.safetensors is a folder, not a file"
    whole = upscalers.write(tmp_path / "c.safetensors", upscalers.compact())
    whole.write_bytes(whole.read_bytes()[:-8])
    assert "truncated" in (upscaler.problem(whole) or "")
