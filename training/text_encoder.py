"""The text encoder: from a prompt, in any words, to the scene's code.

Knows captions, tokens and the tables of codes; knows neither pictures nor noise. Its token embeddings
start from a sentence encoder's, so that words that no caption taught lie near those that one did.
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
from .codes import FIRST, GROUND, LAYOUT, LENGTH, PART, SECOND, WHOLE, WIDTH, WORDS
from .scenes import LAYOUTS, PAIRS, Scene, draw_ground

CHECKPOINT = runtime.CHECKPOINTS / "text_encoder.pt"
SAMPLES = 240_000
SHARES = (0.60, 0.12, 0.06, 0.09, 0.04, 0.04, 0.03, 0.02)  # of the layouts
EMPTY = 0.03  # share of captions that ask for nothing
SHARP = 12.0  # how steep the choice among codes is


def build(vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=768,
        projection_dim=WIDTH,
        num_hidden_layers=4,
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


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids: Tensor = inputs["input_ids"]
    return ids


def score(hidden: Tensor, codebook: codes.Codes) -> list[Tensor]:
    """How the slots resemble their tables' entries: (B, entries) for layout, ground, first, second."""
    size = WIDTH * PART
    first, second = codebook.first.flatten(1).T / size, codebook.second.flatten(1).T / size
    return [
        SHARP * hidden[:, LAYOUT] @ codebook.layout.T / WIDTH,
        SHARP * hidden[:, GROUND] @ codebook.ground.T / WIDTH,
        2 * SHARP * hidden[:, FIRST : FIRST + PART].flatten(1) @ first,
        2 * SHARP * hidden[:, SECOND : SECOND + PART].flatten(1) @ second,
    ]


def train(target_samples: int, batch: int, peak: float) -> None:
    runtime.quiet_start(19)
    known = concepts.load(runtime.ART)
    lexicon, codebook = words.load(known), codes.load(runtime.ART, known)
    tokenizer = tokens.load(lexicon)
    net, course = build(len(tokenizer)), runtime.Course(target_samples, runtime.samples_of(CHECKPOINT), 0.5)
    net.set_attn_implementation("eager")  # a fifth faster here than the fused attention, whose backward is slow
    start_from_meanings(net, tokenizer, lexicon)
    average = runtime.Average(net, 0.998)
    if (state := runtime.restore(CHECKPOINT)) is not None:
        average.weights = {k: v.float() for k, v in state["average"].items()}
        net.load_state_dict(average.weights)
        # the average starts anew: what to say may have changed
    table = net.get_input_embeddings().weight
    others = [w for w in net.parameters() if w is not table]
    groups = [{"params": others, "share": 1.0}, {"params": [table], "share": 0.5, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.02, foreach=True)
    teacher = Teacher(30_000 + course.seen, tokenizer, lexicon, codebook)
    saved, log = time.monotonic(), torch.zeros(5)
    while course.seen < course.target:
        ids, labels = teacher.batch(batch)
        target = codebook.tokens(*labels.unbind(1))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = net(ids).last_hidden_state
        hidden = hidden.float()
        error = (hidden - target).square().mean(-1)
        choice = 0.5 * max(0.04, 1 - 1.5 * course.done)  # finds the object; then it would only distort the code
        losses = [
            F.cross_entropy(s, t % s.shape[1]) for s, t in zip(score(hidden, codebook), labels.unbind(1), strict=True)
        ]
        loss = (
            error[:, WORDS:].mean()
            + 0.2 * error[:, WHOLE : WHOLE + 2].mean()
            + 0.1 * error[:, :WORDS].mean()
            + choice * sum(losses)
        )
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * course.rate(peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
        optimizer.step()
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
        if time.monotonic() - saved > 180:
            saved = time.monotonic()
            runtime.save(CHECKPOINT, {"average": average.weights, "samples": course.seen})
    runtime.save(CHECKPOINT, {"average": runtime.half(average.weights), "samples": course.seen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in all, earlier stretches included")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    train(options.samples, options.batch, options.rate)


if __name__ == "__main__":
    main()
