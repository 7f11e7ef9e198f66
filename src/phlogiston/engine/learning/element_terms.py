"""The joint density of a program one element of a plate at a time, for any pairing of elements with draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.distributions import constraints

from phlogiston.engine.program import handlers
from phlogiston.engine.program.isolate import as_int, isolated
from phlogiston.engine.program.plates import axis_of, in_plate, rows_of
from phlogiston.engine.program.reading import Reading, Values, read
from phlogiston.engine.program.sites import Bound, Plate, Structure, discover, run
from phlogiston.engine.trace import graph

_ELEMENTS_AT_ONCE = 1024


class ElementTerms:
    """log p(x_n, z_n | latents outside of the plate), discrete latents of the plate summed out.

    Args:
        bound: the program with its data.
        structure: what it consists of.
        plate: whose elements are scored.
        dtype: precision of the evaluation.

    Raises:
        UntraceableProgram: the program branches on a latent, or leaves torch.
    """

    def __init__(self, bound: Bound, structure: Structure, plate: Plate, dtype: torch.dtype = torch.float32) -> None:
        self._whole, self._plate, self._dtype = structure, plate, dtype
        self._rows = rows_of(bound, structure, plate, dtype)
        self._one = discover(self._rows.at(torch.zeros(1, dtype=torch.long)), dtype)
        own = [site for site in self._one.continuous if in_plate(site, plate.name)]
        self.local = tuple(site.name for site in own)
        self.rest = tuple(site.name for site in self._one.continuous if site.name not in self.local)
        self._traced: dict[str, graph.Graph] = {}

    def axis(self, name: str) -> int:
        """Along which a site's values run over the elements."""
        return axis_of(self._whole[name], self._plate)

    def __call__(self, index: torch.Tensor, values: Values) -> Values:
        """``index [P]`` and each latent's value, ``[P, *shape with one element in the plate]`` -> two terms, ``[P]``.

        Gradients pass through to the values.

        Returns:
            ``log_joint``; and ``log_likelihood``, that of the element's observations given all its latents, which is
            NaN where discrete ones were summed out.
        """
        return self._mapped("terms", self._terms, index, values)

    def coordinate_priors(self, index: torch.Tensor, values: Values) -> Values:
        """The log prior of each coordinate of a latent, ``[P, ...]``, for those whose prior falls into coordinates."""
        return self._mapped("priors", self._priors, index, values)

    def generate(self, count: int, seed: np.random.SeedSequence) -> Values:
        """Elements drawn afresh, latents and data alike: each site of the plate, ``[count, *shape of an element]``."""
        size = min(self._plate.size, _ELEMENTS_AT_ONCE, count)
        parts: list[Values] = []
        with isolated(as_int(seed), self._dtype), torch.no_grad():
            for start in range(0, count, size):
                rows = self._rows.at(torch.arange(min(size, count - start)))
                nodes = run(rows, handlers.Unobserve(), parameters=self._one.parameters).nodes
                parts.append(
                    {
                        site.name: torch.as_tensor(nodes[site.name]["value"]).movedim(self.axis(site.name), 0)
                        for site in self._whole.of("latent", "observed", "deterministic")
                        if in_plate(site, self._plate.name)
                    }
                )
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _mapped(self, which: str, reading: Callable[[Values], Values], index: torch.Tensor, values: Values) -> Values:
        names = (*self.local, *self.rest)
        given = {name: values[name].to(self._dtype) for name in names}
        if which not in self._traced:
            with isolated(seed=0, dtype=self._dtype), torch.no_grad():
                example = {"index": torch.zeros(1, dtype=torch.long), **{name: given[name][0] for name in names}}
                self._traced[which] = graph.trace_single(reading, example)
        traced, by_name = self._traced[which], {"index": index.unsqueeze(-1), **given}
        if not traced.outputs:
            return {}
        found = torch.func.vmap(traced.module)(*(by_name[name] for name in traced.inputs))
        return dict(zip(traced.outputs, found, strict=True))

    def _read(self, inputs: Values, *, sum_out: bool) -> Reading:
        index = inputs["index"]
        held = handlers.Substitute({name: value for name, value in inputs.items() if name != "index"})
        return read(self._rows.at(index), self._rows.structure_at(self._one, index), held, sum_out=sum_out)

    def _priors(self, inputs: Values) -> Values:
        reading = self._read(inputs, sum_out=False)
        priors = {}
        for name in self.local:
            msg = reading.message(name)
            base = handlers.base(msg["fn"])
            if not base.event_shape and handlers.elementwise(msg["fn"].support) is constraints.real:
                priors[name] = base.log_prob(msg["value"])
        return priors

    def _terms(self, inputs: Values) -> Values:
        reading = self._read(inputs, sum_out=True)
        if reading.summed:
            log_joint = reading.without(reading.outside(self._plate))
            return {"log_joint": log_joint, "log_likelihood": torch.full((), torch.nan)}
        prior, likelihood = (self._inside(part) for part in (reading.latent, reading.observed))
        return {"log_joint": prior + likelihood, "log_likelihood": likelihood}

    def _inside(self, terms: Values) -> torch.Tensor:
        own = [term.sum() for name, term in terms.items() if in_plate(self._whole[name], self._plate.name)]
        return sum(own, torch.zeros(()))
