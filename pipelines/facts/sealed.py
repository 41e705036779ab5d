"""What of a model has seals: its folder, each of its single files, adapters, embeddings, ControlNets and upscalers.

Knows plans and where a seal lies; what a seal is, ``seal`` knows. The seal of a single file lies beside it, under its
name: so it travels with the file, is one for all models that share the file, and is found at load by whoever reads the
file, which knows no data folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import LoadRefused
from pipelines.facts import controls, model_files, seal
from pipelines.facts import folder as model_folder
from pipelines.facts.checkpoint import ARCHITECTURES
from pipelines.facts.seal import Seal
from pipelines.plan import ModelPlan


@dataclass(frozen=True)
class Sealed:
    """What has a seal of its own, or may have one."""

    key: str  # of models.yaml: what it is
    folder: Path  # that has the seal
    plan: ModelPlan
    file: str | None = None  # the name of a single file in it; None: the folder itself

    @property
    def path(self) -> Path:
        """The file or the folder."""
        return self.folder if self.file is None else self.folder / self.file

    @property
    def manifest(self) -> Path:
        """The file of the seal."""
        return self.folder / (seal.NAME if self.file is None else seal.name_for(self.file))

    @property
    def is_spare(self) -> bool:
        """Is it no part of the weights, and may be without a seal beside them?"""
        return self.key in ("loras", "embeddings", controls.KEY, "upscaler")

    def names_to_seal(self) -> tuple[str, ...]:
        """The files of it that a new seal names, as paths in the folder: of a folder all that a model of it alone would
        read, as models that read the rest from elsewhere share the seal. Raises LoadRefused."""
        if self.file is not None:
            return (self.file,)
        if self.key == controls.KEY:
            return controls.names(self.folder)
        try:
            return model_folder.files_read(self.folder)
        except LoadRefused:
            pass  # of a component whose weights come from elsewhere, it may have none
        found = model_files.parts(self.plan)
        own = model_folder.names_of(found)
        try:
            sealed_before = model_folder.names_compared(self.folder, found) - {*own}
        except LoadRefused:  # the seal is damaged, and another is to take its place
            sealed_before = frozenset()
        return (*own, *(name for name in sorted(sealed_before) if (self.folder / name).is_file()))

    def names_compared(self) -> frozenset[str]:
        """The files of it that are compared with its seal, as loading does. Raises LoadRefused."""
        if self.file is not None:
            return frozenset((self.file,))
        if self.key == controls.KEY:
            return frozenset(controls.names(self.folder))
        return model_folder.names_compared(self.folder, model_files.parts(self.plan))

    def read(self) -> Seal | None:
        """Its seal; None where it has none. Raises LoadRefused for one that is damaged."""
        return seal.read(self.folder, self.manifest.name)

    def compare(self) -> None:
        """Compare it with its seal, as loading does. Raises LoadRefused."""
        seal.compare(self.folder, self.names_compared(), self.manifest.name)


def of(plan: ModelPlan) -> tuple[Sealed, ...]:
    """All of a plan that is sealed, or may be. Our own configurations are not."""
    found = []
    if Path(plan.folder).parent != ARCHITECTURES and Path(plan.folder) != ARCHITECTURES:
        found.append(Sealed("config" if plan.is_of_files else "path", Path(plan.folder), plan))
    named = [("checkpoint", plan.checkpoint), ("transformer", plan.transformer), ("vae", plan.vae)]
    named += [("text_encoders", each) for each in plan.text_encoders]
    named += [("tokenizer", plan.tokenizer), *(("loras", adapter.path) for adapter in plan.adapters)]
    named += [("embeddings", embedding.path) for embedding in plan.embeddings]
    named += [("upscaler", upscaler.path) for upscaler in plan.upscalers]
    for key, path in named:
        if path is None:
            continue
        file = Path(path)
        if key == "tokenizer" and file.is_dir():
            file = next((file / name for name in model_files.WORDS if (file / name).is_file()), file / "tokenizer.json")
        found.append(Sealed(key, file.parent, plan, file.name))
    found += [Sealed(controls.KEY, Path(control.path), plan) for control in plan.controls]
    return tuple(found)
