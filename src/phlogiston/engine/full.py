"""The joint density of all latents, discrete ones included, term by term: what a sampler that moves some of them needs.

A point is a vector ``w``: the continuous latents on the unconstrained scale, then the discrete ones as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import biject_to

from phlogiston.engine import handlers
from phlogiston.engine.batched import Batched
from phlogiston.engine.graph import batch_by
from phlogiston.engine.interpret import Interpreter
from phlogiston.engine.isolate import isolated
from phlogiston.engine.sites import Site, run, score

Values = dict[str, torch.Tensor]
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
        return np.arange(self.start, self.stop).reshape(max(1, math.prod(self.site.batch_shape)), -1)


@dataclass(frozen=True)
class Term:
    """One number of the joint density: an element of a site's log probability, or of its Jacobian."""

    site: str
    is_jacobian: bool


def parts_of(interpreter: Interpreter) -> tuple[Part, ...]:
    """All latents in ``w``."""
    parts = [Part(slot.site, slot.start, slot.shape) for slot in interpreter.slots]
    for site in interpreter.structure.discrete:
        parts.append(Part(site, parts[-1].stop if parts else 0, site.shape))
    return tuple(parts)


@dataclass(frozen=True)
class FullReadings:
    """The readings of a program at a point ``w``."""

    interpreter: Interpreter

    def values(self, inputs: Values) -> Values:
        """``w [W]`` -> all latents and deterministics."""
        trace = self._trace(inputs["w"])
        return {
            site.name: torch.as_tensor(trace.nodes[site.name]["value"])
            for site in self.interpreter.structure.of("latent", "deterministic")
        }

    def terms(self, inputs: Values) -> Values:
        """``w [W]`` -> ``terms [F]``, whose sum is log p(values, observed) + log |d values / d u|."""
        return {"terms": torch.cat([term for _, term in self._terms(inputs["w"])])}

    def names(self, w: torch.Tensor) -> list[Term]:
        """What each of the terms is."""
        return [term for term, values in self._terms(w) for _ in range(values.numel())]

    def split(self, w: torch.Tensor) -> Values:
        """The latents' coordinates, in their shapes and types."""
        found = {}
        for part in parts_of(self.interpreter):
            piece = w[part.start : part.stop].reshape(part.shape)
            whole = part.site.discrete and part.site.dtype is not None and not part.site.dtype.is_floating_point
            found[part.site.name] = piece.to(part.site.dtype) if whole else piece
        return found

    def _trace(self, w: torch.Tensor) -> Any:
        split, structure = self.split(w), self.interpreter.structure
        unconstrained = handlers.Unconstrained({site.name: split[site.name] for site in structure.continuous})
        discrete = handlers.Substitute({site.name: split[site.name] for site in structure.discrete})
        return run(self.interpreter.bound, unconstrained, discrete, parameters=structure.parameters)

    def _terms(self, w: torch.Tensor) -> list[tuple[Term, torch.Tensor]]:
        trace, split = score(self._trace(w)), self.split(w)
        found = []
        for site in self.interpreter.structure.of("latent", "observed", "factor"):
            msg = cast(dict[str, Any], trace.nodes[site.name])
            log_prob = msg["log_prob"]
            if site.role == "latent" and site.discrete and not site.enumerable:  # densities may go on beyond supports
                log_prob = torch.where(msg["fn"].support.check(msg["value"]), log_prob, -torch.inf)
            found.append((Term(site.name, False), log_prob.reshape(-1)))
            if site.role == "latent" and not site.discrete:
                bijection = biject_to(msg["fn"].support)
                jacobian = bijection.log_abs_det_jacobian(split[site.name], msg["value"])
                found.append((Term(site.name, True), jacobian.reshape(-1)))
        return found


