"""Checkpoints in the original layout, written by the tests: diffusers' names turned back into those of the first
programs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
import transformers
from safetensors.torch import save_file

from pipelines.facts.checkpoint import ARCHITECTURES

_UNET = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.resnets.1.", "middle_block.2."),
)
_RESNET = {
    **{"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"},
    **{"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"},
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    **{"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"},
    "self_attn.out_proj": "attn.out_proj",
}
_QKV = re.compile(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)")
# Real widths are megabytes: small ones for the same structure.
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [32, 64], "layers_per_block": 1, "attention_head_dim": 8, "sample_size": 8},
    "vae": {"block_out_channels": [32, 32], "layers_per_block": 1, "sample_size": 16},
    "text_encoder": {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2},
}
_BLOCKS = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}
_VAE_BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}


def small_configurations(base: str, folder: Path) -> Path:
    """A folder with the configurations of a base, in small, and tokenizers without words of their own."""
    shutil.copytree(ARCHITECTURES / base, folder)
    texts = [name for name in ("text_encoder", "text_encoder_2") if (folder / name).is_dir()]
    for name in texts:
        _change(folder / name, **SMALL["text_encoder"], projection_dim=32)
    width = 32 * len(texts)
    unet: dict[str, Any] = {**SMALL["unet"], **_BLOCKS, "cross_attention_dim": width}
    if base.startswith("sdxl"):
        ids = 5 if base == "sdxl-refiner" else 6
        unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + ids * 8}
        unet |= {"transformer_layers_per_block": [1, 2]}
    _change(folder / "unet", **unet)
    _change(folder / "vae", **SMALL["vae"], **_VAE_BLOCKS)
    return folder


def _change(component: Path, **values: Any) -> None:
    path = component / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def modules(configurations: Path, *, empty: bool = False) -> dict[str, torch.nn.Module]:
    """The models of a folder of configurations, with random weights, or without memory."""
    index = json.loads((configurations / "model_index.json").read_text())
    made: dict[str, torch.nn.Module] = {}
    torch.manual_seed(7)
    for name, value in index.items():
        if not isinstance(value, list) or value[0] is None or not (configurations / name / "config.json").is_file():
            continue
        with accelerate.init_empty_weights(include_buffers=False) if empty else torch.device("cpu"):
            if value[0] == "diffusers":
                loaded = getattr(diffusers, value[1])
                made[name] = loaded.from_config(loaded.load_config(str(configurations / name)))
            else:
                config = transformers.CLIPTextConfig.from_pretrained(str(configurations / name))
                made[name] = getattr(transformers, value[1])(config)
    return made


def checkpoint(parts: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The tensors of a whole model as one checkpoint in the original layout."""
    found: dict[str, torch.Tensor] = {}
    is_xl = "text_encoder_2" in parts
    is_refiner = is_xl and "text_encoder" not in parts
    for name, module in parts.items():
        tensors = dict(module.state_dict())
        if name == "unet":
            found |= _with("model.diffusion_model.", _unet(tensors, module))
        elif name == "vae":
            found |= _with("first_stage_model.", _vae(tensors, module))
        elif name == "text_encoder_2":
            found |= _with(f"conditioner.embedders.{0 if is_refiner else 1}.model.", _open_clip(tensors))
        elif is_xl:
            found |= _with("conditioner.embedders.0.transformer.text_model.", _plain_clip(tensors))
        elif getattr(module.config, "hidden_act", "") == "gelu":
            found |= _with("cond_stage_model.model.", _open_clip(tensors))
        else:
            found |= _with("cond_stage_model.transformer.text_model.", _plain_clip(tensors))
    return found


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A file of these tensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def write_hollow(path: Path, tensors: Mapping[str, torch.Tensor], dtype: str = "F16") -> Path:
    """A file with the header of these tensors and a hole in the place of their bytes."""
    end, header = 0, {}
    for name, tensor in tensors.items():
        size = tensor.numel() * 2
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def _with(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _unet(tensors: Mapping[str, torch.Tensor], module: Any) -> dict[str, torch.Tensor]:
    layers = module.config.layers_per_block + 1
    attends = ["CrossAttn" in each for each in module.config.up_block_types]
    return {_unet_name(name, layers, attends): tensor for name, tensor in tensors.items()}


def _unet_name(name: str, layers: int, attends: list[bool]) -> str:
    for ours, theirs in _UNET:
        if name.startswith(ours):
            return theirs + _resnet(name.removeprefix(ours))
    _, block, kind, layer, rest = re.fullmatch(r"(\w+)\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    i, j = int(block), int(layer)
    if name.startswith("down_blocks"):
        if kind == "downsamplers":
            return f"input_blocks.{layers * (i + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{layers * i + j + 1}.{0 if kind == 'resnets' else 1}.{_resnet(rest)}"
    if kind == "upsamplers":
        return f"output_blocks.{layers * i + layers - 1}.{2 if attends[i] else 1}.{rest}"
    return f"output_blocks.{layers * i + j}.{0 if kind == 'resnets' else 1}.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    head, _, last = rest.rpartition(".")
    return f"{_RESNET[head]}.{last}" if head in _RESNET else rest


def _vae(tensors: Mapping[str, torch.Tensor], module: Any) -> dict[str, torch.Tensor]:
    blocks = len(module.config.block_out_channels)
    found = {}
    for name, tensor in tensors.items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)", name):
            block = "upsample" if match[3] is None else f"block.{match[3]}"
            name = f"decoder.up.{blocks - 1 - int(match[1])}.{block}{name[match.end() :]}"
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        if "mid_block.attentions.0." in name:
            head, _, rest = name.partition("mid_block.attentions.0.")
            layer, _, last = rest.rpartition(".")
            name = f"{head}mid.attn_1.{_VAE_ATTENTION[layer]}.{last}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[name] = tensor
    return found


def _plain_clip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def _open_clip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    fused: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("text_model.").replace("encoder.layers.", "transformer.resblocks.")
        if match := _QKV.fullmatch(name):
            fused.setdefault(f"{match[1]}attn.in_proj_{match[3]}", {})[match[2]] = tensor
            continue
        for ours, theirs in _OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T
        else:
            name = name.replace("embeddings.token_embedding", "token_embedding")
            name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
            found[name.replace("final_layer_norm", "ln_final")] = tensor
    for name, parts in fused.items():
        found[name] = torch.cat([parts[letter] for letter in "qkv"])
    return found
