"""The joint density of all latents, discrete ones included, term by term: what a sampler that moves some of them needs.

A point is a vector ``w``: the continuous latents on the unconstrained scale, then the discrete ones as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.program import handlers
from phlogiston.engine.program.interpreter import Interpreter
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.reading import Reading, Values, read
from phlogiston.engine.program.sites import Site, run
from phlogiston.engine.trace.batched import Batched, Verification
from phlogiston.engine.trace.cache import given
from phlogiston.engine.trace.graph import Function

Array = NDArray[Any]
_LARGEST_CALL = 2**22  # numbers in the terms of one call


@dataclass(frozen=True)
class Part:
    """Where a latent lives in ``w``: ``coordinates [batch elements, numbers of one event]``."""

    site: Site
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """One past its last position."""
        return self.start + math.prod(self.shape)

    @property
    def coordinates(self) -> Array:
        """A row for each element of the site's batch."""
        elements = self.site.batch_shape if self.site.missing is None else self.shape
        return np.arange(self.start, self.stop).reshape(max(1, math.prod(elements)), -1)


@dataclass(frozen=True)
class Term:
    """One number of the joint density: an element of a site's log probability, or of its Jacobian."""

    site: str
    is_jacobian: bool


def parts_of(interpreter: Interpreter) -> tuple[Part, ...]:
    """All latents in ``w``."""
    parts = [Part(slot.site, slot.start, slot.shape) for slot in interpreter.slots]
    for site in interpreter.structure.discrete:
        shape = site.shape if site.missing is None else (site.missing.count,)
        parts.append(Part(site, parts[-1].stop if parts else 0, shape))
    return tuple(parts)


def _typed(site: Site, value: torch.Tensor) -> torch.Tensor:
    whole = site.discrete and site.dtype is not None and not site.dtype.is_floating_point
    return value.to(site.dtype) if whole else value


def entries(site: Site, value: torch.Tensor) -> torch.Tensor:
    """A value, or the entries of it that are latent where the site is observed in part."""
    return value if site.missing is None else site.missing.picked(value)


def unflattened(sites: Sequence[Site], x: torch.Tensor) -> Values:
    """``x [..., X]`` -> each site's values ``[..., *site shape]``, of its type."""
    found, start = {}, 0
    for site in sites:
        stop = start + math.prod(site.shape)
        found[site.name] = _typed(site, x[..., start:stop].reshape((*x.shape[:-1], *site.shape)))
        start = stop
    return found