@dataclass
class FullDensity:
    """``terms(w [R, W]) -> [R, F]`` for any number of rows, on one tier.

    Args:
        batched: the reading ``terms``.
        batched_values: the reading ``values``.
        parts: where the latents live.
        names: what the terms are.
        states: enumerable discrete site -> its states ``[S, numbers of one event]``.
        rows: of the usual call.
        calls: how often it will be called, roughly.
    """

    batched: Batched
    batched_values: Batched
    parts: tuple[Part, ...]
    names: list[Term]
    states: dict[str, Array]
    rows: int
    calls: int
    dtype: torch.dtype
    _modules: dict[int, Callable[..., Any]] = field(default_factory=dict)
    _tier: str = ""

    def __post_init__(self) -> None:
        if self.batched.graph is not None:
            self._module(self._padded(self.rows))
        else:
            self._tier = "loop"

    @property
    def width(self) -> int:
        """Numbers in ``w``."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""
        return f"{self._tier} ({self.batched.reason})" if self.batched.reason else self._tier

    def terms(self, w: Array) -> Array:
        """Each row's terms."""
        size = self._padded(min(w.shape[0], max(1, _LARGEST_CALL // max(1, len(self.names)))))
        parts = [self._call(w[start : start + size], size) for start in range(0, w.shape[0], size)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def values(self, w: torch.Tensor) -> Values:
        """``w [..., W]`` -> latents and deterministics ``[..., *site shape]``."""
        flat = w.reshape(-1, w.shape[-1]).to(self.dtype)
        found = self.batched_values({"w": flat}, flat.shape[0])
        return {name: value.reshape(*w.shape[:-1], *value.shape[1:]) for name, value in found.items()}

    def _call(self, w: Array, size: int) -> Array:
        rows = w.shape[0]
        if self.batched.graph is None:
            return self.batched({"w": torch.from_numpy(w).to(self.dtype)}, rows)["terms"].numpy()
        columns = np.empty((self.width, size), w.dtype)
        columns[:, :rows] = w.T
        columns[:, rows:] = w[:1].T
        found: torch.Tensor = self._module(size)(torch.from_numpy(columns).to(self.dtype))[0]
        return found.numpy().T[:rows]

    @staticmethod
    def _padded(rows: int) -> int:
        return 1 << max(0, (rows - 1).bit_length())

    def _module(self, size: int) -> Callable[..., Any]:
        if size not in self._modules:
            graph = self.batched.graph
            assert graph is not None
            example = torch.zeros(self.width, size, dtype=self.dtype)
            with isolated(seed=0, dtype=self.dtype), torch.no_grad():
                module = batch_by(torch.func.vmap(graph.module, in_dims=-1, out_dims=-1), [example])
                # The first size decides for all: one tier a run, so that a run can go on bit for bit.
                calls = self.calls if not self._tier else 10**9 if self._tier == "compiled" else 0
                tier, call = self.batched.compiled_or(module, [example], size, calls)
            self._tier = self._tier or tier
            self._modules[size] = call
        return self._modules[size]


def states_of(interpreter: Interpreter) -> dict[str, Array]:
    """Every enumerable discrete latent's states ``[S, numbers of one event]``."""
    trace = run(interpreter.bound, parameters=interpreter.structure.parameters)
    found = {}
    for site in interpreter.structure.discrete:
        if site.enumerable:
            values = trace.nodes[site.name]["fn"].enumerate_support(expand=False)
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
            discrete = [trace.nodes[site.name]["value"].reshape(-1).to(u) for site in interpreter.structure.discrete]
            points.append(torch.cat([u, *discrete]))
    return points[0], points[1]


def full_density(interpreter: Interpreter, tier: Any, dtype: torch.dtype, rows: int, calls: int) -> FullDensity:
    """The density of all latents of a program, for about so many calls of so many rows."""
    readings = FullReadings(interpreter)
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        first, second = example_points(interpreter)
        names, states = readings.names(first), states_of(interpreter)
    terms = Batched(readings.terms, {"w": first}, tier=tier, dtype=dtype, second={"w": second})
    values = Batched(readings.values, {"w": first}, tier=tier, dtype=dtype, second={"w": second})
    return FullDensity(terms, values, parts_of(interpreter), names, states, rows, calls, dtype)
