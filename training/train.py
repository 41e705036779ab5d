"""The training: one command, from an archive of art to the weights of all networks, in so many minutes.

Knows the command line and how the time is shared out. It needs torch, numpy, pillow and safetensors, and nothing of
what only `pack` and `export` need: it runs where there is no network and no diffusers.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from . import checkpoint, heldout, resume, runtime, together
from .checkpoint import Checkpoint
from .plans import MORE, NEW, PLANS, STAGES, Plan
from .runtime import Clock
from .samples.archive import Archive
from .samples.maker import SampleMaker
from .session import APART, PICTURED, SEED, Session


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    with together.processes(options.processes, [sys.executable, "-m", "training.train", *given]):
        _learn(options)


def _learn(options: argparse.Namespace) -> None:
    plan = PLANS[options.plan]
    if options.step:
        plan = replace(plan, step=options.step)
    clock = Clock(60 * options.minutes - time.process_time())  # which the imports have spent
    clock.listen()
    runtime.set_up(SEED)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.processes > 1 and device.type != "cpu":
        raise SystemExit(f"--processes: several learn as one on a CPU only, not on {device.type}")
    archive = Archive.open(options.art)
    given = _given(options.output, None if options.fresh else options.resume, options.fresh)
    session = _session(archive, plan, device, options.output, _seed(given))
    if given is not None:
        session.resume(given)
    stages = options.stages or list(MORE if "autoencoder" in session.nets else NEW)
    try:
        session.check(stages)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{device.type}, plan {options.plan}, stages {', '.join(stages)}; {clock.shown()}", flush=True)
    run(session, stages, clock)


def run(session: Session, stages: list[str], clock: Clock) -> None:
    """Run the stages in what is left of the clock, less the margin in which the last files are written."""
    session.prepare(stages)
    shares = {name: session.plan.stages[name].share for name in stages}
    learnt: set[str] = set()
    for n, name in enumerate(stages):
        (left,) = together.as_the_first(clock.left)
        if left <= session.plan.margin_s:
            print(f"no time for {', '.join(stages[n:])}", flush=True)
            break
        network = session.learn(name, clock, shares[name] / sum(shares[later] for later in stages[n:]))
        size = session.save()
        if together.rank():
            continue
        print(f"saved {size / 1e6:.1f} MB in {session.output}; {clock.shown()}", flush=True)
        learnt.add(network)
        if name != stages[-1] and clock.left > session.sheet_needs(network):
            session.draw_sheet(network, clock.now)
    # Nothing waits any more: what the run has come to, as far as time is left beside half of the margin.
    for network in () if together.rank() else PICTURED:
        needed = session.took.get(network, 0) + session.plan.margin_s / 2
        if network in learnt and clock.left > needed:
            session.draw_sheet(network, clock.now)
    print(f"the end; {clock.shown()}", flush=True)


def _session(archive: Archive, plan: Plan, device: torch.device, output: Path, seed: int) -> Session:
    began = time.monotonic()
    maker = SampleMaker(archive, device, seed, heldout.coloured(archive.names))
    vocabulary = resume.vocabulary(archive.tokenizer["tokenizer.json"])
    print(f"{len(archive.names)} objects ready in {time.monotonic() - began:.1f} s", flush=True)
    return Session(maker, archive.names, archive.embeddings.float(), vocabulary, plan, device, output)


def _given(output: Path, folder: Path | None, fresh: bool) -> Checkpoint | None:
    """What to go on from: the run's own checkpoint, or else the weights that are asked for."""
    if not fresh and checkpoint.exists(output):
        print(f"going on from {output}", flush=True)
        return checkpoint.load(output)
    return None if folder is None else resume.read(folder)


def _seed(given: Checkpoint | None) -> int:
    """Another one after every session, so that a resumed one sees other samples."""
    return SEED + (sum(given.seen.values()) if given else 0) + APART * together.rank()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.train", description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="the archive that training.pack writes")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and the contact sheets")
    parser.add_argument("--minutes", type=float, required=True, help="when to end, all writing included")
    parser.add_argument("--plan", choices=PLANS, default="cpu")
    parser.add_argument("--stages", type=_stages, help=f"some of {','.join(STAGES)}; else all that the weights ask for")
    parser.add_argument("--resume", type=Path, help="a checkpoint, or a folder of diffusers, to go on from")
    parser.add_argument("--fresh", action="store_true", help="from nothing, whatever there is")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; else cuda where there is one")
    parser.add_argument("--processes", type=int, default=1, help="that learn as one, on a CPU: one a core (default: 1)")
    parser.add_argument("--step", choices=("eager", "compile", "graph"), help="how a step is done; else as planned")
    return parser


def _stages(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := [name for name in asked if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: no stage; there are {', '.join(STAGES)}")
    return [name for name in STAGES if name in asked]


if __name__ == "__main__":
    main()
