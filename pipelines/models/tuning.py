"""What makes a loaded model faster or smaller on a device, each through the libraries' own interfaces.

Knows what ``quantise``, ``offload``, ``compile`` and ``fuse_qkv`` of models.yaml do to a pipeline, and what is done
without being asked; knows neither runs nor HTTP. On the CPU only ``quantise`` and decoding in tiles have an effect.
docs/gpu.md lists each of them, its expected effect and where that is from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import torch
import transformers
from diffusers.quantizers import PipelineQuantizationConfig

from pipelines.engine.shared import DENOISERS, casts_itself
from pipelines.errors import LoadRefused
from pipelines.facts import requirements
from pipelines.models import memory, offload, streaming, transfer
from pipelines.plan import ModelPlan

log = logging.getLogger("darkroom.tuning")

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")

# The projections of diffusers' fused attentions, and those whose numbers they have.
_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
_TILE_PIXELS = 1536  # a side: larger pictures are decoded in tiles, smaller ones whole (tiles leave seams)


def quantisation(plan: ModelPlan) -> Any:
    """The quantization_config that loading needs for the plan, or None. Raises LoadRefused without its library."""
    mapping: dict[str, Any] = {}
    # The denoiser is the largest part, and text encoders suffer most from fewer bits: they have a word of their own.
    for key, name, parts, library in (
        ("quantise", plan.quantise, DENOISERS, diffusers),
        ("quantise_encoders", plan.quantise_encoders, ENCODERS, transformers),
    ):
        if name is None:
            continue
        try:
            config = _float8(library) if name == "float8" else _bitsandbytes(library, name)
            mapping |= dict.fromkeys(parts, config)
        except (ImportError, ValueError) as error:
            raise LoadRefused(f"{key}: {name} cannot be used here: {error}") from error
    return PipelineQuantizationConfig(quant_mapping=mapping) if mapping else None


def require_compiler(plan: ModelPlan, device: torch.device) -> None:
    """Raise LoadRefused where ``compile`` has an effect and its compiler is missing: before minutes of loading."""
    if plan.compile and device.type == "cuda":
        lacking = requirements.missing_for_compile()
        if lacking is not None:
            raise LoadRefused(lacking)


def _bitsandbytes(library: Any, name: str) -> Any:
    """The configuration of the library that loads the part: each has its own class of it."""

    if name == "int8":
        return library.BitsAndBytesConfig(load_in_8bit=True)
    return library.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def _float8(library: Any) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig

    return library.TorchAoConfig(Float8WeightOnlyConfig())


def place(
    pipeline: Any,
    plan: ModelPlan,
    device: torch.device,
    *,
    host_encoders: bool = False,
    beside: Mapping[str, torch.nn.Module] | None = None,
) -> dict[str, streaming.Streamed]:
    """Bring a pipeline to its device, with what is faster there, and ``beside`` it its ControlNets. With
    ``host_encoders``, its text encoders stay in host memory. Returns the parts that are streamed from there."""
    beside = beside or {}
    streamed: dict[str, streaming.Streamed] = {}
    if device.type == "cuda":
        # Tensor cores for what stays in float32. No cuDNN search and no channels-last: an engine's batches have ever
        # other shapes, each of which was searched for seconds, in each thread, for kernels no faster (docs/gpu.md).
        torch.set_float32_matmul_precision("high")
        _fuse(pipeline, plan)  # before placing: offloading moves what it finds, and what is dropped is not copied
    if plan.offload and device.type == "cuda":
        streamed = offload.offload(
            pipeline,
            device,
            host_bytes=memory.host_share(),
            streams_encoders=plan.quantise_encoders is None,
            beside=beside,
        )
    elif host_encoders and device.type == "cuda":
        streamed = streaming.stream_encoders(pipeline, device, host_bytes=memory.host_share())
    else:
        for part in pipeline.components.values():
            if device.type == "cuda" and isinstance(part, torch.nn.Module):
                transfer.bring_weights(part, device)
        pipeline.to(device)  # what is left: it knows which parts their libraries move by themselves
    for part in beside.values() if not (plan.offload and device.type == "cuda") else ():
        if device.type == "cuda":
            transfer.bring_weights(part, device)
        part.to(device)
    if device.type == "cuda" and plan.compile:
        for module in _denoisers(pipeline):
            _compile(module)
    _write_nothing(pipeline)
    _slice(pipeline)
    _tile(pipeline)
    return streamed


def _denoisers(pipeline: Any) -> Iterator[Any]:
    parts = (getattr(pipeline, name, None) for name in DENOISERS)
    return (part for part in parts if isinstance(part, torch.nn.Module))


def _fuse(pipeline: Any, plan: ModelPlan) -> None:
    """Give each attention one projection for query, key and value, and drop those that it replaces: beside it they
    would take a tenth and more of the denoiser's memory."""
    for module in _denoisers(pipeline) if plan.fuse_qkv else ():
        if plan.quantise is not None or getattr(
            module, "is_quantized", False
        ):  # packed numbers are no matrices to be joined
            log.warning("fuse_qkv has no effect on a quantised model", extra={"model": plan.key})
        elif hasattr(module, "fuse_qkv_projections"):
            module.fuse_qkv_projections()
            for attention in module.modules():
                for fused, replaced in _FUSED.items():
                    if getattr(attention, fused, None) is not None:
                        for name in replaced:
                            delattr(attention, name)


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
