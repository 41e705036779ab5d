"""The whole way, from the art packages to `weights/`.

Knows the order of the stages and how many samples each should see; every stage goes on from its checkpoint, or from the
last stretch, so running this again after a break finishes what is missing.
"""

import argparse
import subprocess
import sys

from . import autoencoder, pool, runtime, started, text_encoder, unet

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
    parser.add_argument("--fresh", action="store_true", help="from nothing, not from the last stretch")
    options = parser.parse_args()
    runtime.CHECKPOINTS.mkdir(exist_ok=True)
    runtime.BUILD.mkdir(exist_ok=True)
    if not options.fresh:
        started.resume()
    wanted = {module: options.samples if module == "unet" else samples for module, _, samples in STAGES}
    missing = [module for module, checkpoint, _ in STAGES if runtime.samples_of(checkpoint) < wanted[module]]
    for module in missing:
        if module != "autoencoder":
            run("pool", "--shards", str(pool.SHARDS))  # with it, the codes that the other two agree on
        # a UNet that has begun hears and paints in the latents as they are
        more = ["--decoder-only"] if module == "autoencoder" and runtime.samples_of(unet.CHECKPOINT) else []
        run(module, "--samples", str(wanted[module]), *more)
    run("export")


if __name__ == "__main__":
    main()
