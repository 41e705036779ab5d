"""The assignment of a job of these routes: sources and masks in A1111's manner, infotexts, and a second pass.

Knows what differs from every other job (``server.api.generation``), and leaves the rest to that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from pipelines.facts import spacing
from pipelines.plan import Drawing
from pipelines.spec import Encoding, ImageSpec, Picture, Pixels
from server.api.generation import Generation
from server.api.sdapi import infotext, painting
from server.api.sdapi.translation import A1111Submission, Hires
from server.api.sources import Size, shrink
from server.api.specs import Sources
from server.api.upscaling import enlarging
from server.catalog.upscalers import Upscaler
from server.inputs.decode import Decoded, ImageLimits, decode_image
from server.inputs.decoders import Decoding
from server.jobs.further import Further
from server.jobs.job import Job
from server.worker.protocol import Finished

_PREVIEWS = 3  # of each pass: an interrupted one is answered with the last


@dataclass(frozen=True)
class A1111Generation(Generation):
    """One job."""

    submission: A1111Submission

    @property
    def encoding(self) -> Encoding:
        if self.submission.asked.hires is not None:
            # Nobody sees it but as a preview, or where it is interrupted.
            return Encoding(metadata=False, provenance=self.services.settings.provenance)
        return self._encoding_of(self.seeds)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.submission.asked.seeds

    @property
    def previews(self) -> int:
        return _PREVIEWS

    async def arrange(self, principal: str, images: Sequence[bytes], mask: bytes | None) -> tuple[Size, Sources]:
        manner = self.submission.asked.manner
        if manner is None:
            return await super().arrange(principal, (), None)
        decoding = self.services.decoders.decoding(principal)
        source = await self._decoded(decoding, images[0], "image")
        painted = None if mask is None else await self._decoded(decoding, mask, "mask")
        size, sources = await decoding.run(lambda: painting.arrange(source, painted, manner), param="image")
        others = []
        for data in images[1:]:
            other = await self._decoded(decoding, data, "image")
            others.append(await decoding.run(functools.partial(shrink, other.rgb, size), param="image"))
        return size, replace(sources, images=(*sources.images, *others))

    def make_spec(self, size: Size, sources: Sources) -> ImageSpec:
        spec = super().make_spec(size, sources)
        sigmas = self.submission.asked.sampling.sigmas
        if sigmas == "default":
            return spec
        return msgspec.structs.replace(spec, sigmas=sigmas, spacing="default", step_cache=0.0)

    async def follow(self, job: Job, drawing: Drawing, finished: Finished) -> tuple[Further, ...]:
        """A drawing for each picture, which begins with that, enlarged."""
        hires = self.submission.asked.hires
        if hires is None:
            return ()
        decoding = self.services.decoders.decoding(job.principal)
        network = self.services.catalog.upscalers.get(hires.network or "")
        further = []
        for picture in finished.pictures:
            job.previewed(0, picture)
            source = await _own(decoding, picture)
            if network is not None and network.problem is None:
                further.append(self._by_network(job, drawing, hires, picture, source.rgb, network))
                continue
            enlarged = await decoding.run(
                functools.partial(painting.scaled, source.rgb, hires.size, nearest=hires.nearest), param="hr_upscaler"
            )
            job.take(len(enlarged.data), owed=True)  # of what has been drawn, which is not to be lost
            second = msgspec.structs.replace(
                drawing,
                job_id=f"{job.key}-{picture.index}",
                spec=self._second_spec(drawing.spec, hires, enlarged),
                seeds=(picture.seed,),
            )
            # A picture of ours alone is in it, which is no composite of another's.
            further.append(Further(second, msgspec.structs.replace(self._encoding_of(second.seeds), of_ours=True)))
        return tuple(further)

    def _by_network(
        self, job: Job, drawing: Drawing, hires: Hires, picture: Picture, source: Pixels, network: Upscaler
    ) -> Further:
        """The same, enlarged by a network of models.yaml first."""
        job.take(hires.size[0] * hires.size[1] * 3, owed=True)
        decoding = self.services.decoders.decoding(job.principal)
        name = f"{job.key}-{picture.index}"
        larger = Drawing(
            f"{name}-larger", network.plan, enlarging(network.name, source, hires.size), (picture.seed,), job.principal
        )
        second = msgspec.structs.replace(drawing, job_id=name, seeds=(picture.seed,))

        async def begun(second: Drawing, made: Finished) -> Drawing:
            enlarged = await _own(decoding, made.pictures[0])
            spec = self._second_spec(drawing.spec, hires, enlarged.rgb)
            return msgspec.structs.replace(second, spec=spec)

        spec = self._second_spec(drawing.spec, hires, source)
        second = msgspec.structs.replace(second, spec=spec)
        encoding = msgspec.structs.replace(self._encoding_of(second.seeds), of_ours=True)
        return Further(second, encoding, larger, begun)

    def to_follow(self, drawing: Drawing) -> float:
        hires = self.submission.asked.hires
        if hires is None:
            return 0.0
        width, height = self.model.area.size_for(*hires.size)
        enlarged = 0 if hires.network is None else hires.size[0] * hires.size[1]
        steps = spacing.steps_drawn(hires.steps, hires.strength)
        return (width * height * steps + enlarged) / 1e6 * len(drawing.seeds)

    def _second_spec(self, first: ImageSpec, hires: Hires, source: Pixels) -> ImageSpec:
        draw_width, draw_height = self.model.area.size_for(*hires.size)
        sigmas = hires.sampling.sigmas
        return msgspec.structs.replace(
            first,
            width=hires.size[0],
            height=hires.size[1],
            draw_width=draw_width,
            draw_height=draw_height,
            steps=hires.steps,
            strength=hires.strength,
            scheduler=hires.sampling.scheduler or first.scheduler,
            sigmas=sigmas,
            spacing="default",
            step_cache=0.0,
            sources=(source,),
            prompt=first.prompt if hires.prompt is None else hires.prompt,
            negative_prompt=first.negative_prompt if hires.negative_prompt is None else hires.negative_prompt,
        )

    def _encoding_of(self, seeds: Sequence[int]) -> Encoding:
        texts = tuple(infotext.infotext(self.submission, seed) for seed in seeds)
        settings = self.services.settings
        return Encoding(metadata=settings.picture_metadata, texts=texts, provenance=settings.provenance)

    async def _decoded(self, decoding: Decoding, data: bytes, param: str) -> Decoded:
        """A picture of the client's."""
        limits = self.services.limits
        return await decoding.run(lambda: decode_image(data, limits=limits, param=param), param=param)


async def _own(decoding: Decoding, picture: Picture) -> Decoded:
    """A picture that was drawn here: the limits of what clients send are not for it."""
    limits = ImageLimits(len(picture.data), picture.width * picture.height)
    return await decoding.run(lambda: decode_image(picture.data, limits=limits, param="enable_hr"), param="enable_hr")
