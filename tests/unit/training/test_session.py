"""A whole run on tiny networks: every stage, the checkpoint, the sheet, and its end on the minute."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from training import checkpoint, resume, runtime, sheet
from training import session as session_module
from training.nets.autoencoder import AutoencoderShape
from training.nets.unet import UNetShape
from training.nets.upscaler import UpscalerShape
from training.plans import NEW, SQUARE, TALL, WIDE, Plan, StagePlan
from training.runtime import Clock
from training.session import Session
from training.train import run

from .standins import OBJECTS, VOCABULARY, DiscMaker

TINY = Plan(
    {name: StagePlan(0.2, 4, 1e-3) for name in ("autoencoder", "decoder", "text", "unet", "upscaler")},
    autoencoder=AutoencoderShape(8, (8,) * 3, decoder_blocks=(1, 0, 0)),
    unet=UNetShape((16, 16, 16, 16)),
    upscaler=UpscalerShape(8, 1),
    cells=((SQUARE, 0.4), (WIDE, 0.3), (TALL, 0.3)),
    margin_s=2,
    save_s=3,
    sheet_s=4,
)
NAMES = [f"thing {n}" for n in range(OBJECTS)]
TOKENS = [str(n) for n in range(VOCABULARY)]


class TickingClock:
    """Time that goes on by a part of a second whenever it is asked for."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 0.05
        return self.time


def session(output: Path, plan: Plan = TINY) -> Session:
    """A session on discs."""
    table = torch.randn(VOCABULARY, 192, generator=torch.Generator().manual_seed(4)) * 0.05
    return Session(DiscMaker(), NAMES, table, TOKENS, plan, torch.device("cpu"), output)


FEW = tuple((cells, rows[:2]) for cells, rows in sheet.WATCHED)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clock]:
    """A run of all stages in ten seconds of a clock that only ticks."""
    output, clock = tmp_path_factory.mktemp("run"), Clock(10, TickingClock())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, "WATCHED", FEW)
        patch.setattr(session_module, "PAIRS", 4)
        run(session(output), list(NEW), clock)
    return output, clock


def test_a_run_ends_before_its_time(ended: tuple[Path, Clock]) -> None:
    _, clock = ended
    assert clock.left > 0


def test_a_run_leaves_the_weights_of_all_networks_and_their_sheets_in_few_files(ended: tuple[Path, Clock]) -> None:
    """The upscaler's sheet, the last one, lay over the UNet's: nobody saw what the run had learnt to draw."""
    output, _ = ended
    kept = checkpoint.load(output)
    assert set(kept.weights) == {"autoencoder", "text_encoder", "unet", "upscaler"}
    assert all(count > 0 for count in kept.seen.values())
    assert all(runtime.finite(weights) for weights in kept.weights.values())
    for name in kept.weights:
        kept.net(name)  # strict: no key may be missing, none unexpected
    for name in ("autoencoder", "unet", "upscaler"):
        with Image.open(output / f"sheet-{name}.png") as opened:
            opened.verify()
    files = list(output.iterdir())
    assert len(files) <= 8
    assert all(path.stat().st_size < 16 << 20 for path in files)


def test_a_run_goes_on_from_its_checkpoint(ended: tuple[Path, Clock], capsys: pytest.CaptureFixture[str]) -> None:
    output, _ = ended
    further, given = session(output), checkpoint.load(output)
    further.resume(given)
    assert "begin anew" not in capsys.readouterr().out
    assert further.seen == given.seen
    before = {key: weight.clone() for key, weight in further.kept["autoencoder"].items()}
    further.learn("decoder", Clock(4, TickingClock()), 1.0)
    assert further.seen["autoencoder"] > given.seen["autoencoder"]
    moved = {key for key, weight in further.kept["autoencoder"].items() if not torch.equal(weight, before[key])}
    assert moved
    assert all(key.startswith("decoder.") for key in moved)  # the latents stay as they are


def test_the_unets_sheet_has_64_pictures_of_three_shapes(ended: tuple[Path, Clock], tmp_path: Path) -> None:
    assert sum(len(rows) for _, rows in sheet.WATCHED) == 64
    output, _ = ended
    drawing = session(tmp_path)
    drawing.resume(checkpoint.load(output))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, "WATCHED", FEW)
        drawing.draw_sheet("unet", TickingClock())
    with Image.open(tmp_path / "sheet-unet.png") as opened:
        assert opened.size == (8 * 132, 148)


def test_a_stage_without_what_it_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage unet: needs the autoencoder"):
        session(tmp_path).check(["unet"])
    session(tmp_path).check(["autoencoder", "text", "unet"])


def test_a_larger_network_takes_what_fits(ended: tuple[Path, Clock], capsys: pytest.CaptureFixture[str]) -> None:
    output, _ = ended
    larger = session(output, replace(TINY, unet=UNetShape((16, 16, 16, 32))))
    larger.resume(checkpoint.load(output))
    assert "unet: " in (told := capsys.readouterr().out)
    assert "begin anew: down_blocks.3" in told


def test_training_needs_nothing_that_only_packing_and_export_need() -> None:
    forbidden = ("diffusers", "transformers", "tokenizers", "scipy", "accelerate", "huggingface_hub")
    program = f"import sys; sys.modules.update(dict.fromkeys({forbidden!r})); import training.train"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=resume.SHIPPED.parents[1])
