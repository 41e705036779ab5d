"""A tiny random-weight pipeline of every family, built in memory from configs: no downloads.

Weights are random but not as the libraries initialise them: a layer that starts at zero (ControlNet's, adaLN's) would
hide a wrong argument, and a tensor that starts uninitialised would make the test differ from run to run.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_inpaint,
    pipeline_qwenimage_edit_plus,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pipelines.families import FamilyTable
from pipelines.loader import LoadedModel
from pipelines.plan import ModelPlan

_SPECIALS = ["<pad>", "<s>", "</s>"]
_PAD, _BOS, _EOS = range(3)
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

Builder = Callable[[], tuple[Any, int]]
BUILDERS: dict[str, tuple[str, Builder]] = {}  # the row's name → family, builder of (pipeline, native pixels)


def build(name: str) -> LoadedModel:
    """The tiny model of a row of the matrix; always the same weights."""
    family, builder = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline, native = builder()
    pipeline.set_progress_bar_config(disable=True)
    for component_name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
            _randomise(component, component_name)
    plan = ModelPlan(name, "", family, native_width=native, native_height=native)
    return LoadedModel(plan, pipeline, FamilyTable().by_name[family], torch.device("cpu"))


def row(name: str, family: str) -> Callable[[Builder], Builder]:
    """Register a builder as a row of the matrix."""

    def register(builder: Builder) -> Builder:
        BUILDERS[name] = (family, builder)
        return builder

    return register


def _randomise(module: torch.nn.Module, name: str) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for parameter_name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:  # a norm's weight stays near 1, a bias near 0
            parameter.data = noise * 0.1 + (1.0 if parameter_name.endswith("weight") else 0.0)
        else:
            parameter.data = noise / math.sqrt(parameter[0].numel())


# Parts


def tokenizer(max_length: int = 77, **special: str) -> Any:
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
    made.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A $B </s>", [("<s>", _BOS), ("</s>", _EOS)]
    )
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


_VOCAB = 1024


def _clip_config(**more: Any) -> Any:
    return transformers.CLIPTextConfig(
        bos_token_id=_BOS,
        eos_token_id=_EOS,
        pad_token_id=_PAD,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=3,
        vocab_size=_VOCAB,
        projection_dim=16,
        **more,
    )


def clip() -> Any:
    return transformers.CLIPTextModel(_clip_config())


def clip_projected() -> Any:
    return transformers.CLIPTextModelWithProjection(_clip_config())


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=_VOCAB, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False
    )
    return transformers.T5EncoderModel(config)


def gemma2() -> Any:
    config = transformers.Gemma2Config(
        vocab_size=_VOCAB,
        hidden_size=16,
        intermediate_size=16,
        head_dim=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        pad_token_id=_PAD,
    )
    return transformers.Gemma2Model(config)


def _qwen3_config(layers: int) -> Any:
    return transformers.Qwen3Config(
        vocab_size=_VOCAB,
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


def _discrete(**more: Any) -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **more
    )


def _flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


# UNets


def _stable_diffusion(in_channels: int = 4, **scheduler: Any) -> Any:
    cls = diffusers.StableDiffusionPipeline if in_channels == 4 else diffusers.StableDiffusionInpaintPipeline
    return cls(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(in_channels),
        scheduler=_discrete(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@row("SD 1.x", "stable-diffusion")
def sd1() -> tuple[Any, int]:
    return _stable_diffusion(), 32


@row("SD 2.x", "stable-diffusion")
def sd2() -> tuple[Any, int]:
    return _stable_diffusion(prediction_type="v_prediction"), 32


@row("SD inpainting", "stable-diffusion-inpainting")
def sd_inpainting() -> tuple[Any, int]:
    return _stable_diffusion(in_channels=9), 32


@row("SDXL", "stable-diffusion-xl")
def sdxl() -> tuple[Any, int]:
    denoiser = unet(
        cross=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip_projected(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=denoiser,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        add_watermarker=False,
    )
    return pipeline, 32


@row("LCM", "lcm")
def lcm() -> tuple[Any, int]:
    pipeline = diffusers.LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(time_cond_proj_dim=16),
        scheduler=diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, 32


@row("SD turbo", "stable-diffusion")
def turbo() -> tuple[Any, int]:
    pipeline = _stable_diffusion()
    pipeline.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    return pipeline, 32


@row("SD ControlNet", "stable-diffusion")
def controlnet() -> tuple[Any, int]:
    net = diffusers.ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(4, 8),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    parts = _stable_diffusion().components
    return _Controlled(**parts, controlnet=net, requires_safety_checker=False), 32


class _Controlled(diffusers.StableDiffusionControlNetPipeline):
    """Brings its own control picture, another for each seed: a spec has no field for one yet."""

    @functools.wraps(diffusers.StableDiffusionControlNetPipeline.__call__)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seed = kwargs["generator"][0].initial_seed()
        control = torch.rand(1, 3, kwargs["height"], kwargs["width"], generator=torch.Generator().manual_seed(seed))
        return super().__call__(*args, image=control, **kwargs)


# Transformers


@row("SD3", "stable-diffusion-3")
def sd3() -> tuple[Any, int]:
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,  # the inpainting pipeline refuses any other number
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=32,
        ),
        scheduler=_flow(shift=3.0),
        vae=vae(16, flow=True),
        text_encoder=clip_projected(),
        text_encoder_2=clip_projected(),
        text_encoder_3=t5(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=tokenizer(512),
    )
    return pipeline, 32


def _flux(cls: Any, **more: Any) -> tuple[Any, int]:
    pipeline = cls(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        scheduler=_flow(use_dynamic_shifting=True),
        vae=vae(flow=True),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(512),
        **more,
    )
    return pipeline, 32


@row("FLUX.1", "flux")
def flux() -> tuple[Any, int]:
    return _flux(diffusers.FluxPipeline)


@row("FLUX.1 Kontext", "flux-kontext")
def kontext() -> tuple[Any, int]:
    pipeline, _ = _flux(diffusers.FluxKontextPipeline)
    return pipeline, 64  # no reference is smaller


@row("FLUX.2 Klein", "flux2")
def klein() -> tuple[Any, int]:
    pipeline = diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        scheduler=_flow(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        ),
        # The prompt's embedding is what three layers of the encoder say: the 9th, 18th and 27th.
        text_encoder=transformers.Qwen3ForCausalLM(_qwen3_config(27)),
        tokenizer=tokenizer(512),
        is_distilled=False,
    )
    return pipeline, 64  # the least side of a reference


def _qwen_parts() -> dict[str, Any]:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": _VOCAB,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "bos_token_id": _BOS,
            "eos_token_id": _EOS,
            "pad_token_id": _PAD,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
        image_token_id=_IMAGE_PAD,
        video_token_id=_VOCAB - 1,
        vision_start_token_id=_VOCAB - 2,
        vision_end_token_id=_VOCAB - 3,
    )
    return {
        "transformer": diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ),
        "scheduler": _flow(use_dynamic_shifting=True),
        "vae": diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": tokenizer(1024, additional_special_tokens=["<|image_pad|>"]),
    }


_IMAGE_PAD = tokenizer(1024, additional_special_tokens=["<|image_pad|>"]).convert_tokens_to_ids("<|image_pad|>")


@row("Qwen-Image", "qwen-image")
def qwen() -> tuple[Any, int]:
    return diffusers.QwenImagePipeline(**_qwen_parts()), 32


class _QwenProcessor:
    """What Qwen2VLProcessor does with pictures and text; that class cannot be made without torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})

    def __call__(self, *, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        features = self.image_processor(images=images, return_tensors=return_tensors)
        grids = iter(features["image_grid_thw"])
        pieces = [piece for prompt in text for piece in prompt.split("<|image_pad|>")]
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += "<|image_pad|>" * (int(next(grids).prod()) // 4) + piece
        tokens = self.tokenizer([whole], padding=padding, return_tensors=return_tensors)
        return transformers.BatchFeature({**tokens, **features})


def _qwen_edit(cls: Any, module: Any) -> tuple[Any, int]:
    # These pipelines bring every source to a megapixel, which takes this machine a minute.
    for each in (module, pipeline_qwenimage_edit_inpaint):
        real = _REAL_SIZES.setdefault(each, each.calculate_dimensions)
        each.calculate_dimensions = functools.partial(_at_tiny_area, real)
    parts = _qwen_parts()
    return cls(**parts, processor=_QwenProcessor(parts["tokenizer"])), 64


_REAL_SIZES: dict[Any, Any] = {}


def _at_tiny_area(real: Any, area: int, ratio: float) -> Any:
    return real(64 * 64, ratio)


@row("Qwen-Image-Edit", "qwen-image-edit")
def qwen_edit() -> tuple[Any, int]:
    return _qwen_edit(diffusers.QwenImageEditPipeline, pipeline_qwenimage_edit)


@row("Qwen-Image-Edit-Plus", "qwen-image-edit-plus")
def qwen_edit_plus() -> tuple[Any, int]:
    return _qwen_edit(diffusers.QwenImageEditPlusPipeline, pipeline_qwenimage_edit_plus)


@row("Z-Image", "z-image")
def z_image() -> tuple[Any, int]:
    pipeline = diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[512, 32, 32],
        ),
        scheduler=_flow(shift=3.0),
        vae=vae(16, flow=True),
        text_encoder=transformers.Qwen3Model(_qwen3_config(2)),
        tokenizer=tokenizer(512),
    )
    return pipeline, 32


