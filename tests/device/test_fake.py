"""The fake device: where tensors are, what raises, what is counted, and what the host reads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.device.cards import GIB, MIB, RTX_4090, small
from tests.device.fake import FakeCuda


def test_cuda_is_there_only_as_long_as_it_is_on() -> None:
    before = {name: getattr(torch.cuda, name) for name in ("is_available", "Stream", "mem_get_info", "_lazy_init")}
    with FakeCuda(count=2).on():
        assert torch.cuda.is_available()
        assert (torch.cuda.device_count(), torch.cuda.get_device_name()) == (2, "NVIDIA GeForce RTX 4090")
        assert torch.cuda.get_device_capability() == (8, 9)
        assert torch.cuda.mem_get_info() == (RTX_4090.free, RTX_4090.total)
    assert not torch.cuda.is_available()
    assert all(getattr(torch.cuda, name) is value for name, value in before.items())


@pytest.mark.parametrize("where", ["cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0)])
def test_tensors_are_on_the_device(fake_cuda: FakeCuda, where: str | torch.device) -> None:
    made = [
        torch.ones(3).to(where),
        torch.ones(3, device=where),
        torch.tensor([1.0, 1.0, 1.0], device=where),
        torch.as_tensor([1.0, 1.0, 1.0], device=where),
        torch.ones(3).cuda(),
        torch.ones(1).to(where).new_ones(3),
    ]
    for tensor in made:
        assert tensor.is_cuda
        assert tensor.device == torch.device("cuda", 0)
        assert tensor.tolist() == [1.0, 1.0, 1.0]


def test_a_wrong_device_raises(fake_cuda: FakeCuda) -> None:
    here, there = torch.ones(3, device="cuda"), torch.ones(3)
    wrong: list[Callable[[], object]] = [
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: torch.nn.functional.linear(here, torch.ones(2, 3)),
        lambda: torch.nn.functional.scaled_dot_product_attention(here.view(1, 1, 3), there.view(1, 1, 3), here),
        lambda: here.numpy(),
        lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    ]
    for call in wrong:
        with pytest.raises((RuntimeError, TypeError)):
            call()


def test_arithmetic_is_the_hosts(fake_cuda: FakeCuda) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(32, 5)
    )
    sample = torch.randn(2, 4, 4, 4)
    expected = layers(sample)
    layers.to("cuda")
    drawn = layers(sample.to("cuda"))
    assert drawn.is_cuda
    assert torch.allclose(drawn.cpu(), expected, atol=1e-6)
    assert torch.allclose(layers.to("cpu")(sample), expected, atol=1e-6)
    assert not fake_cuda.mismatches


def test_what_is_changed_through_a_view_is_changed(fake_cuda: FakeCuda) -> None:
    """A copy of the values where the device has a view once made pictures that looked right and were not."""
    whole = torch.zeros(1, 4, 3, 3, device="cuda").to(memory_format=torch.channels_last)
    whole[:, 1] = 5
    whole.permute(0, 2, 3, 1)[..., 2].fill_(7)
    whole.view(4, 9)[3].add_(1) if whole.is_contiguous() else whole[:, 3].add_(1)
    assert whole.sum(dim=(0, 2, 3)).tolist() == [0, 45, 63, 9]


def test_layers_in_another_layout_compute_the_same(fake_cuda: FakeCuda) -> None:
    """The host's convolution answers in its weights' layout, the device's need not: what follows must not care."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.GroupNorm(2, 4))
    sample = torch.randn(1, 4, 3, 3)
    expected = layers(sample)
    layers.to("cuda").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.allclose(layers(sample.to("cuda")).cpu(), expected, atol=1e-6)
    assert not fake_cuda.mismatches


