"""What of a step comes from the prompt alone, and is computed once a run: cross-attention's keys and values, embedders.

Knows a module's tensors and which of them a run gives it again at every step; knows neither families nor runs. Nothing
names a layer: in one watched forward, a layer whose only input is such a tensor, or comes from one, is found by the
tensor's identity. From then on what it makes is kept for each run, and put together for the company of a step. It is
kept with the very tensor that it was made of and how often that was written to: nothing is shared that merely looks
alike. A run on its own gets the same bytes as without; what was made in other company differs by the rounding that all
of a shared step has.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from pipelines.engine.collate import version

MAX_BYTES = 512 * 1024 * 1024  # of one module, for all runs: SDXL's keys and values take 24 MB a row
_MAX_SOURCES = 4  # of one run: where guidance makes two calls a step, each has its own prompt
_LOOK_CALLS = 6  # of a run, until what it gives again is known
_PLAIN = (bool, int, float, str, type(None))
_Name = str  # of an argument of the module
_Place = tuple[torch.nn.Module, int]  # a layer, and which of its calls in one forward


class _Output(NamedTuple):
    tensor: torch.Tensor
    written: float

    @property
    def intact(self) -> bool:
        return self.written == version(self.tensor)


class _Source:
    """A tensor that a run gives the module, and what layers made of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.written = version(tensor)
        self.nbytes = 0  # of all outputs; asked for at every one that is kept
        self._outputs: dict[_Place, _Output] = {}

    def output(self, place: _Place) -> torch.Tensor | None:
        """What the layer made of it, unless somebody has written to that."""
        found = self._outputs.get(place)
        return found.tensor if found is not None and found.intact else None

    def keep(self, place: _Place, output: torch.Tensor) -> None:
        before = self._outputs.get(place)
        self.nbytes += output.nbytes - (0 if before is None else before.tensor.nbytes)
        self._outputs[place] = _Output(output, version(output))


class Kept:
    """One run's: what is kept for it, of one module."""

    def __init__(self) -> None:
        self._sources: dict[int, _Source] = {}  # by the tensor's identity, the oldest first
        self._given: list[dict[_Name, torch.Tensor]] = []  # by its first calls
        self.looked_at = False  # is it known what it gives again?

    def source(self, tensor: torch.Tensor) -> _Source:
        """What came of this tensor, as it is now."""
        found = self._sources.get(id(tensor))
        if found is None or found.written != version(tensor):
            self._sources.pop(id(tensor), None)
            found = self._sources[id(tensor)] = _Source(tensor)
            if len(self._sources) > _MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
        return found

    def gives_again(self, given: dict[_Name, torch.Tensor]) -> set[_Name]:
        """The names of arguments that were given before."""
        again = {name for name, tensor in given.items() if any(old.get(name) is tensor for old in self._given)}
        self._given.append(given)
        if len(self._given) == _LOOK_CALLS:
            self.stop_looking()
        return again

    def stop_looking(self) -> None:
        self.looked_at, self._given = True, []

    def nbytes(self) -> int:
        return sum(source.nbytes for source in self._sources.values())

    def forget(self) -> None:
        self._sources.clear()
        self._given = []


class Part(NamedTuple):
    """A run's share of one call of the module."""

    kept: Kept
    arguments: Mapping[str, Any]
    rows: int


class _Company(NamedTuple):
    """The runs of a step, as one argument tells them apart."""

    sources: list[_Source]
    rows: list[int]

    def same(self, other: _Company) -> bool:
        return self.rows == other.rows and all(map(lambda a, b: a is b, self.sources, other.sources))


class _Step:
    """One forward: which tensors come from prompts, and from which argument."""

    def __init__(self, parts: Sequence[Part], companies: Mapping[_Name, _Company]) -> None:
        self.rows = sum(part.rows for part in parts)
        self.companies = companies
        self.calls: Counter[torch.nn.Module] = Counter()
        self.found: list[torch.nn.Module] = []
        self.inside = False  # a layer that was found: those in it are no longer called
        self._marked: list[torch.Tensor] = []  # so that their memory stays theirs
        self._names: dict[Hashable, _Name] = {}

    def mark(self, tensor: torch.Tensor, name: _Name) -> None:
        """It comes from this argument alone, as it is now."""
        self._marked.append(tensor)
        self._names[_memory(tensor)] = name

    def origin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Name | None:
        """The argument that all tensors of a layer's call come from; None where there is no such one."""
        names = set()
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                name = self._names.get(_memory(value))
                if name is None:
                    return None
                names.add(name)
            elif type(value) not in _PLAIN:
                return None
        return names.pop() if len(names) == 1 else None


