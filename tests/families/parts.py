"""The parts that tiny pipelines are made of: encoders, tokenizers, VAEs, UNets, schedulers, from configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

Builder = Callable[[], tuple[Any, int]]  # a pipeline, and the side in pixels of its native picture
Rows = dict[str, tuple[str, Builder]]  # the row's name in the matrix → family, builder

_SPECIALS = ["<pad>", "<s>", "</s>"]
PAD, BOS, EOS = range(3)
_CHAT = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}\n{% endfor %}"
)
# Words of the instructions that pipelines put around prompts: letter by letter those would be a thousand tokens.
_INSTRUCTIONS = (
    "an are aspects assistant at background based by color Create degree Describe descriptions designed detail "
    "detailed enhanced Evaluate existing focusing generate Given image images in key level objects of on or prompt "
    "Prompt provide quantity quality shape size spatial superior text textual texture that the to user with you your"
)


def tokenizer(max_length: int = 77, **special: str | list[str]) -> Any:
    """One token a word that pipelines use themselves, else one a letter: so prompts have different lengths."""
    marker = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab = {token: index for index, token in enumerate([*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges: list[tuple[str, str]] = []
    for word in _INSTRUCTIONS.split():
        for whole in (word, "Ġ" + word):
            for end in range(2, len(whole) + 1):
                if whole[:end] not in vocab:
                    vocab[whole[:end]] = len(vocab)
                    merges.append((whole[: end - 1], whole[end - 1]))
    made = Tokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = marker
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A $B </s>", [("<s>", BOS), ("</s>", EOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=max_length,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        chat_template=_CHAT,
        **special,
    )


VOCAB = 1024


def _clip_config(**more: Any) -> Any:
    return transformers.CLIPTextConfig(
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=3,
        vocab_size=VOCAB,
        projection_dim=16,
        **more,
    )


def clip() -> Any:
    return transformers.CLIPTextModel(_clip_config())


def clip_projected() -> Any:
    return transformers.CLIPTextModelWithProjection(_clip_config())


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False
    )
    return transformers.T5EncoderModel(config)


def gemma2() -> Any:
    config = transformers.Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        head_dim=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        pad_token_id=PAD,
    )
    return transformers.Gemma2Model(config)


def qwen3_config(layers: int) -> Any:
    return transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        head_dim=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )


def vae(latent_channels: int = 4, *, flow: bool = False) -> Any:
    """Halves a side once, not three times as the real ones do."""
    shift = {"shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False} if flow else {}
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=32,
        **shift,
    )


def unet(in_channels: int = 4, cross: int = 16, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=2,
        norm_num_groups=4,
        **more,
    )


def discrete(**more: Any) -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **more
    )


def flow_matching(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)
