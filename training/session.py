"""A session: the networks of one run, the stages that teach them, checkpoints and contact sheets.

Knows which network needs which; knows neither the command line nor how a network learns.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from . import checkpoint, codes, colours, grounds, growing, resume, runtime, sheet, text_encoder, together
from .autoencoder import AutoencoderStage
from .checkpoint import Checkpoint, Shape
from .decoder import DecoderStage, Drawer
from .learning import Learner
from .nets.autoencoder import Autoencoder
from .nets.text_encoder import TextEncoder
from .nets.unet import UNet
from .nets.upscaler import Upscaler
from .plans import Plan
from .runtime import Clock
from .sampling import sample
from .scenes import LAYOUTS
from .stage import Course, Maker, Stage
from .text_encoder import PromptCodes, TextStage, shape_of
from .unet import UNetStage, initialise_keys
from .upscaler import UpscalerStage, initialise_smoothly
from .windows import FINE

SEED = 17
APART = 1_000_003  # between the seeds of processes that learn as one
NEEDS = {"decoder": ("autoencoder",), "text": ("autoencoder",), "unet": ("autoencoder",), "upscaler": ("autoencoder",)}
MAKES = {"autoencoder": "autoencoder", "text": "text_encoder", "unet": "unet", "upscaler": "upscaler"}
PAIRS = 32  # on a sheet of true pictures and what was made of them
SHEET_SHARE = 0.1  # of the time, that sheets may take
PICTURED = ("unet", "autoencoder", "upscaler")  # networks whose work can be seen, the one that is asked for first
Net = TypeVar("Net", bound=nn.Module)


class Session:
    """The networks as far as they are there: given, or made by a stage that has begun."""

    def __init__(
        self,
        maker: Maker,
        names: list[str],
        embeddings: Tensor,
        vocabulary: list[str],
        plan: Plan,
        device: torch.device,
        output: Path,
    ) -> None:
        self.maker, self.names, self.plan, self.device, self.output = maker, names, plan, device, output
        self.embeddings, self.vocabulary = embeddings, vocabulary
        self.shapes: dict[str, Shape] = {
            "autoencoder": plan.autoencoder,
            "text_encoder": shape_of(len(embeddings)),
            "unet": plan.unet,
            "upscaler": plan.upscaler,
        }
        self.nets: dict[str, nn.Module] = {}
        self.seen: dict[str, int] = {}
        self.kept: dict[str, dict[str, Tensor]] = {}  # what the checkpoint holds of each
        self.watched: dict[int, Tensor] = {}  # token ids of the sheet's prompts
        self.saved = self.drawn = 0.0  # when; as of the clock
        self.took: dict[str, float] = {}  # seconds for the last sheet of each network

    def resume(self, given: Checkpoint) -> None:
        """Take what fits of given weights, and tell what did not."""
        for name, weights in given.weights.items():
            net = self._fresh(name)
            if isinstance(net, Autoencoder):
                weights = growing.fitted(net, weights)
            taken = resume.take(net, weights, given.vocabulary, self.vocabulary)
            print(taken.told(name), flush=True)
            if taken.weights == 0:
                continue
            if name == "text_encoder" and not _knows_colours(net):
                print("text_encoder: it carries no colours yet", flush=True)
            if name == "unet" and not given.shapes and not _knows_colours(given.weights.get("text_encoder", {})):
                resume.forget_colours(net)
            self.nets[name], self.seen[name] = net.eval(), given.seen.get(name, 0)
            self.kept[name] = net.state_dict()

    def _fresh(self, name: str) -> nn.Module:
        """A network with random weights, and with what is known in advance."""
        torch.manual_seed(SEED)
        net = checkpoint.build(name, self.shapes[name])
        if isinstance(net, TextEncoder):
            with torch.no_grad():
                net.embeddings.token_embedding.weight.copy_(self.embeddings)
        if isinstance(net, UNet):
            initialise_keys(net)
        if isinstance(net, Upscaler):
            initialise_smoothly(net)
        return self._placed(net)

    def _placed(self, net: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.plan.channels_last else torch.contiguous_format
        return net.to(self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def _net(self, name: str, kind: type[Net]) -> Net:
        return cast(Net, self.nets[name]) if name in self.nets else cast(Net, self._fresh(name))

    def check(self, stages: list[str]) -> None:
        """ValueError if a stage needs a network that is neither given nor made before it."""
        there = set(self.nets)
        for name in stages:
            if missing := [needed for needed in NEEDS.get(name, ()) if needed not in there]:
                raise ValueError(f"stage {name}: needs the {missing[0]}: add its stage, or give weights with --resume")
            there.add(MAKES.get(name, "autoencoder"))

    def prepare(self, stages: list[str]) -> None:
        """Have sprites made for all sizes before the first stage: a late and slow one would cost the run its end."""
        for scale in (1, 2) if "upscaler" in stages else (1,):
            self.maker.draw(1, scale=scale)

    def table(self) -> codes.Codes:
        """The codes of the latents as they are."""
        encoder = self._net("autoencoder", Autoencoder).encoder.eval()
        rgb = torch.tensor([colour.rgb for colour in colours.COLOURS], device=self.device) / 255
        return codes.make(self.maker, len(self.names), encoder, rgb, len(grounds.NAMES), len(LAYOUTS))

    def stage(self, name: str) -> Stage:
        """The stage, on the network as it is."""
        plan = self.plan.stages[name]
        seed = SEED + sum(self.seen.values()) + APART * together.rank()
        course = Course(self.device, self.maker, plan.batch, plan.rate, seed)
        autoencoder = self._net("autoencoder", Autoencoder)
        if name == "autoencoder":
            return AutoencoderStage(course, autoencoder.train())
        autoencoder.requires_grad_(False)
        table = self.table()
        if name == "text":
            return TextStage(course, self._net("text_encoder", TextEncoder), table)
        told = None
        if "text_encoder" in self.nets:
            told = PromptCodes(self.maker, self._net("text_encoder", TextEncoder), table.axes)
        net = self._net("unet", UNet)
        if name in ("decoder", "upscaler"):
            drawer = Drawer(course, net, autoencoder, table, told) if "unet" in self.nets else None
            if name == "decoder":
                return DecoderStage(course, autoencoder, self.plan.cells, drawer)
            return UpscalerStage(course, self._net("upscaler", Upscaler).train(), autoencoder, drawer)
        return UNetStage(course, net.train(), autoencoder, table, self.plan.cells, told)

    def learn(self, name: str, clock: Clock, share: float) -> str:
        """Run one stage in its share of what is left; returns the network, which has the averaged weights then."""
        stage = self.stage(name)
        stage.draw(0.0)  # the first batch takes longest
        seconds = share * (clock.left - self.plan.margin_s)
        learner, before = Learner(stage, self.plan.step), self.seen.get(stage.network, 0)
        self.saved = self.drawn = clock.now()

        def between(learner: Learner) -> None:
            if together.rank():
                return
            if clock.now() - self.saved > self.plan.save_s:
                self._keep(learner, before)
                self.save()
                self.saved = clock.now()
            due = clock.now() - self.drawn > max(self.plan.sheet_s, self.took.get(stage.network, 0) / SHEET_SHARE)
            if due and clock.left > self.sheet_needs(stage.network):
                self._keep(learner, before)
                self.draw_sheet(stage.network, clock.now)
                self.drawn = clock.now()

        learner.run(clock, seconds, between)
        self._keep(learner, before)
        print(f"{name}: {learner.seen} samples learnt from, {self.seen[stage.network]} in all", flush=True)
        return stage.network

    def _keep(self, learner: Learner, before: int) -> None:
        """Take over the averaged weights of a stage that is under way, unless they are broken."""
        stage, weights = learner.stage, learner.ema.weights
        self.seen[stage.network] = before + learner.seen
        if not learner.seen or not runtime.finite(weights):
            return
        self.kept[stage.network] = stage.averaged(weights)
        net = self._placed(checkpoint.build(stage.network, self.shapes[stage.network]))
        net.load_state_dict(self.kept[stage.network])
        self.nets[stage.network] = net.eval()

    def save(self) -> int:
        """Write all that there is; returns its size in bytes. Of several processes the first alone writes."""
        if together.rank():
            return 0
        shapes = {name: self.shapes[name] for name in self.kept}
        seen = {name: self.seen.get(name, 0) for name in self.kept}
        return checkpoint.save(self.output, Checkpoint(self.kept, shapes, seen, self.vocabulary))

    def sheet_needs(self, network: str) -> float:
        """Seconds that must be left for a sheet that is not the last: it must not cost a later stage its time."""
        return self.took.get(network, 0) / SHEET_SHARE + self.plan.margin_s

    def draw_sheet(self, network: str, now: Callable[[], float]) -> None:
        """Draw the network's contact sheet over its last one: what it has come to. Of the text encoder there is none.

        Each network has its own: the last stage's, which shows what few ask for, once lay over the UNet's.
        """
        if network not in PICTURED or network not in self.nets:
            return
        began, path = now(), self.output / f"sheet-{network}.png"
        if network == "unet":
            sheet.of_watched(self._draw, self.names, path)
        else:
            sheet.of_pairs(*self._pairs(network), path)
        self.took[network] = now() - began

    @torch.no_grad()
    def _draw(self, labels: Tensor, cells: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) pixels of (B, 6) labels, by way of captions where the text encoder is there."""
        labels = labels.to(self.device)
        noise = torch.randn(
            len(labels), 4, *(FINE * side for side in cells), generator=torch.Generator().manual_seed(3)
        ).to(self.device)
        unet, autoencoder = self._net("unet", UNet), self._net("autoencoder", Autoencoder)
        for attention in unet.looking():
            attention.recorded = False
        table = self.table()
        if "text_encoder" in self.nets:
            told = PromptCodes(self.maker, self._net("text_encoder", TextEncoder), table.axes)
            cond, uncond = told(labels), told(torch.full_like(labels[:1], -1))
        else:
            cond, uncond = table.tokens(labels), table.nothing()
        latents = sample(unet, cond, uncond, noise)
        with runtime.autocast(self.device):
            made: Tensor = autoencoder.decoder(latents)
        return made

    @torch.no_grad()
    def _pairs(self, network: str) -> tuple[Tensor, Tensor]:
        """True pictures, and what the autoencoder, and the upscaler after it, made of them."""
        autoencoder, scale = self._net("autoencoder", Autoencoder), 2 if network == "upscaler" else 1
        true = self.maker.draw(PAIRS, scale=scale, several=0.5).pixels
        small = nn.functional.avg_pool2d(true, scale) if scale > 1 else true
        with runtime.autocast(self.device):
            made = autoencoder.decoder(autoencoder.encoder(small)).float().clamp(-1, 1)
            if network == "upscaler":
                made = 2 * self._net("upscaler", Upscaler)((made + 1) / 2).float() - 1
        return true, made


def _knows_colours(weights: nn.Module | dict[str, Tensor]) -> bool:
    """Whether a text encoder's last layer fetches colours."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    fetched = state.get(f"{text_encoder.LAST}self_attn.v_proj.weight")
    if fetched is None or fetched.shape[1] != codes.WIDTH:
        return False
    directions = codes.basis()[codes.COLOURED : codes.COLOURED + codes.COLOUR]
    return bool((fetched.float().cpu() @ directions.T).abs().max() > 0.5)
