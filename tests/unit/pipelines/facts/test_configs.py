"""Configs that could make a library run code, or fetch, and those of real hubs, which could not."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import LoadRefused
from pipelines.facts.configs import judge


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation": "org/repo"},
        {"attn_implementation": "org/repo@main:kernel"},
        {"_attn_implementation": {"text_config": "org/repo"}},
        {"_attn_implementation": "paged|org/repo"},
        {"_attn_implementation": 5},
        {"_experts_implementation": "org/repo"},
        {"_class_name": ["None", "X"]},
        {"_class_name": "../x"},
        {"_class_name": {"a": "b"}},
        {"architectures": ["os.system"]},
        {"architectures": "../x"},
        {"tokenizer_class": "org/repo--Tokenizer"},
        {"processor_class": ["evil.Processor"]},
        {"image_processor_type": "a.b"},
        {"feature_extractor_type": "../x"},
        {"model_type": "../x"},
        {"torch_dtype": "load"},
        {"dtype": "ops.load_library"},
        {"dtype": ["float16", "hub"]},
        {"quantization_config": {"quant_method": "org/repo"}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"quantization_config": {"quant_method": ["bitsandbytes"]}},
        {"quantization_config": "org/repo"},
        {"quantization_config": {}},
        {"custom_pipeline": "org/repo"},
        {"custom_generate": "org/repo"},
        {"transformers_weights": "../../x.safetensors"},
        {"audio_tokenizer": {"audio_tokenizer_name_or_path": "org/repo"}},
        {"backbone": "org/repo"},
        {"use_pretrained_backbone": True},
        {"init_inputs": ["/etc/passwd"]},
        {"kernel_config": {"a": "b"}},
        {"use_kernels": True},
        {"fast_tokenizer_files": ["../tokenizer.json"]},
        {"_adapter_model_path": "org/repo"},
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_values_that_name_code_or_something_to_fetch(config: dict[str, Any], deep: bool) -> None:
    """Only keys were looked at: _attn_implementation: org/repo passed, and _class_name: [file, class]."""
    with pytest.raises(LoadRefused, match=next(iter(config))) as refused:
        judge({"text_config": [{"a": config}]} if deep else config, "unet/config.json")
    assert "unet/config.json" in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "UNet2DConditionModel", "_name_or_path": "../models/x", "act_fn": "silu", "backbone": None},
        {"architectures": ["CLIPTextModel"], "torch_dtype": "float16", "model_type": "clip_text_model"},
        {"architectures": None, "dtype": None, "use_pretrained_backbone": False, "init_inputs": []},
        {"dtype": "bfloat16", "model_type": "qwen2_5_vl", "text_config": {"torch_dtype": "bfloat16"}},
        {"_attn_implementation_autoset": True, "attn_implementation": "flash_attention_2"},
        {"_attn_implementation": {"text_config": "sdpa", "vision_config": None}},
        {"tokenizer_class": "CLIPTokenizer", "special_tokens_map_file": "./special_tokens_map.json"},
        {"tokenizer_file": "/root/.cache/x/tokenizer.json", "name_or_path": "google/t5", "sp_model_kwargs": {}},
        {"processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"},
        {"tokenizer_class": ["T5Tokenizer", None]},
        {
            "quantization_config": {
                "quant_method": "bitsandbytes",
                "bnb_4bit_compute_dtype": "bfloat16",
                "_load_in_4bit": True,
                "llm_int8_skip_modules": ["lm_head"],
            }
        },
        {"quantization_config": {"load_in_8bit": True}},
        {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8", "_data": {}}}}},
        {"quantization_config": None, "transformers_weights": None},
    ],
)
def test_configs_as_hubs_have_them(config: dict[str, Any]) -> None:
    judge(config, "unet/config.json")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("gguf", "name the .gguf file under transformer"),
        ("modelopt", "is 'modelopt', which is not served"),
        ("auto-round", "is 'auto-round', which is not served"),
    ],
)
def test_a_way_of_quantising_that_is_not_served_is_named_with_what_to_do(method: str, says: str) -> None:
    with pytest.raises(LoadRefused, match=says):
        judge({"quantization_config": {"quant_method": method}}, "transformer/config.json")
