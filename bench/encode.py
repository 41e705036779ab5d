"""What does encoding a picture cost? PNG at every compress level, JPEG and WebP, in CPU milliseconds and bytes.

    python bench/encode.py out/*.png       # pictures that the server made, brought to 1024×1024 (`make demo` first)

Beside them it measures a picture made here with the grain of a photograph, which the embedded model cannot draw.
CPU time rather than time on the clock: a busy machine disturbs it less. docs/bench.md has a table of its output.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 1024  # pixels
QUALITY = 90  # the server's default output_compression


def photo_like() -> Image.Image:
    """Smooth light, some edges, and the noise of a sensor: hard to compress, as photographs are."""
    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    fine = random.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    detail = np.asarray(Image.fromarray(fine).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    grain = random.normal(0, 3, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(0.8 * smooth + 0.2 * detail + grain, 0, 255).astype(np.uint8))


def encodings() -> Iterator[tuple[str, dict[str, object]]]:
    for level in range(10):
        yield f"png {level}", {"format": "PNG", "compress_level": level}
    yield "jpeg", {"format": "JPEG", "quality": QUALITY}
    yield "webp", {"format": "WEBP", "quality": QUALITY}


def measure(image: Image.Image, options: dict[str, object], repeats: int) -> tuple[float, int]:
    """Median CPU milliseconds, and bytes."""
    costs, size = [], 0
    for _ in range(repeats):
        out = io.BytesIO()
        started = time.process_time()
        image.save(out, **options)  # type: ignore[arg-type]
        costs.append((time.process_time() - started) * 1000)
        size = out.tell()
    return statistics.median(costs), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path, help="pictures that the server made")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many is printed (default: 5)")
    arguments = parser.parse_args()
    drawn = [
        Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for path in arguments.pictures
    ]
    print("| encoding | drawn, ms | drawn, KB | photo-like, ms | photo-like, KB |")
    print("|---|--:|--:|--:|--:|")
    for name, options in encodings():
        ms, size = measure(photo_like(), options, arguments.repeats)
        row = ["–", "–"]
        if drawn:
            results = [measure(image, options, arguments.repeats) for image in drawn]
            row = [
                f"{statistics.mean(r[0] for r in results):.0f}",
                f"{statistics.mean(r[1] for r in results) / 1e3:.0f}",
            ]
        print(f"| {name} | {row[0]} | {row[1]} | {ms:.0f} | {size / 1e3:.0f} |")


if __name__ == "__main__":
    main()