def flattened(sites: Sequence[Site], values: Values, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of ``unflattened``, for values with one leading dimension: ``[n, X]``."""
    return torch.cat([values[site.name].reshape(len(values[site.name]), -1).to(dtype) for site in sites], 1)


@dataclass(frozen=True)
class FullReadings:
    """The readings of a program at a point ``w``."""

    interpreter: Interpreter

    def values(self, inputs: Values) -> Values:
        """``w [W]`` -> all latents and deterministics."""
        names = (site.name for site in self.interpreter.structure.of("latent", "deterministic"))
        return self._read(inputs["w"]).values(*names)

    def terms(self, inputs: Values) -> Values:
        """``w [W]`` -> ``terms [F]``, whose sum is log p(values, observed) + log |d values / d u|."""
        return {"terms": torch.cat([term for _, term in self._terms(inputs["w"])])}

    def names(self, w: torch.Tensor) -> list[Term]:
        """What each of the terms is."""
        return [term for term, values in self._terms(w) for _ in range(values.numel())]

    def joint(self, inputs: Values) -> Values:
        """``x [X]``, all latents' values -> ``value []``, log p(values, observed); -inf outside of a support."""
        latents = self.interpreter.structure.of("latent")
        values = unflattened(latents, inputs["x"])
        reading = read(self.interpreter.bound, self.interpreter.structure, handlers.Substitute(values))
        inside = torch.ones((), dtype=torch.bool)
        for site in latents:
            msg = reading.message(site.name)
            inside = inside & msg["fn"].support.check(msg["value"]).all()
        return {"value": torch.where(inside, reading.joint, -torch.inf)}

    def split(self, w: torch.Tensor) -> Values:
        """The latents' coordinates, in their shapes and types."""
        found = {}
        for part in parts_of(self.interpreter):
            value = _typed(part.site, w[part.start : part.stop].reshape(part.shape))
            missing = part.site.missing if part.site.discrete else None
            found[part.site.name] = value if missing is None else missing.spread(value)
        return found

    def _read(self, w: torch.Tensor) -> Reading:
        split, structure = self.split(w), self.interpreter.structure
        unconstrained = handlers.Unconstrained({site.name: split[site.name] for site in structure.continuous})
        discrete = handlers.Substitute({site.name: split[site.name] for site in structure.discrete})
        return read(self.interpreter.bound, structure, unconstrained, discrete)

    def _terms(self, w: torch.Tensor) -> list[tuple[Term, torch.Tensor]]:
        reading, structure = self._read(w), self.interpreter.structure
        terms = []
        for name, log_prob in reading.terms.items():
            if (site := structure[name]) in structure.discrete and not site.enumerable:
                msg = reading.message(name)  # densities may go on beyond supports
                log_prob = torch.where(msg["fn"].support.check(msg["value"]), log_prob, -torch.inf)
            terms.append((Term(name, False), log_prob.reshape(-1)))
            if name in reading.log_jacobian:
                terms.append((Term(name, True), reading.log_jacobian[name].reshape(-1)))
        return terms


class Columns:
    """A reading without random numbers for any number of points, kept for each size of call, on one tier.

    Args:
        batched: a reading of one vector that gives one tensor.
        name: of the vector.
        width: its length.
        dtype: its precision.
        rows: of the usual call.
        calls: how often it will be called, roughly.
    """

    def __init__(self, batched: Batched, name: str, width: int, dtype: torch.dtype, rows: int, calls: int) -> None:
        self._batched, self._name, self._width, self._dtype, self._calls = batched, name, width, dtype, calls
        self._modules: dict[int, Callable[..., Any]] = {}
        self._tier = ""
        if not batched.traced:
            self._tier = "loop"
        elif calls:
            self._module(_padded(rows))

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""
        return f"{self._tier} ({self._batched.reason})" if self._batched.reason else self._tier

    def __call__(self, points: Array) -> Array:
        """``points [R, W]`` -> ``[R, ...]``."""
        rows = points.shape[0]
        if not self._batched.traced:
            found = self._batched({self._name: torch.from_numpy(points).to(self._dtype)}, rows)
            return next(iter(found.values())).numpy()
        size = _padded(rows)
        columns = np.empty((self._width, size))
        columns[:, :rows] = points.T
        columns[:, rows:] = points[:1].T
        (result,) = self._module(size)(torch.from_numpy(columns).to(self._dtype))
        return np.ascontiguousarray(result.movedim(-1, 0)[:rows].numpy())

    def _module(self, size: int) -> Callable[..., Any]:
        if size not in self._modules:
            example = [torch.zeros(self._width, size, dtype=self._dtype)]
            with isolated(seed=0, dtype=self._dtype), torch.no_grad():
                # The first size decides for all: one tier a run, so that a run can go on bit for bit.
                calls = self._calls if not self._tier else 10**9 if self._tier == "compiled" else 0
                key = ("columns", self._name, size)
                tier, call = self._batched.prepared(key, (-1,), lambda mapped: mapped, example, size, calls)
            self._tier = self._tier or tier
            self._modules[size] = call
        return self._modules[size]


def _padded(rows: int) -> int:
    return 1 << max(0, (rows - 1).bit_length())


@dataclass(frozen=True)
class FullDensity:
    """The joint density of all latents, term by term.

    Args:
        columns: the reading ``terms``.
        batched_values: the reading ``values``.
        parts: where the latents live.
        names: what the terms are.
        states: enumerable discrete site -> its states ``[S, numbers of one event]``.
        dtype: of the latents.
    """

    columns: Columns
    batched_values: Batched
    parts: tuple[Part, ...]
    names: list[Term]
    states: dict[str, Array]
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Numbers in ``w``."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""
        return self.columns.engine

    def terms(self, w: Array) -> Array:
        """``w [R, W]`` -> ``[R, F]``."""
        size = max(1, _LARGEST_CALL // max(1, len(self.names)))
        if w.shape[0] <= size:
            return self.columns(w)
        return np.concatenate([self.columns(w[start : start + size]) for start in range(0, w.shape[0], size)])

    def values(self, w: torch.Tensor) -> Values:
        """``w [..., W]`` -> latents and deterministics ``[..., *site shape]``."""
        flat = w.reshape(-1, w.shape[-1]).to(self.dtype)
        found = self.batched_values({"w": flat}, flat.shape[0])
        return {name: value.reshape(*w.shape[:-1], *value.shape[1:]) for name, value in found.items()}


def states_of(interpreter: Interpreter) -> dict[str, Array]:
    """Every enumerable discrete latent's states ``[S, numbers of one event]``."""
    trace = run(interpreter.bound, parameters=interpreter.structure.parameters)
    found = {}
    for site in interpreter.structure.discrete:
        if site.enumerable:
            fn: Any = trace.nodes[site.name]["fn"]
            values = fn.enumerate_support(expand=False)
            found[site.name] = values.reshape(values.shape[0], -1).double().numpy()
    return found


def example_points(interpreter: Interpreter) -> tuple[torch.Tensor, torch.Tensor]:
    """Two points ``w`` at which the discrete latents have possible values."""
    points = []
    for seed, (low, high) in enumerate([(0.0, 0.0), (-0.7, 0.9)]):
        with isolated(seed=seed, dtype=torch.get_default_dtype()):
            u = torch.linspace(low, high, interpreter.dim)
            split = {slot.site.name: u[slot.start : slot.stop].reshape(slot.shape) for slot in interpreter.slots}
            trace = run(interpreter.bound, handlers.Unconstrained(split), parameters=interpreter.structure.parameters)
            discrete = [
                entries(site, torch.as_tensor(trace.nodes[site.name]["value"])).reshape(-1).to(u)
                for site in interpreter.structure.discrete
            ]
            points.append(torch.cat([u, *discrete]))
    return points[0], points[1]


def _reading(interpreter: Interpreter, name: str) -> Function:
    """One of the readings, of data too if these are among its inputs."""

    def function(values: Values) -> Values:
        before, others = given(interpreter, values)
        result: Values = getattr(FullReadings(before), name)(others)
        return result

    return function


def full_density(
    interpreter: Interpreter, made: Callable[..., Batched], dtype: torch.dtype, rows: int, calls: int
) -> FullDensity:
    """The density of all latents of a program, for about so many calls of so many rows; ``made`` batches readings."""
    readings = FullReadings(interpreter)
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        first, second = example_points(interpreter)
        names, states = readings.names(first), states_of(interpreter)
    terms = made("full_terms", _reading(interpreter, "terms"), {"w": first}, Verification({"w": second}))
    values = made("full_values", _reading(interpreter, "values"), {"w": first}, Verification({"w": second}))
    parts = parts_of(interpreter)
    columns = Columns(terms, "w", len(first), dtype, rows, calls)
    return FullDensity(columns, values, parts, names, states, dtype)


def constrained_density(
    interpreter: Interpreter, made: Callable[..., Batched], dtype: torch.dtype, rows: int, calls: int
) -> Columns:
    """The log joint density as a function of all latents' values, ``x [X]`` one after another as in the program."""
    readings = FullReadings(interpreter)
    examples = []
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        for w in example_points(interpreter):
            values = readings.values({"w": w})
            latents = interpreter.structure.of("latent")
            examples.append(torch.cat([values[site.name].reshape(-1).to(dtype) for site in latents]))
    first, second = examples
    batched = made("full_joint", _reading(interpreter, "joint"), {"x": first}, Verification({"x": second}))
    return Columns(batched, "x", len(first), dtype, rows, calls)
