"""The whole way, from the art packages to `weights/`.

Knows the order of the stages and how many samples each should see. Every stage goes on from its checkpoint, or from the
weights that ship, so running this again after a break finishes what is missing.
"""

import argparse
import subprocess
import sys

from . import autoencoder, resume, runtime, shards, text_encoder, unet

STAGES = (
    ("autoencoder", autoencoder.CHECKPOINT, autoencoder.SAMPLES),
    ("text_encoder", text_encoder.CHECKPOINT, text_encoder.SAMPLES),
    ("unet", unet.CHECKPOINT, unet.SAMPLES),
)


def run(module: str, *arguments: str) -> None:
    """Run a stage in a process of its own."""
    command = [sys.executable, "-m", f"training.{module}", *arguments]
    subprocess.run(command, check=True, cwd=runtime.ROOT)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=unet.SAMPLES, help="of the UNet, in all")
    parser.add_argument("--fresh", action="store_true", help="from nothing, not from the weights that ship")
    options = parser.parse_args()
    runtime.CHECKPOINTS.mkdir(exist_ok=True)
    runtime.BUILD.mkdir(exist_ok=True)
    if not options.fresh:
        resume.resume()
    wanted = {module: options.samples if module == "unet" else samples for module, _, samples in STAGES}
    missing = [module for module, checkpoint, _ in STAGES if runtime.samples_of(checkpoint) < wanted[module]]
    for module in missing:
        if module != "autoencoder":
            run("shards", "--shards", str(shards.SHARDS))  # and the codes that the other two agree on
        # a UNet that has begun needs the latents as they are
        more = ["--decoder-only"] if module == "autoencoder" and runtime.samples_of(unet.CHECKPOINT) else []
        run(module, "--samples", str(wanted[module]), *more)
    run("export")


if __name__ == "__main__":
    main()
