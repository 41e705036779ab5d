"""What makes a loaded model faster or smaller on a device, each through the libraries' own interfaces.

Knows what ``quantise``, ``offload``, ``compile`` and ``fuse_qkv`` of models.yaml do to a pipeline, and what is done
without being asked; knows neither runs nor HTTP. On the CPU only ``quantise`` and decoding in tiles have an effect.
docs/gpu.md lists each of them, its expected effect and where that is from.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers.quantizers import PipelineQuantizationConfig

from pipelines.engine.shared import DENOISERS, casts_itself
from pipelines.errors import LoadRefused
from pipelines.plan import ModelPlan

log = logging.getLogger("darkroom.tuning")

_TILE_PIXELS = 1536  # a side: larger pictures are decoded in tiles, smaller ones whole (tiles leave seams)


def quantisation(plan: ModelPlan) -> Any:
    """The quantization_config that loading needs for the plan, or None. Raises LoadRefused without its library."""
    if plan.quantise is None:
        return None
    try:
        config = _float8() if plan.quantise == "float8" else _bitsandbytes(plan.quantise)
        # Only the denoiser: it is the largest part, and text encoders suffer most from fewer bits.
        return PipelineQuantizationConfig(quant_mapping=dict.fromkeys(DENOISERS, config))
    except (ImportError, ValueError) as error:
        raise LoadRefused(f"quantise: {plan.quantise} cannot be used here: {error}") from error


def _bitsandbytes(name: str) -> Any:
    from diffusers import BitsAndBytesConfig

    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _float8() -> Any:
    from diffusers import TorchAoConfig
    from torchao.quantization import Float8WeightOnlyConfig

    return TorchAoConfig(Float8WeightOnlyConfig())


def place(pipeline: Any, plan: ModelPlan, device: torch.device) -> None:
    """Bring a pipeline to its device, with what is faster there."""
    if device.type == "cuda":
        # Tensor cores for what stays in float32. No cuDNN search and no channels-last: an engine's batches have ever
        # other shapes, each of which was searched for seconds, in each thread, for kernels no faster (docs/gpu.md).
        torch.set_float32_matmul_precision("high")
    if plan.offload and device.type == "cuda":
        # Groups of layers come to the device just before they run; the copy overlaps the compute on a stream.
        pipeline.enable_group_offload(
            onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=True
        )
    else:
        pipeline.to(device)
    if device.type == "cuda":
        _speed_up(pipeline, plan)
    _write_nothing(pipeline)
    _slice(pipeline)
    _tile(pipeline)


def _speed_up(pipeline: Any, plan: ModelPlan) -> None:
    for name in DENOISERS:
        module: Any = getattr(pipeline, name, None)
        if not isinstance(module, torch.nn.Module):
            continue
        if plan.fuse_qkv and hasattr(module, "fuse_qkv_projections"):
            model: Any = module
            model.fuse_qkv_projections()
        if plan.compile:
            _compile(module)


def _compile(model: Any) -> None:
    """Compile the blocks that repeat, each once (regional compilation): minutes less than the whole module."""
    if getattr(model, "_repeated_blocks", None):
        model.compile_repeated_blocks(fullgraph=True, dynamic=True)
    else:
        model.compile(dynamic=True)


def _write_nothing(pipeline: Any) -> None:
    """Let language models that encode prompts make no keys and values for words that they are never asked for."""
    for component in pipeline.components.values():
        config: Any = getattr(component, "config", None)
        parts: list[Any] = [config, getattr(config, "text_config", None)]
        for part in parts if isinstance(component, torch.nn.Module) else ():
            if getattr(part, "use_cache", False):
                part.use_cache = False


def _slice(pipeline: Any) -> None:
    """Decode one picture at a time where pipelines cast the VAE to float32: no engine cuts such a decode."""
    vae: Any = getattr(pipeline, "vae", None)
    if hasattr(vae, "enable_slicing") and casts_itself(vae):
        vae.enable_slicing()


def _tile(pipeline: Any) -> None:
    """Decode pictures past a size in tiles, so that one decode cannot take the device's memory or its time."""
    vae: Any = getattr(pipeline, "vae", None)
    # AutoencoderTiny would tile pictures of any size, and is too small to need it.
    if not hasattr(vae, "use_tiling") or type(vae).__name__ == "AutoencoderTiny":
        return
    if hasattr(vae, "tile_latent_min_size"):
        vae.enable_tiling()
        vae.tile_sample_min_size = _TILE_PIXELS
        vae.tile_latent_min_size = _TILE_PIXELS // _scale(vae)
    elif hasattr(vae, "tile_sample_stride_height"):
        # Tiles overlap by the share of them that the class chose.
        stride = _TILE_PIXELS * vae.tile_sample_stride_height // vae.tile_sample_min_height
        vae.enable_tiling(
            tile_sample_min_height=_TILE_PIXELS,
            tile_sample_min_width=_TILE_PIXELS,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )


def _scale(vae: Any) -> int:
    """Pixels a latent, along a side."""
    if hasattr(vae.config, "block_out_channels") and not hasattr(vae.config, "spatial_compression_ratio"):
        return int(2 ** (len(vae.config.block_out_channels) - 1))
    return int(vae.tile_sample_min_size // vae.tile_latent_min_size)
