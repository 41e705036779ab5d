"""The text encoder: from a prompt, in any words, to the scene's code.

Two courses. First the *reader*, the first layers, learns to say from captions what is asked for: the head slots alone,
on short sequences, which is cheap. Then the last two layers, the *dealer*, learn to deal the quarters out to the part
slots, the same for every prompt. Knows captions, tokens and the tables of codes; knows neither pictures nor noise.
Token embeddings start from a sentence encoder's, so that words that no caption taught lie near those that one did.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import codes, concepts, runtime, tokens, words
from .captions import Captioner
from .codes import FIRST_WHOLE, GROUND, HEADS, LAYOUT, LENGTH, QUARTERS, SECOND_WHOLE, WIDTH, WORDS
from .scenes import LAYOUTS, PAIRS, Scene, draw_ground

CHECKPOINT = runtime.CHECKPOINTS / "text_encoder.pt"
READER = runtime.CHECKPOINTS / "reader.pt"
READING, DEALING = 3, 2  # layers
SAMPLES, DEALT = 200_000, 40_000
SHARES = (0.60, 0.12, 0.06, 0.09, 0.04, 0.04, 0.03, 0.02)  # of the layouts
EMPTY = 0.03  # share of captions that ask for nothing
SHARP = 12.0  # how steep the choice among codes is


def build(vocabulary: int, layers: int = READING + DEALING) -> CLIPTextModel:
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


def load(tokenizer: CLIPTokenizer, path: Path = CHECKPOINT) -> CLIPTextModel:
    """The averaged weights, in float32."""
    state = runtime.restore(path)
    if state is None:
        raise FileNotFoundError(f"{path}: train the text encoder first")
    net = build(len(tokenizer))
    net.load_state_dict({k: v.float() for k, v in state["average"].items()})
    return net.eval()


def draw(rng: np.random.Generator, count: int) -> Scene:
    """A random scene to describe."""
    layout = int(rng.choice(len(LAYOUTS), p=SHARES))
    first, second = (int(i) for i in rng.choice(count, 2, replace=False))
    if LAYOUTS[layout] == "empty":
        return Scene(layout, max(1, draw_ground(rng)), -1)
    return Scene(layout, draw_ground(rng), first, second if LAYOUTS[layout] in PAIRS else -1)


@torch.no_grad()
def start_from_meanings(net: CLIPTextModel, tokenizer: CLIPTokenizer, lexicon: words.Lexicon) -> None:
    """Whole words' embeddings from the sentence encoder's, Chinese characters' from their objects'."""
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
    heard: dict[int, list[Tensor]] = {}
    for own, hant, hans in zip(lexicon.names, lexicon.traditional, lexicon.simplified, strict=True):
        for name in (*hant, *hans):
            for char in name:
                a, b, c = tokens._bytes(char)
                for piece in (a + b + c, f"{a + b + c}</w>"):
                    if piece in vocabulary:
                        heard.setdefault(vocabulary[piece], []).append(flat[place[own[0]]])
    for token, rows in heard.items():
        table[token] = torch.stack(rows).mean(0)


class Teacher:
    """Batches of captions with the codes that they should become."""

    def __init__(self, seed: int, tokenizer: CLIPTokenizer, lexicon: words.Lexicon, codebook: codes.Codes) -> None:
        self.rng, self.tokenizer, self.codebook = np.random.default_rng(seed), tokenizer, codebook
        self.captioner, self.count = Captioner(lexicon), len(lexicon.names)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """(B, LENGTH) token ids and (B, 4) labels: layout, ground, first, second."""
        texts, labels = [], []
        for _ in range(size):
            if self.rng.random() < EMPTY:
                texts.append(self.captioner.noise(self.rng) if self.rng.random() < 0.7 else "")
                labels.append((-1, -1, -1, -1))
                continue
            scene = draw(self.rng, self.count)
            texts.append(self.captioner.write(scene, self.rng))
            labels.append((scene.layout, scene.ground, scene.first, scene.second))
        return tokenize(self.tokenizer, texts), torch.tensor(labels)


class Speaker:
    """The trained encoder with somebody who writes: labels to tokens, as prompts give them."""

    def __init__(self, seed: int) -> None:
        lexicon = words.load(concepts.load(runtime.ART))
        self.tokenizer = tokens.load(lexicon)
        self.net, self.captioner = load(self.tokenizer), Captioner(lexicon)
        self.rng = np.random.default_rng(seed)

    @torch.no_grad()
    def __call__(self, labels: Tensor) -> Tensor:
        """(B, 4) labels: layout, ground, first, second, all -1 for an empty prompt; to (B, LENGTH, WIDTH)."""
        scenes = [Scene(*row) for row in labels.tolist()]
        texts = ["" if scene.layout < 0 else self.captioner.write(scene, self.rng) for scene in scenes]
        with runtime.autocast():
            hidden: Tensor = self.net(tokenize(self.tokenizer, texts)).last_hidden_state.float()
        return hidden


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids: Tensor = inputs["input_ids"]
    return ids


def score(hidden: Tensor, codebook: codes.Codes) -> list[Tensor]:
    """How the slots resemble their tables' entries: (B, entries) for layout, ground, first, second."""
    size = WIDTH * QUARTERS
    first, second = (table.flatten(1).T / size for table in codebook.whole)
    return [
        SHARP * hidden[:, LAYOUT] @ codebook.layout.T / WIDTH,
        SHARP * hidden[:, GROUND] @ codebook.ground.T / WIDTH,
        2 * SHARP * hidden[:, FIRST_WHOLE : FIRST_WHOLE + QUARTERS].flatten(1) @ first,
        2 * SHARP * hidden[:, SECOND_WHOLE : SECOND_WHOLE + QUARTERS].flatten(1) @ second,
    ]


