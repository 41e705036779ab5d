"""Tiny pipelines of the families whose denoiser is a transformer."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers

from tests.families import qwen
from tests.families.parts import (
    VOCAB,
    Rows,
    clip,
    clip_projected,
    discrete,
    flow_matching,
    gemma2,
    qwen3_config,
    t5,
    tokenizer,
    vae,
)


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
        scheduler=flow_matching(shift=3.0),
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
        scheduler=flow_matching(use_dynamic_shifting=True),
        vae=vae(flow=True),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(512),
        **more,
    )
    return pipeline, 32


def flux() -> tuple[Any, int]:
    return _flux(diffusers.FluxPipeline)


def kontext() -> tuple[Any, int]:
    pipeline, _ = _flux(diffusers.FluxKontextPipeline)
    return pipeline, 64  # no reference is smaller


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
        scheduler=flow_matching(use_dynamic_shifting=True),
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
        text_encoder=transformers.Qwen3ForCausalLM(qwen3_config(27)),
        tokenizer=tokenizer(512),
        is_distilled=False,
    )
    return pipeline, 64  # the least side of a reference


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
        scheduler=flow_matching(shift=3.0),
        vae=vae(16, flow=True),
        text_encoder=transformers.Qwen3Model(qwen3_config(2)),
        tokenizer=tokenizer(512),
    )
    return pipeline, 32


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
        scheduler=flow_matching(shift=3.0),
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
        scheduler=discrete(),
        vae=vae(),
        text_encoder=t5(),
        tokenizer=tokenizer(300),
    )
    return pipeline, 32


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
        scheduler=flow_matching(shift=3.0),
        vae=vae(flow=True),
        text_encoder=gemma2(),
        tokenizer=tokenizer(256),
    )
    return pipeline, 32


def auraflow() -> tuple[Any, int]:
    config = transformers.UMT5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False
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
        scheduler=flow_matching(shift=1.73),
        vae=vae(),
        text_encoder=transformers.UMT5EncoderModel(config),
        tokenizer=tokenizer(256),
    )
    return pipeline, 32


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
        scheduler=flow_matching(use_dynamic_shifting=True),
        vae=vae(flow=True),
        text_encoder=t5(),
        tokenizer=tokenizer(512),
    )
    return pipeline, 32


ROWS: Rows = {
    "SD3": ("stable-diffusion-3", sd3),
    "FLUX.1": ("flux", flux),
    "FLUX.1 Kontext": ("flux-kontext", kontext),
    "FLUX.2 Klein": ("flux2", klein),
    "Qwen-Image": ("qwen-image", qwen.qwen),
    "Qwen-Image-Edit": ("qwen-image-edit", qwen.qwen_edit),
    "Qwen-Image-Edit-Plus": ("qwen-image-edit-plus", qwen.qwen_edit_plus),
    "Z-Image": ("z-image", z_image),
    "Sana": ("sana", sana),
    "PixArt-Sigma": ("pixart", pixart),
    "Lumina 2": ("lumina2", lumina2),
    "AuraFlow": ("auraflow", auraflow),
    "Chroma": ("chroma", chroma),
}
