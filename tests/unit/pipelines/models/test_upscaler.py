"""The super-resolution networks by their definition, in tiles, pass by pass, and where memory is short."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.errors import BadPicture, Cancelled, LoadRefused, OutOfMemory
from pipelines.models import upscaler
from pipelines.models.crew import Crew
from pipelines.models.upscaler import Upscaler
from pipelines.plan import UpscalerFile
from tests import upscalers

CPU = torch.device("cpu")
NETWORKS: list[tuple[Callable[..., dict[str, Tensor]], int]] = [
    (upscalers.compact, 2),
    (upscalers.compact, 3),
    (upscalers.compact, 4),
    (upscalers.rrdb, 4),
    (upscalers.rrdb, 2),
]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew(2)
    yield made
    made.close()


def loaded(tmp_path: Path, weights: dict[str, Tensor], dtype: str = "float32") -> Upscaler:
    path = upscalers.write(tmp_path / "net.safetensors", weights)
    return upscaler.load(UpscalerFile("net", str(path)), CPU, dtype)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, len(mode)), dtype=np.uint8), mode)


def as_bytes(pixels: Tensor) -> np.ndarray:
    return (pixels * 255).round().clamp(0, 255)[0].permute(1, 2, 0).numpy()


def reference(weights: dict[str, Tensor], picture: Image.Image, scale: int, passes: int = 1) -> np.ndarray:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    for _ in range(passes):
        pixels = upscalers.by_definition(weights, pixels, scale).clamp(0, 1)
    return as_bytes(pixels)


def furthest(one: np.ndarray | Image.Image, other: np.ndarray | Image.Image) -> int:
    return int(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max())


@pytest.mark.parametrize(("make", "scale"), NETWORKS)
def test_a_network_is_what_its_definition_says(
    tmp_path: Path, crew: Crew, make: Callable[..., dict[str, Tensor]], scale: int
) -> None:
    weights, picture = make(scale), noise(40, 28)
    expected = reference(weights, picture, scale)
    assert 20 < expected.std() < 120  # else a grey would do
    (made,) = loaded(tmp_path, weights).enlarge([picture], scale, crew=crew)
    assert made.size == (40 * scale, 28 * scale)
    assert furthest(made, expected) <= 1


@pytest.mark.parametrize(("make", "scale"), NETWORKS)
def test_there_are_no_seams(
    tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch, make: Callable[..., dict[str, Tensor]], scale: int
) -> None:
    weights, picture = make(scale), noise(150, 98)
    whole = reference(weights, picture, scale)
    for side in (32, 48):
        monkeypatch.setattr(upscaler, "_SIDES", dict.fromkeys(upscaler._SIDES, side))
        (made,) = loaded(tmp_path, weights).enlarge([picture], scale, crew=crew)
        assert furthest(made, whole) <= 1, side


def test_an_overlap_too_small_would_be_seen(tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``test_there_are_no_seams`` would find."""
    weights, picture = upscalers.compact(2), noise(150, 98)
    monkeypatch.setattr(upscaler, "_SIDES", dict.fromkeys(upscaler._SIDES, 32))
    monkeypatch.setattr("pipelines.facts.upscaler.UpscalerShape.overlap", 1)
    (made,) = loaded(tmp_path, weights).enlarge([picture], 2, crew=crew)
    assert furthest(made, reference(weights, picture, 2)) > 3


def test_sides_that_no_square_divides(tmp_path: Path, crew: Crew) -> None:
    (made,) = loaded(tmp_path, upscalers.rrdb(2)).enlarge([noise(41, 27)], 2, crew=crew)
    assert made.size == (82, 54)


def test_pass_by_pass(tmp_path: Path, crew: Crew) -> None:
    weights, picture = upscalers.compact(2), noise(24, 16)
    (made,) = loaded(tmp_path, weights).enlarge([picture], 8, crew=crew)
    assert made.size == (192, 128)
    assert furthest(made, reference(weights, picture, 2, passes=3)) <= 1


@pytest.mark.parametrize(
    ("scale", "factor", "expected"), [(2, 1.5, 2), (2, 3, 4), (4, 1.5, 2), (4, 8, 8), (4, 3, 4), (3, 5, 9)]
)
def test_it_is_large_enough_and_not_twice_that(
    tmp_path: Path, crew: Crew, scale: int, factor: float, expected: int
) -> None:
    (made,) = loaded(tmp_path, upscalers.compact(scale)).enlarge([noise(20, 20)], factor, crew=crew)
    assert made.size == (20 * expected, 20 * expected)