def test_attention_is_computed_and_its_kernel_told(fake_cuda: FakeCuda) -> None:
    query, key, value = (torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    attention: Any = torch.nn.functional.scaled_dot_product_attention
    on_device = [tensor.to("cuda") for tensor in (query, key, value)]
    assert torch.allclose(attention(*on_device).cpu(), attention(query, key, value), atol=1e-6)
    attention(*(tensor.bfloat16() for tensor in on_device))
    attention(*on_device, attn_mask=torch.ones(6, 6, dtype=torch.bool, device="cuda"))
    assert set(fake_cuda.attention) == {"efficient float32", "flash bfloat16", "efficient float32 masked"}


@pytest.mark.fake_cuda(values=1000)
def test_of_large_tensors_there_are_sizes_alone(fake_cuda: FakeCuda) -> None:
    large = torch.empty(GIB, device="cuda")
    assert torch.cuda.memory_allocated() == 4 * GIB
    assert not fake_cuda.unknown
    assert (large[:10] + 1).shape == (10,)
    (large.sum()).item()
    assert list(fake_cuda.unknown.values()) == [1]
    assert "test_fake.py" in next(iter(fake_cuda.unknown)), "the line that read it"
    assert torch.ones(10).to("cuda").sum().item() == 10


def test_random_numbers_of_the_device_are_unknown(fake_cuda: FakeCuda) -> None:
    torch.rand(3, device="cuda").add(1).cpu()
    assert sum(fake_cuda.unknown.values()) == 1


@pytest.mark.fake_cuda(card=small(64))
def test_a_full_device_raises_and_has_room_again(fake_cuda: FakeCuda) -> None:
    held = torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 30"):
        torch.empty(30 * MIB, dtype=torch.uint8, device="cuda")
    view = held[5:]
    del held
    assert torch.cuda.memory_allocated() == 40 * MIB, "a view holds it"
    del view
    gc.collect()
    assert torch.cuda.memory_allocated() == 0
    torch.empty(60 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_stats()["num_ooms"] == 1


@pytest.mark.fake_cuda(card=small(64), allocator="default")
def test_memory_is_reserved_as_the_allocator_does_it(fake_cuda: FakeCuda) -> None:
    held = torch.empty(3, device="cuda")
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == (512, 2 * MIB)
    assert torch.cuda.mem_get_info()[0] == 62 * MIB
    del held
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0


def test_tied_weights_stay_tied_and_parameters_stay_the_objects_that_they_are(fake_cuda: FakeCuda) -> None:
    first, second = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    both = torch.nn.ModuleList([first, second])
    weight, values = first.weight, first.weight.clone()
    for where, in_use in (("cuda", 64 * 64 * 4), ("cpu", 0), ("cuda", 64 * 64 * 4)):
        both.to(where)
        assert first.weight is second.weight is weight
        assert isinstance(weight, torch.nn.Parameter)
        assert weight.device.type == where
        assert torch.cuda.memory_allocated() == in_use
    assert torch.equal(weight.cpu(), values)


WAITS: list[tuple[str, Callable[[torch.Tensor], object], int]] = [
    ("item", lambda tensor: tensor[0].item(), 1),
    ("item", lambda tensor: bool(tensor[0] > 1), 1),
    ("D2H", lambda tensor: tensor.tolist(), 1),
    ("D2H", lambda tensor: tensor.cpu(), 1),
    ("H2D", lambda tensor: torch.ones(2).to("cuda"), 1),
    ("H2D pageable", lambda tensor: torch.ones(2).to("cuda", non_blocking=True), 1),
    ("H2D", lambda tensor: torch.ones(2).pin_memory().to("cuda"), 1),
    ("", lambda tensor: torch.ones(2).pin_memory().to("cuda", non_blocking=True), 0),
    ("", lambda tensor: tensor.to("cpu", non_blocking=True), 0),
    ("nonzero", lambda tensor: tensor.nonzero(), 1),
    ("mask", lambda tensor: tensor[tensor > 1], 1),
    ("masked_select", lambda tensor: tensor.masked_select(tensor > 1), 1),
    ("H2D", lambda tensor: tensor[torch.tensor([0, 2])], 1),
    ("equal", lambda tensor: torch.equal(tensor, tensor), 1),
    ("synchronize", lambda tensor: torch.cuda.synchronize(), 1),
    ("", lambda tensor: torch.where(tensor > 1, tensor, tensor.sum()).softmax(0).argmax(), 0),
    ("", lambda tensor: tensor.repeat_interleave(2), 0),
    ("", lambda tensor: torch.cuda.Stream().wait_stream(torch.cuda.current_stream()), 0),  # type: ignore[no-untyped-call]
]


@pytest.mark.parametrize(("kind", "call", "count"), WAITS, ids=range(len(WAITS)))
def test_a_wait_is_counted_with_its_line(
    fake_cuda: FakeCuda, kind: str, call: Callable[[torch.Tensor], object], count: int
) -> None:
    tensor = torch.tensor([1.0, 2.0, 3.0], device="cuda")
    fake_cuda.waits.clear()
    call(tensor)
    assert len(fake_cuda.waits) == count, fake_cuda.waits.table()
    assert fake_cuda.waits.of(kind=kind, site="tests/device/test_fake.py", thread="MainThread") == count


def test_what_masks_and_nonzero_give_is_right(fake_cuda: FakeCuda) -> None:
    tensor = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
    assert tensor[tensor > 2].tolist() == [3.0, 4.0]
    assert (tensor > 2).nonzero().tolist() == [[1, 0], [1, 1]]
    tensor[tensor > 3] = 0
    assert tensor.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert torch.unique(torch.tensor([2, 1, 2], device="cuda")).tolist() == [1, 2]


def test_threads_have_the_device_and_are_told_apart(fake_cuda: FakeCuda) -> None:
    seen: list[object] = []

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            seen.append(torch.ones(2).to("cuda").device.index)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    assert seen == [0]
    (wait,) = fake_cuda.waits.counts
    assert (wait.kind, wait.thread, wait.stream) == ("H2D", "other", "side")


@pytest.mark.fake_cuda(card=small(64), count=2)
def test_several_devices(fake_cuda: FakeCuda) -> None:
    first, second = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
    with pytest.raises(RuntimeError, match="cuda:0 and cuda:1"):
        first + second
    assert (first.to("cuda:1") + second).tolist() == [2.0, 2.0]
    with torch.cuda.device(1):
        assert torch.ones(1, device="cuda").device.index == 1
        assert torch.cuda.current_device() == 1
    assert torch.ones(1, device="cuda").device.index == 0
    held = torch.empty(60 * MIB, dtype=torch.uint8, device="cuda:1")
    assert torch.cuda.memory_allocated(1) >= held.numel()
    assert torch.cuda.memory_allocated(0) < MIB
    torch.empty(60 * MIB, dtype=torch.uint8, device="cuda:0")
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.set_device(2)


@pytest.mark.fake_cuda(count=2)
def test_a_lost_device_is_told_at_the_next_wait_and_then_by_every_call(fake_cuda: FakeCuda) -> None:
    tensor, other = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
    fake_cuda.lose(0)
    tensor + tensor
    calls: list[Callable[[], object]] = [lambda: tensor.cpu(), lambda: tensor + tensor, lambda: torch.ones(1).cuda()]
    for call in calls:
        with pytest.raises(torch.AcceleratorError, match="device-side assert") as caught:
            call()
        assert caught.value.error_code == 710  # type: ignore[attr-defined]
    assert (other + other).tolist() == [2.0, 2.0]


def test_an_operator_fails_as_often_as_it_is_told_to(fake_cuda: FakeCuda) -> None:
    fake_cuda.fail("aten.mm", lambda: RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), times=1, after=1)
    square = torch.ones(2, 2, device="cuda")
    square @ square
    with pytest.raises(RuntimeError, match="CUBLAS"):
        square @ square
    assert (square @ square).tolist() == [[2.0, 2.0], [2.0, 2.0]]
