"""A picture of the server's is the picture that plain diffusers draws from the same folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipelines.models import upscaler
from server.catalog.catalog import Model
from tests.pictures import files, pixels, png, right_half, scene, text
from tests.running import Running

Rows = list[npt.NDArray[np.int16]]
PROMPT = "a red apple on a blue background"
STEPS = 6
VISIBLE = 2.0  # of 255, mean over all channels

# Said by torch while diffusers imports the pipelines of other families.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def native(mini: Model) -> dict[str, Any]:
    return {"model": mini.id, "size": f"{mini.area.native_width}x{mini.area.native_height}"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain(auto: str, model: Model, seeds: list[int], **arguments: Any) -> Rows:
    """What a few lines with diffusers draw, one picture after the other."""
    import diffusers
    import torch

    pipeline = getattr(diffusers, auto).from_pretrained(model.plan.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if "image" not in arguments:
        arguments |= {"width": model.area.native_width, "height": model.area.native_height}
    drawn = []
    for seed in seeds:
        result = pipeline(**arguments, generator=torch.Generator("cpu").manual_seed(seed))
        drawn.append(np.asarray(result.images[0].convert("RGB")).astype(np.int16))
    return drawn


def served(server: Running, **fields: Any) -> Rows:
    return [pixels(picture) for picture in files(server.draw(**fields))]


def assert_same(ours: Rows, theirs: Rows) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1  # of 255, in any channel
        assert one.std() > 5  # a picture, not a plain colour that any two could share


@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        ({"guidance_scale": 2.5}, {"guidance_scale": 2.5}),
        ({"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance_scale": 4, "negative_prompt": "a car"}, {"guidance_scale": 4.0, "negative_prompt": "a car"}),
    ],
)
def test_text_to_image(
    server: Running, mini: Model, native: dict[str, Any], asked: dict[str, Any], arguments: dict[str, Any]
) -> None:
    common = {"prompt": PROMPT, "num_inference_steps": STEPS}
    theirs = plain("DiffusionPipeline", mini, [11, 12, 13, 14], **common, **arguments)
    assert_same(served(server, **native, **common, **asked, seed=11, n=4), theirs)
    assert_same(served(server, **native, **common, **asked, seed=12), [theirs[1]])


def test_image_to_image(server: Running, mini: Model, native: dict[str, Any]) -> None:
    source = scene(mini.area.native_width, mini.area.native_height)
    common = {"prompt": PROMPT, "num_inference_steps": STEPS, "strength": 0.7, "guidance_scale": 2.0}
    theirs = plain("AutoPipelineForImage2Image", mini, [5, 6], **common, image=source)
    assert_same(served(server, **native, **common, image=text(png(source)), seed=5, n=2), theirs)


def test_inpainting(server: Running, mini: Model, native: dict[str, Any]) -> None:
    width, height = mini.area.native_width, mini.area.native_height
    source, mask = scene(width, height), right_half(width, height)
    common = {"prompt": PROMPT, "num_inference_steps": STEPS, "strength": 1.0, "guidance_scale": 2.0}
    arguments = {**common, "image": source, "mask_image": mask, "width": width, "height": height}
    theirs = plain("AutoPipelineForInpainting", mini, [8, 9], **arguments)
    fields = {"image": text(png(source)), "mask": text(png(mask))}
    ours = served(server, **native, **common, **fields, seed=8, n=2)
    half = width // 2
    assert_same([picture[:, half:] for picture in ours], [picture[:, half:] for picture in theirs])
    for picture in ours:  # diffusers decodes the rest anew; here it is the source itself
        assert np.array_equal(picture[:, :half], np.asarray(source)[:, :half])


def test_a_larger_size_is_the_native_drawing_enlarged(server: Running, mini: Model, native: dict[str, Any]) -> None:
    import torch

    fields = {"model": mini.id, "prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": 2.0, "seed": 11}
    (ours,), small = served(server, **fields, size="1024x1024"), served(server, **fields, size=native["size"])
    assert_same(
        small, plain("DiffusionPipeline", mini, [11], prompt=PROMPT, num_inference_steps=STEPS, guidance_scale=2.0)
    )
    assert mini.upscaler is not None
    network, picture = upscaler.load(mini.upscaler, torch.device("cpu")), Image.fromarray(small[0].astype(np.uint8))
    (wanted,) = network.enlarge([picture], 1024 / picture.width)
    assert np.abs(ours - np.asarray(wanted).astype(np.int16)).max() <= 2
    resampled = np.asarray(picture.resize((1024, 1024), Image.Resampling.LANCZOS)).astype(np.int16)
    assert np.abs(ours - resampled).max() > 2


def test_run_alone_twice_the_bytes_are_the_same(server: Running, native: dict[str, Any]) -> None:
    first, second = (files(server.draw(**native, seed=21, n=2, num_inference_steps=3)) for _ in range(2))
    assert first == second


def test_whoever_else_is_served_the_picture_is_the_same(server: Running, native: dict[str, Any]) -> None:
    fields = {**native, "prompt": PROMPT, "num_inference_steps": 4, "seed": 33}
    (alone,) = served(server, **fields)
    others = [
        threading.Thread(target=server.draw, kwargs={**native, "n": 3, "num_inference_steps": 5, "scheduler": name})
        for name in ("euler", "unipc")
    ]
    for thread in others:
        thread.start()
    (crowded,) = served(server, **fields)
    for thread in others:
        thread.join(120)
    assert_same([crowded], [alone])


@pytest.mark.long
def test_hd_is_nearer_to_the_converged_picture_than_standard(server: Running, native: dict[str, Any]) -> None:
    ways: list[dict[str, Any]] = [{"num_inference_steps": 60}, {"quality": "standard"}, {"quality": "hd"}]
    asked = [
        {**native, "prompt": prompt, "seed": seed, "n": 2, **way}
        for prompt, seed in (("a red apple", 1), ("a cat on a beach", 50))
        for way in ways
    ]
    with ThreadPoolExecutor(len(asked)) as pool:  # together they share steps, which takes less time
        drawn = list(pool.map(lambda fields: served(server, **fields), asked))
    nearer, ratios = 0, []
    for converged, standard, hd in (drawn[:3], drawn[3:]):
        for best, plain_, fine in zip(converged, standard, hd, strict=True):
            distances = np.abs(plain_ - best).mean(), np.abs(fine - best).mean()
            nearer += distances[1] < distances[0]
            ratios.append(distances[1] / distances[0])
    print("hd/standard distance:", ratios)
    assert nearer == 4, ratios
    assert np.mean(ratios) < 0.8, ratios


def test_vivid_and_natural_differ_visibly(server: Running, native: dict[str, Any]) -> None:
    differences = []
    for prompt, seed in (("a red apple", 1), ("a cat on a beach", 50)):
        fields = {**native, "prompt": prompt, "seed": seed, "n": 2}
        vivid, natural = (served(server, **fields, style=style) for style in ("vivid", "natural"))
        differences += [np.abs(one - other).mean() for one, other in zip(vivid, natural, strict=True)]
    print("vivid/natural difference:", differences)
    assert min(differences) > VISIBLE, differences