@row("Sana", "sana")
def sana() -> tuple[Any, int]:
    pipeline = diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=32,
        ),
        scheduler=_flow(shift=3.0),
        vae=diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        text_encoder=gemma2(),
        tokenizer=tokenizer(300),
    )
    return pipeline, 32


@row("PixArt-Sigma", "pixart")
def pixart() -> tuple[Any, int]:
    pipeline = diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        ),
        scheduler=_discrete(),
        vae=vae(),
        text_encoder=t5(),
        tokenizer=tokenizer(300),
    )
    return pipeline, 32


@row("Lumina 2", "lumina2")
def lumina2() -> tuple[Any, int]:
    pipeline = diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(8, 4, 4),
            axes_lens=(300, 32, 32),
            cap_feat_dim=16,
        ),
        scheduler=_flow(shift=3.0),
        vae=vae(flow=True),
        text_encoder=gemma2(),
        tokenizer=tokenizer(256),
    )
    return pipeline, 32


@row("AuraFlow", "auraflow")
def auraflow() -> tuple[Any, int]:
    config = transformers.UMT5Config(
        vocab_size=_VOCAB, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False
    )
    pipeline = diffusers.AuraFlowPipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pos_embed_max_size=64,
        ),
        scheduler=_flow(shift=1.73),
        vae=vae(),
        text_encoder=transformers.UMT5EncoderModel(config),
        tokenizer=tokenizer(256),
    )
    return pipeline, 32


@row("Chroma", "chroma")
def chroma() -> tuple[Any, int]:
    pipeline = diffusers.ChromaPipeline(
        transformer=diffusers.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        scheduler=_flow(use_dynamic_shifting=True),
        vae=vae(flow=True),
        text_encoder=t5(),
        tokenizer=tokenizer(512),
    )
    return pipeline, 32
