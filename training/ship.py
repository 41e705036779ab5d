"""From checkpoints to the weights that ship: `weights/darkroom-mini`, and how many samples they have learnt from.

Knows where they lie and which checkpoints are counted; knows nothing of training.
"""

import argparse
import json

from . import autoencoder, export, resume, runtime, text_encoder, unet


def ship() -> None:
    """Write `resume.FOLDER` and `resume.SEEN` from the checkpoints as they are."""
    export.export(resume.FOLDER)
    shipped = (autoencoder.CHECKPOINT, text_encoder.READER, text_encoder.CHECKPOINT, unet.CHECKPOINT)
    seen = {path.stem: runtime.samples_of(path) for path in shipped}
    resume.SEEN.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # so that --help ships nothing
    ship()


if __name__ == "__main__":
    main()
