"""FLUX.1's transformer under the names of its first program, written by the tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]
PREFIX = "model.diffusion_model."

_OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_FUSED = {
    **{f"attn.to_{letter}": "img_attn.qkv" for letter in "qkv"},
    **{f"attn.add_{letter}_proj": "txt_attn.qkv" for letter in "qkv"},
}
_SINGLE = {"proj_out": "linear2", "norm.linear": "modulation.lin"}
_SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
_SINGLE_FUSED = {**{f"attn.to_{letter}": "linear1" for letter in "qkv"}, "proj_mlp": "linear1"}


def original_flux(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """FLUX.1's names as its first program has them."""
    found: Tensors = {}
    fused: dict[str, list[torch.Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        if name.startswith("transformer_blocks."):
            head, plain, norms, joins = "double_blocks", _DOUBLE, _NORMS, _FUSED
        elif name.startswith("single_transformer_blocks."):
            head, plain, norms, joins = "single_blocks", _SINGLE, _SINGLE_NORMS, _SINGLE_FUSED
        else:
            swapped = torch.cat(list(tensor.chunk(2))[::-1]) if module == "norm_out.linear" else tensor
            found[f"{_OUTSIDE[module]}.{last}"] = swapped
            continue
        _, number, module = module.split(".", 2)
        if module in norms:
            found[f"{head}.{number}.{norms[module]}.scale"] = tensor
        elif module in joins:
            fused.setdefault(f"{head}.{number}.{joins[module]}.{last}", []).append(tensor)
        else:
            found[f"{head}.{number}.{plain[module]}.{last}"] = tensor
    return found | {name: torch.cat(parts) for name, parts in fused.items()}
