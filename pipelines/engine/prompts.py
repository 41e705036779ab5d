"""A run's prompts where they are more than a text that its pipeline reads: weighted, long, or with words of a file.

Knows tokenizers, CLIP encoders and what diffusers' pipelines take in the place of a text; knows neither runs nor
models by name. Weights are applied as A1111's web UI applies them: a prompt is cut into chunks of 75 tokens, each is
encoded by itself as a prompt of its own would be, every token's states are multiplied by its weight, and the chunk is
brought back to the mean that it had. A prompt of one chunk without weights is left to the pipeline: its picture is
the one that bare diffusers draws, bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin

from pipelines.facts import prompt_weights
from pipelines.facts.families import Family
from pipelines.facts.prompt_weights import MAX_WEIGHT, Section
from pipelines.plan import Drawing

MAX_CHUNKS = 10  # of a prompt: each costs an encoder call, and makes every step dearer. The rest is cut off
_NOTHING = prompt_weights.parse("")
_BACKTRACK = 20  # tokens after the last comma that go over to the next chunk with what follows


def prompt_arguments(pipeline: Any, family: Family, drawing: Drawing, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call, with the prompts that ``drawing`` means."""
    spec = drawing.spec
    tokens = tuple(file.token for file in drawing.plan.embeddings)
    if not spec.prompt_weights:
        return _with_words(pipeline, tokens, arguments) if tokens else arguments
    encoders = [
        _Encoder(pipeline, end, tokens)
        for end in ("", "_2")
        if getattr(pipeline, f"text_encoder{end}", None) is not None
    ]
    asked = {"": prompt_weights.parse(spec.prompt)}
    if spec.guidance > family.negative_above and spec.negative_prompt is not None:
        asked["negative_"] = prompt_weights.parse(spec.negative_prompt)
    cut = {name: [encoder.chunks(sections) for encoder in encoders] for name, sections in asked.items()}
    whole = {f"{name}prompt": _whole(sections, cut[name]) for name, sections in asked.items()}
    if None not in whole.values():
        arguments = {**arguments, **whole}
        return _with_words(pipeline, tokens, arguments) if tokens else arguments
    if (
        spec.guidance > family.negative_above
        and spec.negative_prompt is None
        and not getattr(pipeline.config, "force_zeros_for_empty_prompt", False)  # else the pipeline makes them
    ):
        cut["negative_"] = [encoder.chunks(_NOTHING) for encoder in encoders]
    rest = {name: value for name, value in arguments.items() if name not in ("prompt", "negative_prompt")}
    with torch.no_grad():
        return {**rest, **_embedded(encoders, cut)}


def _embedded(encoders: Sequence[_Encoder], cut: Mapping[str, _Cut]) -> dict[str, Any]:
    """What the encoders make of the prompts, all of one length, by the names of a pipeline's arguments."""
    longest = max(len(each) for of_prompt in cut.values() for each in of_prompt)
    found: dict[str, Any] = {}
    for name, of_prompt in cut.items():
        states = []
        for encoder, each in zip(encoders, of_prompt, strict=True):
            padded = [*each, *encoder.chunks(_NOTHING) * (longest - len(each))]
            encoded = [encoder.encode(chunk) for chunk in padded]
            states.append(torch.cat([part for part, _ in encoded], dim=1))
            if encoder.is_pooled:
                found[f"{name}pooled_prompt_embeds"] = encoded[0][1]  # of the first chunk, as A1111 has it
        found[f"{name}prompt_embeds"] = torch.cat(states, dim=-1)
    return found


def _whole(sections: tuple[Section, ...], cut: _Cut) -> str | None:
    """The text of a prompt that the pipeline reads as it is meant; None for one with weights, or of many chunks."""
    return prompt_weights.plain(sections) if all(len(chunks) == 1 for chunks in cut) else None