def optimise(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.get("share", 1.0) * rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([w for group in optimizer.param_groups for w in group["params"]], 1.0, foreach=True)
    optimizer.step()


def train_reader(target_samples: int, batch: int, peak: float) -> None:
    runtime.quiet_start(19)
    known = concepts.load(runtime.ART)
    lexicon, codebook = words.load(known), codes.load(runtime.ART, known)
    tokenizer = tokens.load(lexicon)
    net, course = build(len(tokenizer), READING), runtime.Course(target_samples, runtime.samples_of(READER), 0.3)
    net.set_attn_implementation("eager")  # a fifth faster here than the fused attention, whose backward is slow
    start_from_meanings(net, tokenizer, lexicon)
    average = runtime.Average(net, 0.998)
    if (state := runtime.restore(READER)) is not None:
        average.weights = {k: v.float() for k, v in state["average"].items()}
        net.load_state_dict(average.weights)
    table = net.get_input_embeddings().weight
    others = [w for w in net.parameters() if w is not table]
    groups = [{"params": others, "share": 1.0}, {"params": [table], "share": 0.5, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.02, foreach=True)
    teacher = Teacher(30_000 + course.seen, tokenizer, lexicon, codebook)
    saved, log = time.monotonic(), torch.zeros(5)
    while course.seen < course.target:
        ids, labels = teacher.batch(batch)
        target = codebook.heads(*labels.unbind(1))
        with runtime.autocast():
            hidden = net(ids[:, :HEADS]).last_hidden_state
        hidden = hidden.float()
        error = (hidden - target).square().mean(-1)
        choice = 0.5 * max(0.04, 1 - 1.5 * course.done)  # finds the object; then it would only distort the code
        losses = [
            F.cross_entropy(s, t % s.shape[1]) for s, t in zip(score(hidden, codebook), labels.unbind(1), strict=True)
        ]
        loss = 1.2 * error[:, WORDS:].mean() + 0.1 * error[:, :WORDS].mean() + choice * sum(losses)
        optimise(optimizer, loss, course.rate(peak))
        average.update(net)
        course.seen += batch
        log = log.lerp(
            torch.stack([error[:, WORDS:].mean(), *losses]).detach(),
            0.02 if course.seen - course.first > 50 * batch else 0.2,
        )
        if course.seen // batch % 50 == 0:
            shown = " ".join(f"{value:.3f}" for value in log.tolist())
            progress = f"{course.seen} samples, {course.done:.0%}, {course.pace:.1f}/s"
            print(f"{progress}, error layout ground first second: {shown}", flush=True)
        if time.monotonic() - saved > 180 or course.seen >= course.target:
            saved = time.monotonic()
            runtime.save(READER, {"average": average.weights, "samples": course.seen})


def reader_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reader inside a whole text encoder: the dealer reads through the reader's last norm."""
    dealing = tuple(f"encoder.layers.{READING + n}." for n in range(DEALING))
    kept = {k: v for k, v in weights.items() if not k.startswith((*dealing, "final_layer_norm."))}
    names = ("weight", "bias")
    return kept | {f"final_layer_norm.{name}": weights[f"{dealing[0]}layer_norm1.{name}"] for name in names}


def with_dealer(reader: dict[str, Tensor], vocabulary: int, codebook: codes.Codes) -> CLIPTextModel:
    """The reader with layers that change little yet; part slots begin as empty parts, and look at their quarters."""
    net = build(vocabulary)
    missing = net.load_state_dict(reader, strict=False).missing_keys
    if any(int(key.split(".")[2]) < READING for key in missing):
        raise ValueError(f"the reader lacks {missing}")
    with torch.no_grad():
        net.encoder.layers[READING].layer_norm1.load_state_dict(net.final_layer_norm.state_dict())
        for layer in net.encoder.layers[READING:]:
            for way_out in (layer.self_attn.out_proj, layer.mlp.fc2):
                way_out.weight.mul_(0.1)
        first = net.encoder.layers[READING].self_attn
        width = WIDTH // first.num_heads
        asks, answers = codes.quarter_marks()  # (6, WIDTH) each
        for head in range(first.num_heads):
            rows = slice(head * width, head * width + len(asks))
            first.q_proj.weight[rows], first.k_proj.weight[rows] = asks, answers
        net.embeddings.position_embedding.weight[HEADS:] = codebook.part[:, -1].flatten(0, 1)
    return net


def train_dealer(target_samples: int, batch: int, peak: float) -> None:
    runtime.quiet_start(29)
    known = concepts.load(runtime.ART)
    lexicon, codebook = words.load(known), codes.load(runtime.ART, known)
    tokenizer = tokens.load(lexicon)
    reader = runtime.restore(READER)
    if reader is None:
        raise FileNotFoundError(f"{READER}: train the reader first")
    net = with_dealer({k: v.float() for k, v in reader["average"].items()}, len(tokenizer), codebook)
    net.set_attn_implementation("eager")
    net.requires_grad_(False)
    learning = [w for layer in net.encoder.layers[READING:] for w in layer.parameters()]
    learning += net.final_layer_norm.parameters()
    held = {id(w) for w in net.encoder.layers[READING].layer_norm1.parameters()}  # `reader_of` must find it
    learning = [w for w in learning if id(w) not in held]
    for weight in learning:
        weight.requires_grad_(True)
    course = runtime.Course(target_samples, 0, 0.3)
    optimizer = torch.optim.AdamW(learning, lr=peak, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)
    teacher, log = Teacher(70_000, tokenizer, lexicon, codebook), 0.0
    while course.seen < course.target:
        ids, labels = teacher.batch(batch)
        target = codebook.tokens(*labels.unbind(1))
        with runtime.autocast():
            hidden = net(ids).last_hidden_state.float()
        error = (hidden - target).square().mean(-1)
        parts = error[:, HEADS:].mean()
        optimise(optimizer, 3 * parts + error[:, WORDS:HEADS].mean() + 0.1 * error[:, :WORDS].mean(), course.rate(peak))
        course.seen += batch
        log = 0.95 * log + 0.05 * parts.item() if log else parts.item()
        if course.seen // batch % 25 == 0:
            print(f"dealer: {course.seen} samples, {course.done:.0%}, {course.pace:.1f}/s, error {log:.4f}", flush=True)
    weights = {k: v.detach() for k, v in net.state_dict().items()}
    runtime.save(CHECKPOINT, {"average": weights, "samples": reader["samples"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in all, earlier stretches included")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    train_reader(options.samples, options.batch, options.rate)
    train_dealer(DEALT, 32, 2e-3)


if __name__ == "__main__":
    main()
