import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training import colours
from training.samples import oklab
from training.samples.archive import Archive
from training.samples.maker import CARD, SampleMaker
from training.samples.sprites import CELL
from training.scenes import LAYOUTS, SHAPES

from .conftest import BLUE, GREY, ORANGE, PALE, RED, YELLOW

TARGETS = oklab.of_rgb(torch.tensor([colour.rgb for colour in colours.COLOURS]))
OWN = oklab.of_rgb(torch.tensor([ORANGE, RED, GREY, PALE, BLUE, YELLOW]))
HALF = CARD * CELL // 2


def lab(pixels: Tensor) -> Tensor:
    """(N, 3) pixels of -1..1 in Oklab."""
    return oklab.of_rgb((pixels + 1) * 127.5)


def test_every_object_lies_in_its_box_in_its_colour(maker: SampleMaker) -> None:
    """Left of an object's eye, unless another object covers it, are its own colour's pixels."""
    seen = 0
    for cells in SHAPES:
        samples = maker.draw(24, cells)
        assert samples.pixels.shape == (24, 3, cells[0] * CELL, cells[1] * CELL)
        for pixels, labels, boxes in zip(samples.pixels, samples.labels.tolist(), samples.boxes.tolist(), strict=True):
            there = [box for box in boxes if box[3] > 0]
            for n, (which, left, top, side) in enumerate(there):
                x, y = (2 * left + side) * CELL // 2 - side, (2 * top + side) * CELL // 2
                hidden = any(o[1] * CELL <= x < (o[1] + o[3]) * CELL for o in there[n + 1 :]) and any(
                    o[2] * CELL <= y < (o[2] + o[3]) * CELL for o in there[n + 1 :]
                )
                if hidden:
                    continue
                concept, colour = labels[2 + 2 * which], labels[3 + 2 * which]
                wanted = TARGETS[colour] if colour >= 0 else OWN[concept]
                assert (lab(pixels[:, y, x][None])[0] - wanted).norm() < 0.12
                seen += 1
    assert seen > 80


@pytest.mark.parametrize("colour", range(len(colours.NAMES)), ids=colours.NAMES)
@pytest.mark.parametrize("concept", [0, 2, 3], ids=["orange", "grey", "pale"])
def test_a_colour_is_what_it_is_called(printer: SampleMaker, concept: int, colour: int) -> None:
    """ "A blue car" used to be red: captions had colours, objects had none."""
    pixels, cover = printer.cards(torch.tensor([concept]), torch.tensor([colour]))
    inside = cover[0, 0] > 0.9
    inside[HALF - 16 : HALF + 16, HALF - 16 : HALF + 16] = False  # the eye
    upper = inside.clone()
    upper[HALF + 8 :] = False  # without the shadow
    mean = lab(pixels[0, :, upper].T).mean(0)
    assert int((TARGETS - mean).norm(dim=1).argmin()) == colour


def test_eyes_and_shadows_are_kept(printer: SampleMaker) -> None:
    for colour in ("blue", "yellow", "white", "pink"):
        pixels, _ = printer.cards(torch.tensor([0]), torch.tensor([colours.NAMES.index(colour)]))
        eye = lab(pixels[0, :, HALF, HALF][None])[0]
        lit, shadow = (lab(pixels[0, :, y, HALF][None])[0] for y in (HALF - 30, HALF + 36))
        assert eye[0] < 0.3
        assert shadow[0] < lit[0] - 0.03


def test_an_object_in_its_own_colour_is_left_alone(printer: SampleMaker) -> None:
    pixels, cover = printer.cards(torch.arange(6), torch.full((6,), -1))
    for n in range(6):
        at = HALF, HALF - 24
        assert cover[n, 0, at[0], at[1]] == 1
        assert (lab(pixels[n, :, at[0], at[1]][None])[0] - OWN[n]).norm() < 0.02


