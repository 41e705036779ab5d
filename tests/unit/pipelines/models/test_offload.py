"""Offloading: which part comes how, on fakes of diffusers' hooks and on the real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from diffusers import FluxTransformer2DModel

from pipelines.models import offload


@pytest.mark.parametrize(("host_bytes", "pinned"), [(1 << 40, True), (0, False)])
def test_each_part_is_offloaded_as_it_runs(host_bytes: int, pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaf cost two waits of the host; the VAE's hooks kept a list that grew with every picture; and pinned memory
    had no bound."""
    done: list[tuple[Any, dict[str, Any]]] = []
    streamed: list[bool] = []
    moved: list[Any] = []
    monkeypatch.setattr(offload, "apply_group_offloading", lambda part, **options: done.append((part, options)))
    monkeypatch.setattr(offload, "Copies", lambda device: None)
    monkeypatch.setattr(offload, "Streamed", lambda part, device, copies, pinned: streamed.append(pinned))
    transformer, controlnet, vae, text, beside = (torch.nn.Linear(1, 1) for _ in range(5))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append((self, device)))
    parts = {"transformer": transformer, "controlnet": controlnet, "vae": vae, "text_encoder": text, "tokenizer": 1}
    cuda = torch.device("cuda")
    pipeline, nets = SimpleNamespace(components=parts), {"controlnets.a": beside}
    offload.offload(pipeline, cuda, host_bytes=host_bytes, streams_encoders=True, beside=nets)
    assert [(part, options["offload_type"]) for part, options in done] == [
        (transformer, "block_level"),
        (controlnet, "leaf_level"),
        (beside, "leaf_level"),
    ]
    for _, options in done:
        assert options["record_stream"]
        assert options["low_cpu_mem_usage"] is not pinned
    assert moved == [(vae, cuda)]
    assert streamed == [pinned]


def test_a_transformers_blocks_are_what_diffusers_finds() -> None:
    """The real hooks, without streams: those are CUDA's."""
    transformer = FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    encoder = transformers.T5EncoderModel(transformers.T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_heads=2))
    parts = {"transformer": transformer, "text_encoder": encoder, "vae": torch.nn.Linear(1, 1)}
    made = offload.offload(SimpleNamespace(components=parts), torch.device("cpu"), host_bytes=0, streams_encoders=True)
    assert set(made) == {"text_encoder"}
    hooked = {name for name, module in transformer.named_modules() if hasattr(module, "_diffusers_hook")}
    assert {"transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.1"} <= hooked
