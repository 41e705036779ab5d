"""What the longer commands are made of: folders without bytes, the replay of allocations, the matrix's verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.facts import folder as model_folder
from pipelines.models import loader
from pipelines.plan import ModelPlan
from tests.device import fragmentation, matrix, real_sizes
from tests.device.allocator import Caching, Exact, Expandable
from tests.device.cards import GIB, MIB, small
from tests.device.fake import FakeCuda
from tests.device.placed import CUDA
from tests.device.sizes import SIZES
from tests.device.sparse import write_folder, write_sparse
from tests.families import matrix as family_matrix
from tests.families import tiny


def test_a_folder_without_bytes_loads_as_any_does(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    pipeline = tiny.build("SDXL")._base
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.bfloat16()
    write_folder(pipeline, folder)
    assert model_folder.problem(folder) is None
    plan = ModelPlan("sdxl", str(folder), "stable-diffusion-xl", native_width=32, native_height=32)
    promised = loader.weight_bytes(plan, CUDA)
    model = loader.load(plan, CUDA)
    assert model.weight_bytes() == pytest.approx(promised, rel=0.01)
    assert model._base.unet.conv_in.weight.device.type == "cuda"


@pytest.mark.fake_cuda(card=small(1))
def test_what_quantising_would_make_of_a_model_is_told_from_its_headers(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    pipeline = tiny.build("SDXL")._base
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.bfloat16()
    write_folder(pipeline, tmp_path / "model")
    plan = ModelPlan("sdxl", str(tmp_path / "model"), "stable-diffusion-xl", native_width=32, native_height=32)
    int8, nf4 = real_sizes.otherwise(plan)
    assert nf4.weights < int8.weights < loader.weight_bytes(plan, CUDA)
    assert (int8.says, int8.on_host) == ("computed, not run: quantise: int8: fits", False)
    refused = real_sizes.Result(SIZES["sdxl"], small(1), "refused", 9, otherwise=(int8, nf4))
    assert [line.count("|") for line in refused.lines()] == [real_sizes.HEAD.splitlines()[0].count("|")] * 3


def test_large_tensors_take_no_disk(tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    write_sparse(file, {"weight": torch.empty(4 * GIB, dtype=torch.bfloat16, device="meta")})
    assert file.stat().st_size > 8 * GIB
    assert file.stat().st_blocks * 512 < MIB


def _batch(rows: int) -> fragmentation.Trace:
    """Two activations, the first of which goes as the second is there."""
    return [(1, rows * 11 * MIB), (2, rows * 23 * MIB), (1, 0), (3, rows * 5 * MIB), (2, 0), (3, 0)]


def test_steps_of_changing_rows_reserve_more_by_default_than_where_segments_expand() -> None:
    steps = [_batch(rows) for rows in range(1, 17)]
    memories = [Exact(64 * GIB), Caching(64 * GIB), Expandable(64 * GIB)]
    for memory in memories:
        assert fragmentation.replay(memory, steps, steps, count=200, seed=1) == 0
    exact, default, expandable = (memory.peak_reserved for memory in memories)
    assert default > 1.3 * exact
    assert expandable < 1.2 * exact


def test_a_step_without_room_leaves_nothing_behind() -> None:
    memory = Exact(200 * MIB)
    assert fragmentation.replay(memory, [_batch(16)], [_batch(16)], count=5, seed=1) == 5
    assert memory.allocated <= 5 * 3 * MIB, "what runs hold, and nothing of the steps"


def test_the_matrix_is_not_content_with_another_picture_or_another_wait() -> None:
    row = next(row for row in family_matrix.MATRIX if row.name == "SD 1.x")
    good = matrix.Result(row, True, 6, 6, 0, 1e-6, 0, row.waits, False, 9, 1e-6, True)
    assert good.good
    for worse in ({"shared": False}, {"forwards": 7}, {"difference": 1e-3}, {"unknown": 1}, {"waits": row.waits + 1}):
        assert not dataclasses.replace(good, **worse).good
    for worse in ({"by_graphs": 1e-3}, {"told_by_family": False}, {"forward_waits": True}):
        assert not dataclasses.replace(good, **worse).good


@pytest.mark.parametrize("main", [matrix.main, real_sizes.main, fragmentation.main])
def test_a_command_says_what_it_does(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["command", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "python -m tests.device." in capsys.readouterr().out