def test_the_same_seed_makes_the_same_samples(archive: Archive) -> None:
    made = []
    for seed in (5, 5, 6):
        maker = SampleMaker(archive, torch.device("cpu"), seed)
        samples = maker.draw(8)
        made.append((samples.pixels, samples.labels, maker.captions(samples.labels)))
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[1], strict=True))
    assert not torch.equal(made[0][1], made[2][1])
    assert not torch.equal(made[0][0], made[2][0])


def test_held_out_pairs_are_never_made_nor_described(archive: Archive) -> None:
    blue = colours.NAMES.index("blue")
    held_out = torch.tensor([(0, blue), (2, colours.NAMES.index("red"))])
    maker = SampleMaker(archive, torch.device("cpu"), 1, held_out)
    labels = torch.cat([maker.labels(3000), maker.draw(300).labels])
    pairs = torch.cat((labels[:, 2:4], labels[:, 4:6]))
    for concept, colour in held_out.tolist():
        assert not ((pairs[:, 0] == concept) & (pairs[:, 1] == colour)).any()
        assert ((pairs[:, 0] == concept) & (pairs[:, 1] >= 0)).any()


def test_what_only_has_names_with_a_colour_is_not_recoloured(maker: SampleMaker) -> None:
    labels = maker.labels(2000)
    assert (labels[labels[:, 2] == 4, 3] == -1).all(), "a red blue bell"
    assert 0.35 < float((labels[labels[:, 2] == 0, 3] >= 0).float().mean()) < 0.65


def test_twice_the_scale_is_the_same_picture_larger(archive: Archive) -> None:
    """On a plain ground: the paintings of scenes are others at another size."""
    small, large = (SampleMaker(archive, torch.device("cpu"), 9).draw(12, scale=scale) for scale in (1, 2))
    assert large.pixels.shape == (12, 3, 256, 256)
    assert torch.equal(small.labels, large.labels)
    plain = small.labels[:, 1] <= len(colours.NAMES) - 4
    assert int(plain.sum()) > 4
    assert (F.avg_pool2d(large.pixels, 2) - small.pixels)[plain].abs().mean() < 0.02


def test_a_pale_object_gets_a_darker_ground(archive: Archive) -> None:
    """A white cup was lost in a pastel ground."""
    maker = SampleMaker(archive, torch.device("cpu"), 2)
    ground = torch.zeros(64, dtype=torch.long)
    pale, dark = (
        maker.grounds.paint(ground, torch.tensor((light, 0.0, 0.0)).expand(64, 3), 16, 16)[0] for light in (0.97, 0.3)
    )
    assert float(pale.mean()) < 0.65 < 0.8 < float(dark.mean())


def test_a_ground_that_nobody_asked_for_has_another_hue(maker: SampleMaker) -> None:
    """A sky blue gear was lost in a light blue ground."""
    blue = oklab.of_rgb(torch.tensor([(118, 190, 246)])).expand(64, 3)
    ground = maker.grounds.paint(torch.zeros(64, dtype=torch.long), blue, 16, 16)[0].mean((1, 2))
    assert (ground[:, 2] - ground[:, 0]).max() < 0.02, "none is blue"


def test_objects_stand_out_from_the_ground_that_is_asked_for(maker: SampleMaker) -> None:
    labels = maker._labels(4000, torch.tensor([1.0, *[0.0] * (len(LAYOUTS) - 1)]))
    asked = labels[labels[:, 1] > 0]
    far = (maker.means[asked[:, 2], asked[:, 3]] - maker.ground_means[asked[:, 1]]).norm(dim=1)
    assert float((far < 0.22).float().mean()) < 0.02


def test_shares_of_layouts_can_be_chosen(maker: SampleMaker) -> None:
    assert (maker.draw(32, several=0.0).labels[:, 0] == LAYOUTS.index("single")).all()
    assert (maker.draw(32, several=1.0).labels[:, 0] != LAYOUTS.index("single")).all()
