"""The text encoder: from a prompt, in any words, to the scene's code.

Its first layers, the *reader*, learn from captions what is asked for. They learn the tokens before the parts alone, on
short sequences, which is cheap. The last layer distributes the quarters to the parts' slots; its weights are computed
(`analytic_layer.py`). Token embeddings start from a sentence encoder's, so that words that no caption taught lie near
those that one did. Knows captions, tokens and the tables of codes; knows neither pictures nor noise.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import analytic_layer, codes, concepts, runtime, tokens, words
from .captions import Captioner
from .codes import FIRST_WHOLE, GROUND, LAYOUT, LENGTH, PREFIX, QUARTERS, SECOND_WHOLE, WIDTH, WORDS
from .scenes import LAYOUTS, PAIRS, Scene, draw_ground

CHECKPOINT = runtime.CHECKPOINTS / "text_encoder.pt"
READER = runtime.CHECKPOINTS / "reader.pt"
READER_LAYERS = 3
LAYERS = READER_LAYERS + 1  # the analytic one
SAMPLES = 600_000
LAYOUT_SHARES = (0.60, 0.12, 0.06, 0.09, 0.04, 0.04, 0.03, 0.02)
EMPTY_SHARE = 0.03  # of captions that ask for nothing
LOGIT_SCALE = 12.0  # how steep the choice among codes is


def build(vocabulary: int, layers: int = LAYERS) -> CLIPTextModel:
    """The network, with random weights."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=768,
        projection_dim=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def load(tokenizer: CLIPTokenizer, path: Path = CHECKPOINT, layers: int = LAYERS) -> CLIPTextModel:
    """The network with its EMA weights, in float32."""
    state = runtime.restore(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the text encoder first")
    net = build(len(tokenizer), layers)
    net.load_state_dict({k: v.float() for k, v in state["average"].items()})
    return net.eval()


def random_scene(rng: np.random.Generator, count: int) -> Scene:
    """A random scene to describe."""
    layout = int(rng.choice(len(LAYOUTS), p=LAYOUT_SHARES))
    first, second = (int(i) for i in rng.choice(count, 2, replace=False))
    if LAYOUTS[layout] == "empty":
        return Scene(layout, max(1, draw_ground(rng)), -1)
    return Scene(layout, draw_ground(rng), first, second if LAYOUTS[layout] in PAIRS else -1)


@torch.no_grad()
def initialise_embeddings(net: CLIPTextModel, tokenizer: CLIPTokenizer, lexicon: words.Lexicon) -> None:
    """Set the embeddings of whole words from the sentence encoder's, of Chinese characters from their objects'."""
    state = torch.load(words.VECTORS, weights_only=True)
    vectors, place = state["vectors"].float(), {text: i for i, text in enumerate(state["texts"])}
    vectors = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(vectors[:4000], full_matrices=False)
    flat = vectors @ axes[:WIDTH].T
    flat = flat / flat.std() * 0.05
    table, vocabulary = net.get_input_embeddings().weight, tokenizer.get_vocab()
    for text, row in place.items():
        if (token := vocabulary.get(f"{text}</w>")) is not None:
            table[token] = flat[row]
    of_characters: dict[int, list[Tensor]] = {}
    for own, hant, hans in zip(lexicon.names, lexicon.traditional, lexicon.simplified, strict=True):
        for name in (*hant, *hans):
            for char in name:
                a, b, c = tokens.byte_letters(char)
                for piece in (a + b + c, f"{a + b + c}</w>"):
                    if piece in vocabulary:
                        of_characters.setdefault(vocabulary[piece], []).append(flat[place[own[0]]])
    for token, rows in of_characters.items():
        table[token] = torch.stack(rows).mean(0)


class CaptionBatches:
    """Batches of random captions, with the labels of the codes that they should become."""

    def __init__(self, seed: int, tokenizer: CLIPTokenizer, lexicon: words.Lexicon, codebook: codes.Codes) -> None:
        self.rng, self.tokenizer, self.codebook = np.random.default_rng(seed), tokenizer, codebook
        self.captioner, self.count = Captioner(lexicon), len(lexicon.names)

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """(B, LENGTH) token ids and (B, 4) labels: layout, ground, first, second."""
        texts, labels = [], []
        for _ in range(size):
            if self.rng.random() < EMPTY_SHARE:
                texts.append(self.captioner.noise(self.rng) if self.rng.random() < 0.7 else "")
                labels.append((-1, -1, -1, -1))
                continue
            scene = random_scene(self.rng, self.count)
            texts.append(self.captioner.write(scene, self.rng))
            labels.append((scene.layout, scene.ground, scene.first, scene.second))
        return tokenize(self.tokenizer, texts), torch.tensor(labels)


class PromptCodes:
    """Codes as the trained text encoder gives them: labels to captions to tokens.

    The analytic last layer gives the parts what the quarters hold, so the parts are made from the quarters directly:
    that is cheaper.
    """

    def __init__(self, seed: int) -> None:
        lexicon = words.load(concepts.load(runtime.ART))
        self.tokenizer = tokens.load(lexicon)
        self.net, self.captioner = load(self.tokenizer, READER, READER_LAYERS), Captioner(lexicon)
        self.rng = np.random.default_rng(seed)

    @torch.no_grad()
    def __call__(self, labels: Tensor) -> Tensor:
        """(B, 4) labels: layout, ground, first, second, all -1 for an empty prompt; to (B, LENGTH, WIDTH)."""
        scenes = [Scene(*row) for row in labels.tolist()]
        texts = ["" if scene.layout < 0 else self.captioner.write(scene, self.rng) for scene in scenes]
        with runtime.autocast():
            prefix: Tensor = self.net(tokenize(self.tokenizer, texts)[:, :PREFIX]).last_hidden_state.float()
        quarters = [codes.quarter_numbers(prefix[:, at : at + QUARTERS]) for at in (FIRST_WHOLE, SECOND_WHOLE)]
        return torch.cat((prefix, *(codes.part_tokens(numbers, which) for which, numbers in enumerate(quarters))), 1)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:  # (B, LENGTH)
    """Token ids, padded and cut to the encoder's length."""
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids: Tensor = inputs["input_ids"]
    return ids


def score(hidden: Tensor, codebook: codes.Codes) -> list[Tensor]:
    """Logits, (B, entries) each, of the tables' entries in the slots for layout, ground, first and second object."""
    size = WIDTH * QUARTERS
    first, second = (table.flatten(1).T / size for table in codebook.whole)
    return [
        LOGIT_SCALE * hidden[:, LAYOUT] @ codebook.layout.T / WIDTH,
        LOGIT_SCALE * hidden[:, GROUND] @ codebook.ground.T / WIDTH,
        2 * LOGIT_SCALE * hidden[:, FIRST_WHOLE : FIRST_WHOLE + QUARTERS].flatten(1) @ first,
        2 * LOGIT_SCALE * hidden[:, SECOND_WHOLE : SECOND_WHOLE + QUARTERS].flatten(1) @ second,
    ]


def optimise(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step; every group of parameters takes its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("share", 1.0) * rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([w for group in optimizer.param_groups for w in group["params"]], 1.0, foreach=True)
    optimizer.step()


def train_reader(target_samples: int, batch: int, peak: float) -> None:
    """Train until so many samples in all, from the checkpoint if there is one; ``peak`` is the learning rate's."""
    runtime.set_up(19)
    known = concepts.load(runtime.ART)
    lexicon, codebook = words.load(known), codes.load(runtime.ART, known)
    tokenizer = tokens.load(lexicon)
    net = build(len(tokenizer), READER_LAYERS)
    schedule = runtime.TrainingSchedule(target_samples, runtime.samples_of(READER), 0.3)
    net.set_attn_implementation("eager")  # a fifth faster here than the fused attention, whose backward is slow
    initialise_embeddings(net, tokenizer, lexicon)
    ema = runtime.EMA(net, 0.998)
    if (state := runtime.restore(READER)) is not None:
        ema.weights = {k: v.float() for k, v in state["average"].items()}
        net.load_state_dict(ema.weights)
    net.final_layer_norm.reset_parameters()
    net.final_layer_norm.requires_grad_(False)  # the whole encoder's last norm serves the parts as well
    table = net.get_input_embeddings().weight
    others = [w for w in net.parameters() if w is not table and w.requires_grad]
    groups = [{"params": others, "share": 1.0}, {"params": [table], "share": 0.5, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.02, foreach=True)
    batches = CaptionBatches(30_000 + schedule.seen, tokenizer, lexicon, codebook)
    saved, smoothed = time.monotonic(), torch.zeros(5)  # code's error, losses
    while schedule.going:
        ids, labels = batches.draw(batch)
        target = codebook.prefix(*labels.unbind(1))
        with runtime.autocast():
            hidden = net(ids[:, :PREFIX]).last_hidden_state
        hidden = hidden.float()
        error = (hidden - target).square().mean(-1)
        choice = 0.5 * max(0.04, 1 - 1.5 * schedule.done)  # finds the object; later it would only distort the code
        losses = [
            F.cross_entropy(s, t % s.shape[1]) for s, t in zip(score(hidden, codebook), labels.unbind(1), strict=True)
        ]
        loss = 1.2 * error[:, WORDS:].mean() + 0.1 * error[:, :WORDS].mean() + choice * sum(losses)
        optimise(optimizer, loss, schedule.rate(peak))
        ema.update(net)
        schedule.seen += batch
        smoothed = smoothed.lerp(
            torch.stack([error[:, WORDS:].mean(), *losses]).detach(),
            0.02 if schedule.seen - schedule.first > 50 * batch else 0.2,
        )
        if schedule.seen // batch % 50 == 0:
            shown = " ".join(f"{value:.3f}" for value in smoothed.tolist())
            progress = f"{schedule.seen} samples, {schedule.done:.0%}, {schedule.pace:.1f}/s"
            print(f"{progress}, error layout ground first second: {shown}", flush=True)
        if time.monotonic() - saved > 180 or not schedule.going:
            saved = time.monotonic()
            runtime.save(READER, {"average": ema.weights, "samples": schedule.seen})


def reader_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reader's weights in a whole text encoder's: both end in the same plain norm."""
    return {k: v for k, v in weights.items() if not k.startswith(f"encoder.layers.{READER_LAYERS}.")}


@torch.no_grad()
def with_last_layer(reader: dict[str, Tensor], tokenizer: CLIPTokenizer, prompts: Tensor) -> CLIPTextModel:
    """The reader with the analytic layer on top; ``prompts``: (B, LENGTH) tokens of some prompts to fit it to."""
    short, net = build(len(tokenizer), READER_LAYERS), build(len(tokenizer))
    short.load_state_dict(reader)
    missing = net.load_state_dict(reader, strict=False).missing_keys
    net.encoder.layers[READER_LAYERS].layer_norm1.reset_parameters()  # as the reader's last norm
    if any(not key.startswith(f"encoder.layers.{READER_LAYERS}.") for key in missing):
        raise ValueError(f"the reader lacks {missing}")
    analytic_layer.write(net, short.eval()(prompts[:, :PREFIX]).last_hidden_state)
    return net.eval()


def add_last_layer() -> None:
    """Make the whole text encoder's checkpoint from the reader's."""
    runtime.set_up(29)
    known = concepts.load(runtime.ART)
    lexicon, codebook = words.load(known), codes.load(runtime.ART, known)
    tokenizer, reader = tokens.load(lexicon), runtime.restore(READER)
    if reader is None:
        raise FileNotFoundError(f"{READER}: train the reader first")
    prompts, _ = CaptionBatches(70_000, tokenizer, lexicon, codebook).draw(256)
    net = with_last_layer({k: v.float() for k, v in reader["average"].items()}, tokenizer, prompts)
    runtime.save(CHECKPOINT, {"average": net.state_dict(), "samples": reader["samples"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in all, earlier sessions included")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    train_reader(options.samples, options.batch, options.rate)
    add_last_layer()


if __name__ == "__main__":
    main()
