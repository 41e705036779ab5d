"""Embeddings (textual inversion): words that a model's tokenizers and text encoders learn as it is loaded.

Knows tokenizers, encoders and diffusers' loader of vectors; knows neither runs nor requests. It happens once, before
anything is drawn: prompts without such a word are encoded as before, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from diffusers.loaders import TextualInversionLoaderMixin

from pipelines.engine.prompts import folds_case
from pipelines.errors import LoadRefused
from pipelines.facts import textual_inversion
from pipelines.facts.textual_inversion import Slot, Vectors
from pipelines.plan import EmbeddingFile, ModelPlan


class _Loader(TextualInversionLoaderMixin):  # type: ignore[misc]
    """diffusers' loader without a pipeline: not every class of a family that takes embeddings has it."""

    hf_device_map = None

    def __init__(self, components: Mapping[str, Any]) -> None:
        self.components = components


def check(plan: ModelPlan, components: Mapping[str, Any]) -> None:
    """Compare a plan's embeddings, whose few numbers are read, with its tokenizers and encoders, which may be without
    memory. Raises LoadRefused."""
    for file in plan.embeddings:
        for found in textual_inversion.vectors(file, plan.family):
            _check(file, found, components)
            _tensor(file, found)


def load(plan: ModelPlan, components: Mapping[str, Any]) -> None:
    """Teach the components of a loaded model its words. Raises LoadRefused."""
    check(plan, components)
    by_slot: dict[Slot, list[tuple[EmbeddingFile, Vectors]]] = {}
    for file in plan.embeddings:
        for found in textual_inversion.vectors(file, plan.family):
            by_slot.setdefault(found.slot, []).append((file, found))
    for slot, files in by_slot.items():
        tokenizer, encoder = components[slot.tokenizer], components[slot.encoder]
        # diffusers makes room too, but has the new rows drawn from the distribution of the old ones first, and then
        # overwrites them: much linear algebra for a wide encoder.
        size = len(tokenizer) + sum(found.count for _, found in files)
        try:
            encoder.resize_token_embeddings(size, mean_resizing=False)
            _Loader(components).load_textual_inversion(
                [_tensor(file, found) for file, found in files],
                token=[_word(file, tokenizer) for file, _ in files],
                tokenizer=tokenizer,
                text_encoder=encoder,
            )
        except (LoadRefused, torch.AcceleratorError):
            raise  # the second is no fault of the files
        except Exception as error:  # of the libraries, which raise all kinds
            words = ", ".join(file.token for file, _ in files)
            raise LoadRefused(f"embeddings: {words}: {type(error).__name__}: {str(error)[:300]}") from error


def _check(file: EmbeddingFile, found: Vectors, components: Mapping[str, Any]) -> None:
    where = f"embeddings: {file.token}: "
    name = Path(file.path).name
    tokenizer, encoder = components.get(found.slot.tokenizer), components.get(found.slot.encoder)
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        raise LoadRefused(f"{where}the model has no {found.slot.tokenizer} that could learn it")
    if isinstance(encoder, transformers.PreTrainedModel):
        width = encoder.get_input_embeddings().weight.shape[-1]
        if width != found.width:
            raise LoadRefused(
                f"{where}{name} has vectors of {found.width} numbers, and {found.slot.encoder} takes {width}: it was"
                " made for another kind of model"
            )
    words, own = tokenizer.get_vocab(), _word(file, tokenizer)
    for word in (own, *(f"{own}_{number}" for number in range(1, found.count))):
        if word in words:
            raise LoadRefused(f"{where}{word} is in {found.slot.tokenizer}'s vocabulary already: choose another token")
    pieces = tokenizer.tokenize(file.token)
    if len(pieces) == 1 and pieces[0] != tokenizer.unk_token:
        raise LoadRefused(
            f"{where}{found.slot.tokenizer} knows it as a word already, which no prompt could say any more: choose"
            f" another token, as <{file.token}>"
        )


def _word(file: EmbeddingFile, tokenizer: Any) -> str:
    """The word as a tokenizer is to have it. In capitals, CLIP's would find it, and diffusers not: it would be drawn
    with the first of its vectors alone."""
    return file.token.lower() if folds_case(tokenizer) else file.token


def _tensor(file: EmbeddingFile, found: Vectors) -> torch.Tensor:
    with safetensors.safe_open(file.path, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(found.name)
    if not bool(torch.isfinite(tensor).all()):
        raise LoadRefused(f"embeddings: {file.token}: {Path(file.path).name} has NaN or infinity in it; fetch it again")
    return tensor
