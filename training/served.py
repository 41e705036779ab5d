"""Figures of what a running server gives, all else included: edits to other colours, colours, and sharpness.

Knows the server's HTTP, the names of colours and the art; knows nothing of networks.
"""

import argparse
import base64
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from torch import Tensor

from . import concepts, grounds, matching, runtime, scenes, shades, sheet
from .questions import TINTED, TINTS, with_article

SIZE = 512  # pixels of a picture
SEED = 1  # of every picture
EDITS = 20
EDIT_SEED = 5  # of the choice of edits
OUTLINE = 0.8  # IoU of the object's masks from which its outline has stayed
ART_SIDE = 0.75  # of the frame, as the server draws a lone object
SHARP = 24  # objects that sharpness is measured on


def drawn(client: httpx.Client, prompt: str, size: str = f"{SIZE}x{SIZE}") -> Image.Image:
    """What the server draws of a prompt at default settings."""
    body = {"prompt": prompt, "size": size, "seed": SEED, "response_format": "b64_json"}
    return _picture(client.post("/v1/images/generations", json=body))


def edited(client: httpx.Client, source: Image.Image, prompt: str, strength: float | None) -> Image.Image:
    """What the server makes of a picture; a strength of None is the server's own."""
    data = io.BytesIO()
    source.save(data, "PNG")
    fields = {"prompt": prompt, "size": f"{SIZE}x{SIZE}", "seed": str(SEED), "response_format": "b64_json"}
    if strength is not None:
        fields["strength"] = str(strength)
    return _picture(client.post("/v1/images/edits", data=fields, files={"image": ("source.png", data.getvalue())}))


def _picture(answer: httpx.Response) -> Image.Image:
    if answer.status_code != 200:
        raise SystemExit(f"{answer.request.url}: {answer.status_code} {answer.text}")
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).convert("RGB")


def art(sprite: Image.Image, seed: int, enlarged: bool = True) -> Image.Image:
    """The clean art on a pastel ground, as large as the server draws a lone object, or at its own pixels."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray((grounds.paint(0, rng, SIZE) * 255).astype(np.uint8)).convert("RGBA")
    ratio = ART_SIDE * SIZE / max(sprite.size) if enlarged else 1
    side = round(sprite.width * ratio), round(sprite.height * ratio)
    laid = sprite.resize(side, Image.Resampling.LANCZOS)
    at = (SIZE - side[0]) // 2, (SIZE - side[1]) // 2
    covered = Image.new("RGBa", (SIZE, SIZE))
    covered.paste(laid, at)
    return Image.alpha_composite(ground, covered.convert("RGBA")).convert("RGB")


def edits(client: httpx.Client, out: Path, strength: float | None) -> dict[str, float]:
    """Objects drawn in one colour and edited to another: whether the colour shows, and whether the outline stays."""
    rng = random.Random(EDIT_SEED)  # noqa: S311 - nothing secret
    shown, captions, rows = [], [], []
    for name in rng.sample(TINTED, EDITS):
        old, new = rng.sample([tint for tint in TINTS if tint not in ("white", "gray")], 2)
        source = drawn(client, with_article(f"{old} {name}"))
        made = edited(client, source, with_article(f"{new} {name}"), strength)
        one, other = mask(source), mask(made)
        overlap = float((one & other).sum() / (one | other).sum().clamp(min=1))
        rows.append((float(shades.named(made) == new), float(overlap >= OUTLINE), overlap))
        shown += [source, made]
        captions += [f"{old} {name}", f"{new}: {overlap:.2f}"]
    sheet.lay(shown, captions, 8).save(out / "edits.png")
    colour, stays, _ = np.array(rows).T
    return {
        "edits": len(rows),
        "colour shows": float(colour.mean()),
        "outline stays": float(stays.mean()),
        "both": float((colour * stays).mean()),
        "mean IoU": float(np.mean([row[2] for row in rows])),
    }


def mask(picture: Image.Image) -> Tensor:
    """(S, S): where the object is, at the size at which pictures are compared."""
    pixels = matching.pixels_of(picture)
    found: Tensor = (pixels - matching.ground_of(pixels)).norm(dim=0) > shades.STANDS_OUT
    return found


def coloured(client: httpx.Client) -> dict[str, float]:
    """Twenty objects in twelve colours: how many show the colour that was asked for."""
    right = [shades.named(drawn(client, with_article(f"{tint} {name}"))) == tint for name in TINTED for tint in TINTS]
    return {"asked": len(right), "colour right": float(np.mean(right))}


def sharpness(picture: Image.Image) -> float:
    """Contrast over width of the picture's edges, a pixel of edge: the steepness, weighted by itself.

    An edge of contrast C that takes w pixels is C / w steep in each of them, so that the squares of all steepnesses
    over their sum is C / w, however long the edges are and however much plain ground lies between them.
    """
    grey = np.asarray(picture.convert("L"), np.float64) / 255
    steep = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])
    steep = steep[steep > 4 / 255]  # less is the ground's gradient and the noise of eight bits
    return float((steep**2).sum() / max(steep.sum(), 1e-9))


def sharp(client: httpx.Client, out: Path) -> dict[str, float]:
    """Sharpness of what is drawn over that of the art, at its own pixels, on the same grounds."""
    known = concepts.load(runtime.ART)
    chosen = random.Random(EDIT_SEED).sample(range(len(known)), SHARP)  # noqa: S311 - nothing secret
    ratios, shown, captions = [], [], []
    for n in chosen:
        made = drawn(client, with_article(known[n].names[0]))
        true = art(scenes.load_sprite(runtime.ART, known[n]), n, enlarged=False)
        ratios.append(sharpness(made) / sharpness(true))
        shown += [made, true]
        captions += [known[n].names[0], f"{ratios[-1]:.2f}"]
    sheet.lay(shown, captions, 8).save(out / "sharpness.png")
    return {"objects": len(ratios), "mean": float(np.mean(ratios)), "median": float(np.median(ratios))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.served", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--out", type=Path, default=runtime.BUILD / "served", help="where sheets and figures go")
    parser.add_argument("--strength", type=float, help="of edits; else the server's own")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, float]] = {}
    with httpx.Client(base_url=options.url, timeout=120) as client:
        measures: dict[str, Callable[[], dict[str, float]]] = {
            "edits": lambda: edits(client, options.out, options.strength),
            "sharpness": lambda: sharp(client, options.out),
            "colours": lambda: coloured(client),
        }
        for name, measure in measures.items():
            figures[name] = {key: round(value, 3) for key, value in measure().items()}
            print(name, figures[name], flush=True)
    (options.out / "served.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