@dataclass
class _Chunk:
    """What an encoder hears at once, without the marks at its ends."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    comma: int | None = None  # the place of the last one

    def add(self, token: int, weight: float, *, is_comma: bool) -> None:
        if is_comma:
            self.comma = len(self.tokens)
        self.tokens.append(token)
        self.weights.append(weight)

    @property
    def may_break(self) -> bool:
        """Does it end with few tokens after a comma?"""
        return self.comma is not None and len(self.tokens) - self.comma <= _BACKTRACK

    def cut(self) -> _Chunk:
        """Give away what stands after the last comma."""
        at = 0 if self.comma is None else self.comma + 1
        rest = _Chunk(self.tokens[at:], self.weights[at:])
        del self.tokens[at:], self.weights[at:]
        return rest


_Cut = Sequence[Sequence[_Chunk]]  # a prompt's chunks, of each encoder


class _Encoder:
    """One of a pipeline's text encoders with its tokenizer."""

    def __init__(self, pipeline: Any, end: str, tokens: Sequence[str]) -> None:
        """``end`` is that of the names of its components, "" or "_2"; ``tokens`` are the words of embeddings."""
        self._embeddings = tokens
        self._tokenizer = tokenizer = getattr(pipeline, f"tokenizer{end}")
        self._encoder = getattr(pipeline, f"text_encoder{end}")
        self._device = pipeline._execution_device
        self._is_xl = hasattr(pipeline, "text_encoder_2")  # it takes the states of the last layer but one
        self.is_pooled = end == "_2"
        self._room = tokenizer.model_max_length - 2
        commas = tokenizer(",", add_special_tokens=False).input_ids
        self._comma = commas[0] if len(commas) == 1 else None
        self._sizes = _sizes(tokenizer)

    def chunks(self, sections: tuple[Section, ...]) -> list[_Chunk]:
        """The chunks of a prompt, one at least and ``MAX_CHUNKS`` at most."""
        done: list[_Chunk] = []
        chunk = _Chunk()
        for number, section in enumerate(sections):
            if number:
                done.append(chunk)
                chunk = _Chunk()
            for tokens, weight in self._words(section):
                if len(done) >= MAX_CHUNKS:
                    return done
                is_comma = tokens[0] == self._comma
                if not is_comma and len(chunk.tokens) == self._room and chunk.may_break:
                    done.append(chunk)
                    chunk = chunk.cut()
                if len(chunk.tokens) + len(tokens) > self._room:
                    done.append(chunk)
                    chunk = _Chunk()
                for token in tokens:
                    chunk.add(token, weight, is_comma=is_comma)
        return [*done, chunk][:MAX_CHUNKS] if chunk.tokens or not done else done[:MAX_CHUNKS]

    def _words(self, section: Section) -> Iterator[tuple[list[int], float]]:
        """The tokens of a section with their weights: one at a time, but all vectors of an embedding together."""
        for piece in section:
            if not piece.text.strip():
                continue
            text = spelled(piece.text, self._tokenizer, self._embeddings) if self._embeddings else piece.text
            text = _Words().maybe_convert_prompt(text, self._tokenizer) if self._sizes else text
            tokens = self._tokenizer(text, add_special_tokens=False).input_ids
            at = 0
            while at < len(tokens):
                size = self._sizes.get(tokens[at], 1)
                yield tokens[at : at + size], piece.weight
                at += size

    def encode(self, chunk: _Chunk) -> tuple[torch.Tensor, Any]:
        """The states of a chunk, (1, tokens, width), and what its pooled state is, if that is asked for."""
        tokenizer = self._tokenizer
        padding = self._room - len(chunk.tokens)
        ids = [tokenizer.bos_token_id, *chunk.tokens, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
        tokens = torch.tensor([ids])
        if self._is_xl:
            output = self._encoder(tokens.to(self._device), output_hidden_states=True)
            states = output.hidden_states[-2]
        else:
            mask = None
            if getattr(self._encoder.config, "use_attention_mask", False):
                mask = torch.tensor([[1] * (len(chunk.tokens) + 2) + [0] * padding]).to(self._device)
            output = self._encoder(tokens.to(self._device), attention_mask=mask)
            states = output[0]
        weights = [1.0, *chunk.weights, 1.0, *[1.0] * padding]
        return (states if set(weights) == {1.0} else _weighted(states, weights)), output[0]


def _weighted(states: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """The states, each token's times its weight, with the mean that they had before."""
    exact = states.float()
    weighted = exact * torch.tensor(weights, device=states.device).unsqueeze(-1)
    ratio = exact.mean() / weighted.mean()
    weighted = weighted * torch.where(ratio.isfinite(), ratio, 1.0)
    most = exact.abs().max() * MAX_WEIGHT  # weights that cancel each other leave next to no mean to go by
    return weighted.clamp(-most, most).to(states.dtype)


class _Words(TextualInversionLoaderMixin):  # type: ignore[misc]
    """Writes tokens of several vectors out, as diffusers' pipelines do."""


def _with_words(pipeline: Any, tokens: Sequence[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """The same texts, with the words of embeddings as the pipeline finds them.

    Where its class does not write words of several vectors out, that is done here: it would hear the first vector
    alone. FLUX.1's for sources and masks are such.
    """
    tokenizers = [each for name in ("tokenizer", "tokenizer_2") if (each := getattr(pipeline, name, None)) is not None]
    writes = isinstance(pipeline, TextualInversionLoaderMixin)

    def seen_by(tokenizer: Any, text: str) -> str:
        text = spelled(text, tokenizer, tokens)
        if writes:
            return text
        written: str = _Words().maybe_convert_prompt(text, tokenizer)
        return written

    texts = {name: arguments[name] for name in ("prompt", "negative_prompt") if arguments.get(name) is not None}
    changed = {name: seen_by(tokenizers[0], text) for name, text in texts.items()}
    second = seen_by(tokenizers[-1], arguments["prompt"])
    if second != changed["prompt"]:
        changed["prompt_2"] = second
    return {**arguments, **changed}


def spelled(text: str, tokenizer: Any, tokens: Sequence[str]) -> str:
    """The text with each of these words spelt as its tokenizer has it: CLIP's finds a word in any case, but diffusers
    writes out the vectors of one in the tokenizer's own case alone."""
    if not folds_case(tokenizer):
        return text
    for token in tokens:
        text = re.sub(re.escape(token), token.lower(), text, flags=re.IGNORECASE)
    return text


def folds_case(tokenizer: Any) -> bool:
    """Is a word the same to it in capitals?"""
    return bool(tokenizer.tokenize("A") == tokenizer.tokenize("a"))


def _sizes(tokenizer: Any) -> dict[int, int]:
    """The tokens that begin one of several vectors: the token's number, and how many it is written out to."""
    added = getattr(tokenizer, "added_tokens_encoder", {})
    sizes: dict[int, int] = {}
    for word, number in added.items():
        count = 1
        while f"{word}_{count}" in added:
            count += 1
        if count > 1:
            sizes[number] = count
    return sizes
