"""What the front asks of a worker: a model to load, a drawing to draw.

Plain frozen data that crosses the pipe; no torch.
"""

from __future__ import annotations

import hashlib

import msgspec

from pipelines.spec import ImageSpec

UPSCALER = "upscaler"  # in the place of a family: the plan of an upscaler by itself


class AdapterFile(msgspec.Struct, frozen=True):
    """A LoRA that requests may name."""

    name: str
    path: str  # absolute, one safetensors file


class EmbeddingFile(msgspec.Struct, frozen=True):
    """A word that prompts may say, and the file with the vectors that it stands for (textual inversion)."""

    token: str
    path: str  # absolute, one safetensors file


class UpscalerFile(msgspec.Struct, frozen=True):
    """A super-resolution network (pipelines.facts.upscaler)."""

    name: str
    path: str  # absolute, one safetensors file
    revision: str = ""  # of the file: it changes with it


class ControlFile(msgspec.Struct, frozen=True):
    """A ControlNet that requests may name."""

    name: str
    path: str  # absolute, a folder of diffusers' ControlNetModel


class ModelPlan(msgspec.Struct, frozen=True):
    """One set of weights on one device. Several IDs of models.yaml may share a plan, and so the weights."""

    key: str  # the ID of the entry that names the weights
    folder: str  # absolute path; of a checkpoint's configurations, where there is one
    family: str  # a name of pipelines.facts.families, or "other"
    dtype: str = "auto"  # auto, float32, bfloat16 or float16
    keep: bool = False  # never evicted
    native_width: int = 64  # pixels, of the check at load
    native_height: int = 64
    quantise: str | None = None  # int8, nf4 (bitsandbytes) or float8 (torchao)
    quantise_encoders: str | None = None  # as quantise, of the text encoders
    encoders: str = "auto"  # device or host; auto: host where the model would not fit an empty device
    offload: bool = False  # weights in host memory, brought over layer by layer
    compile: bool = False  # the denoiser, by torch.compile
    fuse_qkv: bool = False  # one projection for query, key and value
    cuda_graphs: str = "auto"  # or off: may steps be launched as CUDA graphs?
    adapters: tuple[AdapterFile, ...] = ()
    checkpoint: str | None = None  # absolute path of one file with all weights
    is_transformer_alone: bool = False  # folder has configurations alone, and transformer leads the model's files
    prediction: str | None = None  # of a checkpoint: epsilon or v; None: as its file and its configurations say
    transformer: str | None = None  # absolute paths of files with a part's weights, in place of the folder's
    vae: str | None = None
    text_encoders: tuple[str, ...] = ()
    tokenizer: str | None = None  # absolute path of T5's words, or of the folder that has them
    embeddings: tuple[EmbeddingFile, ...] = ()  # by token
    controls: tuple[ControlFile, ...] = ()  # by name
    revision: str = ""  # of these files: it changes with them
    devices: tuple[str, ...] = ()  # the devices of the server that it may be on, by name or kind; empty: all
    upscalers: tuple[UpscalerFile, ...] = ()  # by name: networks that bring its pictures to their size

    @property
    def only_enlarges(self) -> bool:
        """Is it no model, but an upscaler by itself, or none, for pictures that come as they are?"""
        return self.family == UPSCALER

    @property
    def source(self) -> str:
        """The file or folder that models.yaml names for the weights."""
        return self.checkpoint or (self.transformer if self.is_transformer_alone else None) or self.folder

    @property
    def is_of_files(self) -> bool:
        """Do all weights come from single files, and configurations alone from the folder?"""
        return self.checkpoint is not None or self.is_transformer_alone

    @property
    def single_files(self) -> tuple[str, ...]:
        """The files of its weights and words that lie in no folder of a model."""
        named = (self.checkpoint, self.transformer, self.vae, *self.text_encoders, self.tokenizer)
        return tuple(each for each in named if each is not None)

    @property
    def mark(self) -> str:
        """A short text that tells this plan from any other with the same key."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()[:16]


class Drawing(msgspec.Struct, frozen=True):
    """One request's work: the same spec drawn once per seed, as one batch in one pipeline call."""

    job_id: str
    plan: ModelPlan
    spec: ImageSpec
    seeds: tuple[int, ...]
    principal: str = "local"  # whose key it is: the engine shares the device between principals
    previews: int = 0  # 0..3: how many times to show the picture on its way
