"""The whole way, from the art packages to `weights/`.

Knows the order of the stages and how many samples each should see; every stage goes on from its checkpoint,
so running this again after a break finishes what is missing.
"""

import argparse
import subprocess
import sys

from . import autoencoder, pool, runtime, text_encoder, unet

STAGES = (
    ("autoencoder", autoencoder.CHECKPOINT, autoencoder.SAMPLES),
    ("text_encoder", text_encoder.CHECKPOINT, text_encoder.SAMPLES),
    ("unet", unet.CHECKPOINT, unet.SAMPLES),
)


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"training.{module}", *arguments]
    subprocess.run(command, check=True, cwd=runtime.ROOT)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=unet.SAMPLES, help="of the UNet, in all")
    options = parser.parse_args()
    for module, checkpoint, samples in STAGES:
        wanted = samples
        if module == "unet":
            wanted = options.samples
            run("pool", "--shards", str(pool.SHARDS))
        if runtime.samples_of(checkpoint) < wanted:
            run(module, "--samples", str(wanted))
    run("export")


if __name__ == "__main__":
    main()