def test_several_pictures_and_their_alpha(tmp_path: Path, crew: Crew) -> None:
    weights = upscalers.compact(2)
    plain, cut, opaque = noise(24, 16), noise(24, 16, "RGBA", 1), noise(24, 16, seed=2).convert("RGBA")
    made = loaded(tmp_path, weights).enlarge([plain, cut, opaque], 2, crew=crew)
    assert [each.mode for each in made] == ["RGB", "RGBA", "RGBA"]
    assert furthest(made[0], reference(weights, plain, 2)) <= 1
    assert furthest(made[1].convert("RGB"), reference(weights, cut.convert("RGB"), 2)) <= 1
    grey = reference(weights, cut.getchannel("A").convert("RGB"), 2)
    expected = Image.fromarray(grey.astype(np.uint8)).convert("L")
    assert furthest(made[1].getchannel("A"), expected) <= 1
    assert made[2].getchannel("A").getextrema() == (255, 255)


def test_bfloat16_is_within_a_step_or_two(tmp_path: Path, crew: Crew) -> None:
    weights = {name: tensor * (0.3 if "body.8" in name else 1) for name, tensor in upscalers.compact(2).items()}
    picture = noise(64, 64)
    network = loaded(tmp_path, weights)
    network.module.bfloat16()
    (made,) = network.enlarge([picture], 2, crew=crew)
    off = np.abs(np.asarray(made, dtype=np.float32) - reference(weights, picture, 2))
    assert off.mean() < 0.5
    assert off.max() <= 4


def test_a_prefix_of_a_converted_file(tmp_path: Path, crew: Crew) -> None:
    weights = upscalers.compact(2)
    network = loaded(tmp_path, {f"params_ema.{name}": tensor for name, tensor in weights.items()})
    (made,) = network.enlarge([noise(16, 16)], 2, crew=crew)
    assert furthest(made, reference(weights, noise(16, 16), 2)) <= 1


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    weights = upscalers.compact(2)
    weights["body.2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(LoadRefused, match=r"body\.2\.weight has values that are no numbers"):
        loaded(tmp_path, weights)


def test_what_is_no_number_is_no_picture(tmp_path: Path, crew: Crew) -> None:
    weights = {name: tensor * 1e30 for name, tensor in upscalers.compact(2).items()}
    with pytest.raises(BadPicture, match="net makes what is no number"):
        loaded(tmp_path, weights).enlarge([noise(16, 16)], 2, crew=crew)


def test_smaller_tiles_where_memory_is_short(tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, picture = upscalers.compact(2), noise(150, 98)
    network = loaded(tmp_path, weights)
    forward, sizes = network.module.forward, list[int]()

    def short(pixels: Tensor) -> Tensor:
        sizes.append(max(pixels.shape[2:]))
        if sizes[-1] > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        made: Tensor = forward(pixels)
        return made

    monkeypatch.setattr(network.module, "forward", short)
    (made,) = network.enlarge([picture], 2, crew=crew)
    assert furthest(made, reference(weights, picture, 2)) <= 1
    assert max(sizes) > 64 >= min(sizes)


def test_no_room_for_any_tile(tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    network = loaded(tmp_path, upscalers.compact(2))

    def full(pixels: Tensor) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(network.module, "forward", full)
    with pytest.raises(OutOfMemory):
        network.enlarge([noise(150, 98)], 2, crew=crew)


def test_it_stops_at_a_tile(tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "_SIDES", dict.fromkeys(upscaler._SIDES, 32))
    shares = list[float]()

    def tick(done: int, of: int) -> None:
        shares.append(done / of)
        if len(shares) == 3:
            raise Cancelled("the client left")

    with pytest.raises(Cancelled):
        loaded(tmp_path, upscalers.compact(2)).enlarge([noise(256, 256)], 2, crew=crew, tick=tick)
    assert shares == sorted(shares)
    assert len(shares) == 3
    assert shares[-1] < 0.2


def test_a_crew_computes_on_one_core_each_and_leaves_the_others_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    crew, seen, later = Crew(2), list[int](), list[int]()
    try:

        def look() -> None:
            torch.ones(300, 300) @ torch.ones(300, 300)  # whatever torch does at the first operator
            seen.append(torch.get_num_threads())

        crew.run([look] * 8, lambda: None)
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [1] * 8
        assert torch.get_num_threads() == 2
        assert later == [2]
    finally:
        crew.close()
        torch.set_num_threads(before)
