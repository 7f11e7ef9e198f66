"""A program as a generator: one site at a minibatch, as a pure function of parameters and noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch

from phlogiston.engine.learning.elbo_terms import PARAM
from phlogiston.engine.learning.minibatch_terms import Learned, learned_parameters
from phlogiston.engine.program.handlers import Message, is_data
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.plates import axis_of, rows_of
from phlogiston.engine.program.sites import Bound, Plate, Site, Structure, rebound, run
from phlogiston.engine.trace.graph import Graph, trace_single
from phlogiston.errors import ModelError, UnsupportedModel, problem

Values = dict[str, torch.Tensor]

_TRIED = 64  # rows drawn before any training


class Generator:
    """The values of a site at some rows of its plate, drawn anew.

    Args:
        bound: the program with its data.
        structure: what it consists of.
        site: the generated site; its rows are data.
        plate: of the rows.
        conditions: observed sites of the same plate, which keep their data.
        dtype: precision.

    Raises:
        UnsupportedModel: the draws carry no gradient to the parameters.
        ModelError: they are not finite.
    """

    def __init__(
        self,
        bound: Bound,
        structure: Structure,
        site: Site,
        plate: Plate,
        *,
        conditions: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.site, self.plate, self.conditions, self.dtype = site, plate, conditions, dtype
        others = {name: value for name, value in bound.observed.items() if name != site.name}
        kept = {name: value for name, value in structure.observations.items() if name != site.name}
        sites = tuple(replace(s, role="latent") if s.name == site.name else s for s in structure.sites)
        self._rows = rows_of(rebound(bound, others), replace(structure, observations=kept, sites=sites), plate, dtype)
        self.learned: dict[str, Learned] = learned_parameters(bound, dtype)
        axis = axis_of(site, plate)
        fits = 0 <= axis < len(site.shape) and site.shape[axis] == plate.size
        self.axis = axis if fits else 0  # pyro.deterministic takes every dimension for an event unless told
        self._refuse_useless_draws()

    def _refuse_useless_draws(self) -> None:
        with isolated(seed=0, dtype=self.dtype):
            leaves = {name: param.unconstrained.requires_grad_() for name, param in self.learned.items()}
            value = self._value(leaves, torch.arange(min(_TRIED, self.plate.size)))
        if bad := int((~torch.isfinite(value)).sum()):
            raise ModelError(
                problem(
                    f"site {self.site.name!r}",
                    found=f"{bad} of {value.numel()} numbers that are not finite, drawn before any training",
                    expected="an output that is finite for every latent",
                )
            )
        if not value.requires_grad:
            raise UnsupportedModel(
                problem(
                    f"site {self.site.name!r}",
                    found="values that no parameter moves",
                    expected="a reparameterised output of the program's parameters",
                    fix=f'pyro.deterministic("{self.site.name}", network(z))',
                )
            )

    def _value(self, params: Mapping[str, torch.Tensor], index: torch.Tensor) -> torch.Tensor:
        held = {name: param.constrained(params[name]) for name, param in self.learned.items()}
        trace = run(self._rows.at(index), parameters=held)
        message = cast(Message, trace.nodes[self.site.name])
        if is_data(message) and message["is_observed"]:
            raise UnsupportedModel(
                problem(
                    f"site {self.site.name!r}",
                    found="obs= inside the program",
                    expected="a site that the program draws",
                    fix=f"Model(...).observe({self.site.name}=data)",
                )
            )
        return cast(torch.Tensor, message["value"])

    def extreme(self, factor: float, rows: int) -> torch.Tensor:
        """Draws ``[rows, ...]`` with every parameter that far out, zeros too: where a squashed output ends."""
        with isolated(seed=0, dtype=self.dtype), torch.no_grad():
            free = {name: param.unconstrained for name, param in self.learned.items()}
            params = {name: factor * (value + torch.randn_like(value)) for name, value in free.items()}
            return self._value(params, torch.arange(rows)).movedim(self.axis, 0)

    def traced(self, rows: int) -> Graph:
        """The graph of so many rows: noise first, then ``param/<name>`` and ``index [rows]``; it gives ``x``.

        Raises:
            UntraceableProgram: the program branches on a value, or leaves torch.
        """
        example = {PARAM + name: param.unconstrained for name, param in self.learned.items()}
        example["index"] = torch.arange(rows)

        def values(inputs: Values) -> Values:
            params = {name: inputs[PARAM + name] for name in self.learned}
            return {"x": self._value(params, inputs["index"]).movedim(self.axis, 0)}

        with isolated(seed=0, dtype=self.dtype), torch.no_grad():
            return trace_single(values, example)