class PromptWork:
    """What one module makes of prompts. Only the thread that calls the module may use it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._names: set[_Name] = set()  # of arguments that runs give again
        self._known: set[frozenset[_Name]] = set()  # sets of arguments whose runs were looked at
        self._watched: set[_Name] = set()
        self._layers: dict[torch.nn.Module, Callable[..., Any]] = {}  # with their own forward
        self._companies: dict[_Name, _Company] = {}  # of the last step
        self._joined: dict[_Place, tuple[_Company, _Output]] = {}
        self._kept: weakref.WeakSet[Kept] = weakref.WeakSet()
        self._step: _Step | None = None
        self._counts: Counter[str] = Counter()
        self._possible: bool | None = None
        self.is_given_up = False

    @contextlib.contextmanager
    def of(self, parts: Sequence[Part], arguments: Mapping[str, Any], counts: Counter[str]) -> Iterator[None]:
        """The block calls the module once, with these ``arguments``, which are the parts' put together.

        ``counts`` gains how many layers' outputs were kept already."""
        if not self._can():
            yield
            return
        self._look(parts)
        names = [name for name in self._names if _is_tensor(arguments.get(name))]
        if not names or any(not _is_tensor(part.arguments.get(name)) for part in parts for name in names):
            yield
            return
        step = _Step(parts, {name: self._company(name, parts) for name in names})
        for name in names:
            step.mark(arguments[name], name)
        self._kept.update(part.kept for part in parts)
        self._counts = counts
        new = self._names - self._watched
        watch = self._watch(step) if new else contextlib.nullcontext()
        self._step = step
        try:
            with watch:
                yield
        finally:
            self._step = None
        self._watched |= new

    @property
    def layers(self) -> int:
        """How many layers' outputs are kept."""
        return len(self._layers)

    def rest(self) -> None:
        """Nobody draws: let go of what was put together."""
        self._joined.clear()
        self._companies.clear()

    def give_up(self) -> None:
        """Let go of all that is kept, and keep nothing from now on: the device has no room."""
        self.is_given_up = True
        self.rest()
        for kept in list(self._kept):
            kept.forget()

    # What runs give again.

    def _can(self) -> bool:
        """Are there layers to pass by? Not in a module that is compiled, or that hooks bring to the device layer by
        layer: they count on each layer's being called. Nor where it was given up."""
        if self.is_given_up:
            return False
        if self._possible is None:
            modules = list(self._module.modules())
            hooked = any(getattr(module, name, None) for module in modules for name in ("_diffusers_hook", "_hf_hook"))
            self._possible = not hooked and all(module._compiled_call_impl is None for module in modules)
        return self._possible

    def _look(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.kept.looked_at:
                continue
            given = {name: value for name, value in part.arguments.items() if _is_tensor(value)}
            form = frozenset(given)
            if form in self._known:
                part.kept.stop_looking()
                continue
            self._names |= part.kept.gives_again(given)
            if part.kept.looked_at:
                self._known.add(form)

    def _company(self, name: _Name, parts: Sequence[Part]) -> _Company:
        company = _Company([part.kept.source(part.arguments[name]) for part in parts], [part.rows for part in parts])
        last = self._companies.get(name)
        if last is not None and len(last.sources) == len(parts) and last.same(company):
            return last
        self._companies[name] = company
        return company

    # Which layers make something of it.

    @contextlib.contextmanager
    def _watch(self, step: _Step) -> Iterator[None]:
        """See which layers get nothing but prompts."""
        watched = [module for module in _candidates(self._module) if module not in self._layers]
        before = {module: module.__dict__.get("forward") for module in watched}
        for module in watched:
            module.forward = functools.partial(self._seen, step, module, module.forward)
        try:
            yield
        finally:
            for module, own in before.items():
                if own is None:
                    del module.__dict__["forward"]
                else:
                    module.forward = own
        for module in step.found:
            self._layers[module] = module.forward
            module.forward = functools.partial(self._keep, module, module.forward)

    def _seen(
        self, step: _Step, module: torch.nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        name = None if step.inside else step.origin(args, kwargs)
        if name is None:
            return forward(*args, **kwargs)
        step.inside = True
        try:
            output = forward(*args, **kwargs)
        finally:
            step.inside = False
        if _has_rows(output, step.rows) and all(output is not value for value in args):
            step.mark(output, name)
            if module not in step.found:
                step.found.append(module)
        return output

    # What they made.

    def _keep(self, module: torch.nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        step = self._step
        name = None if step is None or step.inside else step.origin(args, kwargs)
        if step is None or name is None:
            return forward(*args, **kwargs)
        place = module, step.calls[module]
        step.calls[module] += 1
        company = step.companies[name]
        output = self._known_output(place, company)
        if output is None:
            step.inside = True
            try:
                output = forward(*args, **kwargs)
            finally:
                step.inside = False
            if not _has_rows(output, step.rows):
                return output
            self._store(place, company, output)
        else:
            self._counts["prompt_layers_kept"] += 1
        step.mark(output, name)
        return output

    def _known_output(self, place: _Place, company: _Company) -> torch.Tensor | None:
        """What the layer made of the company's prompts, if that is known of all."""
        joined = self._joined.get(place)
        if joined is not None and joined[0] is company and joined[1].intact:
            return joined[1].tensor
        tensors = [output for source in company.sources if (output := source.output(place)) is not None]
        if len(tensors) < len(company.sources):
            return None
        if len(tensors) == 1:
            return tensors[0]
        whole = torch.cat(tensors)
        self._joined[place] = company, _Output(whole, version(whole))
        return whole

    def _store(self, place: _Place, company: _Company, output: torch.Tensor) -> None:
        alone = len(company.sources) == 1
        if not alone:
            self._joined[place] = company, _Output(output, version(output))
        if sum(kept.nbytes() for kept in self._kept) + output.nbytes > MAX_BYTES:
            return
        pieces = [output] if alone else torch.split(output, company.rows)
        for source, piece in zip(company.sources, pieces, strict=True):
            if source.output(place) is None:
                source.keep(place, piece if alone else piece.clone())  # a part of the whole would hold all of it


def _candidates(root: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """All layers below, but those that adapters change, and what these are made of: peft's layers have a ``base_layer``
    of their own, and write to what it makes."""
    adapted = {inner for module in root.modules() if hasattr(module, "base_layer") for inner in module.modules()}
    for module in root.modules():
        if module is not root and not any(inner in adapted for inner in module.modules()):
            yield module


def _memory(tensor: torch.Tensor) -> Hashable:
    """What part of which memory a tensor shows, and how often that was written to: another shape of the same numbers
    shows the same."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel(), tensor.dtype, version(tensor)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 1


def _has_rows(output: Any, rows: int) -> bool:
    return isinstance(output, torch.Tensor) and output.dim() > 0 and output.shape[0] == rows
