"""Random adapters for tests: files as diffusers' own training scripts write them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

_DENOISER_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
_ENCODER_LAYERS = ["q_proj", "v_proj"]


def write_lora(
    pipeline: Any,
    folder: Path,
    *,
    seed: int,
    size: float = 0.25,
    parts: Collection[str] | None = None,
    dora: bool = False,
) -> Path:
    """An adapter of rank 2 for every part of ``pipeline`` that takes one, or for ``parts``; the file.

    The pipeline is spoilt: its modules carry an adapter now.
    """
    import peft
    import torch
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    numbers = torch.Generator().manual_seed(seed)
    for part in pipeline._lora_loadable_modules:
        module = getattr(pipeline, part, None)
        if module is None or (parts is not None and part not in parts):
            continue
        layers_of_part = _ENCODER_LAYERS if part.startswith("text") else _DENOISER_LAYERS
        config = peft.LoraConfig(r=2, target_modules=layers_of_part, init_lora_weights=False, use_dora=dora)
        module.add_adapter(config)
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        layers[f"{part}_lora_layers"] = {
            # A DoRA's magnitudes are no differences: they stay near the weights' own.
            key: torch.randn(value.shape, generator=numbers) * size if value.dim() > 1 else value * 1.1
            for key, value in state.items()
        }
    type(pipeline).save_lora_weights(folder / f"{seed}", **layers)
    return folder / f"{seed}" / "pytorch_lora_weights.safetensors"
