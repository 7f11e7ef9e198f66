"""Readings of a program whose observations are inputs: one graph for any number of data sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message

from phlogiston.engine.densities.chains import ChainDensity, Scale, scaled, scaled_back
from phlogiston.engine.program.interpreter import LIKELIHOOD, Interpreter
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.reading import Values
from phlogiston.engine.program.sites import Bound, Structure, discover
from phlogiston.engine.trace.batched import Batched, Tier, Verification
from phlogiston.engine.trace.cache import given, keyed
from phlogiston.engine.trace.graph import batch_by


class Replicated:
    """The readings of one program, for draws that each have a data set of their own.

    Args:
        bound: the program; its observations serve as the example.
        sites: the observed sites whose values are given with each draw.
        engine: the tier to use.
        dtype: of latents and densities.
    """

    def __init__(
        self, bound: Bound, sites: tuple[str, ...], *, engine: Tier = "auto", dtype: torch.dtype = torch.float64
    ) -> None:
        self._bound, self._sites, self._engine, self.dtype = bound, sites, engine, dtype
        self.structure: Structure = discover(bound, dtype)
        self._example = {name: torch.as_tensor(self.structure.observations[name]) for name in sites}
        self._functions: dict[str, Batched] = {}
        self._calls: dict[tuple[Any, ...], tuple[str, Callable[..., Any]]] = {}

    @property
    def dim(self) -> int:
        """Length of the unconstrained vector."""
        return Interpreter(self._bound, self.structure).dim

    def values(self, u: torch.Tensor, data: Values, seed: np.random.SeedSequence) -> Values:
        """``u [R, D]`` and data ``[R, *site shape]`` -> every latent and deterministic; discrete latents drawn."""
        inputs = {"u": u, **self._keyed(data)}
        found = self._function("constrain", inputs)(inputs, u.shape[0])
        if not self.structure.discrete:
            return found
        latents = {site.name: found[site.name] for site in self.structure.continuous}
        inputs = {**latents, **self._keyed(data)}
        return self._function("discretes", inputs)(inputs, u.shape[0], seed)

    def log_likelihood(self, latents: Mapping[str, torch.Tensor], data: Values) -> torch.Tensor:
        """All latents and data by name, ``[R, *site shape]`` each -> log p(data | latents) ``[R]``."""
        named = {site.name: self._cast(latents[site.name]) for site in self.structure.of("latent")}
        inputs = {**named, **self._keyed(data)}
        rows = next(iter(inputs.values())).shape[0]
        scored = self._function("score", inputs)(inputs, rows)
        terms = [value.reshape(rows, -1).sum(1) for key, value in scored.items() if key.startswith(LIKELIHOOD)]
        return sum(terms, torch.zeros(rows, dtype=self.dtype))

    def chains(self, data: Values, unit: Scale, calls: int) -> Callable[[torch.Tensor, torch.Tensor], ChainDensity]:
        r"""A density for each of C chains, the data of chain c being row c.

        Returns:
            a function of centres and widths, ``[D, C]`` each, that gives the density of
            :math:`u_c = m_c + w_c \odot A x_c`, so that each data set can have a scale of its own.
        """
        chains = next(iter(data.values())).shape[0]
        batched = self._density()
        rows = {key: self._cast(value) for key, value in self._keyed(data).items()}
        graph = batched.graph
        if graph is None:
            return lambda centre, width: ChainDensity(_looped(batched, rows, centre, width), "loop")
        columns = torch.func.vmap(graph.module, in_dims=-1, out_dims=-1)
        last = [rows[name].movedim(0, -1).contiguous() for name in graph.inputs[1:]]
        count = len(last)

        def evaluate(
            x: torch.Tensor, centre: torch.Tensor, width: torch.Tensor, *rest: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            scale = rest[count:]
            value, grad = columns(centre + width * scaled(x, scale), *rest[:count])
            return value, scaled_back(width * grad, scale).contiguous()

        zero = torch.zeros(self.dim, chains, dtype=self.dtype)
        arguments = [zero, zero.clone(), zero + 1.0, *last, *unit]  # tracing takes one tensor twice for one input
        key = (chains, *(part.shape for part in unit))
        if key not in self._calls:
            with isolated(seed=0, dtype=self.dtype):
                self._calls[key] = batched.compiled_or(batch_by(evaluate, arguments), arguments, chains, calls)
        tier, call = self._calls[key]
        return lambda centre, width: ChainDensity(lambda x, *scale: call(x, centre, width, *last, *scale), tier)

    def _density(self) -> Batched:
        return self._function("density_and_grad", {"u": torch.zeros(1, self.dim, dtype=self.dtype), **self._keyed({})})

    def _keyed(self, data: Mapping[str, torch.Tensor]) -> Values:
        found = data or {name: value.unsqueeze(0) for name, value in self._example.items()}
        return keyed({name: found[name] for name in self._sites}, self.dtype)

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value

    def _read(self, name: str, values: Values) -> Values:
        interpreter, others = given(Interpreter(self._bound, self.structure), values)
        result: Values = getattr(interpreter, name)(others)
        return result

    def _function(self, name: str, inputs: Values) -> Batched:
        if name not in self._functions:
            bare = {key: value[0] for key, value in inputs.items()}
            second = None
            if name == "density_and_grad":
                second = {**bare, "u": torch.linspace(-0.7, 0.9, self.dim, dtype=self.dtype)}
            self._functions[name] = Batched(
                lambda values: self._read(name, values),
                bare,
                tier=self._engine,
                dtype=self.dtype,
                is_random=name == "discretes",
                verification=Verification(
                    second, reference=None if name == "density_and_grad" or not self.dim else self._density
                ),
            )
        return self._functions[name]


def _looped(batched: Batched, rows: Values, centre: torch.Tensor, width: torch.Tensor) -> Any:
    def evaluate(x: torch.Tensor, *scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = (centre + width * scaled(x, scale)).mT.contiguous()
        values = batched({"u": u, **rows}, u.shape[0])
        return values["value"], scaled_back(width * values["grad"].mT, scale).contiguous()

    return evaluate


AGAIN = "_again"


class _Again(Messenger):
    """Each observed site is drawn a second time from the same distribution, under its name with ``AGAIN``."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_post_sample(self, msg: Message[Any, Any]) -> None:
        if msg["name"] in self._names:
            pyro.sample(str(msg["name"]) + AGAIN, cast(Any, msg["fn"]))


def observed_twice(program: Callable[..., Any], names: frozenset[str]) -> Callable[..., Any]:
    """The program with a second, independent replicate of the sites named, given the same latents."""

    @functools.wraps(program)
    def twice(*args: Any, **kwargs: Any) -> Any:
        with _Again(names):
            return program(*args, **kwargs)

    return twice
