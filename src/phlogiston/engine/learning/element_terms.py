"""The joint density of a program one element of a plate at a time, for any pairing of elements with draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import constraints

from phlogiston.engine.program import enumeration, handlers
from phlogiston.engine.program.handlers import Missing
from phlogiston.engine.program.isolate import as_int, isolated
from phlogiston.engine.program.plates import axis_of, in_plate
from phlogiston.engine.program.sites import Bound, Plate, Structure, discover, of_latents, of_observed, run, score
from phlogiston.engine.trace import graph

Values = dict[str, torch.Tensor]
_ELEMENTS_AT_ONCE = 1024


class Rows(Messenger):
    """Run a program at some elements of a plate: ``plate`` yields their indices.

    Each element counts once, not N / B times as in a subsampled plate.
    """

    def __init__(self, plate: Plate, index: torch.Tensor) -> None:
        super().__init__()
        self._plate, self._index = plate, index

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if handlers.is_plate_index(msg):
            if msg["name"] == self._plate.name:
                msg["value"] = self._index
            return
        if any(frame.name == self._plate.name for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * (len(self._index) / self._plate.size)


@dataclass(frozen=True)
class AtRows:
    """A bound program with its data at some elements of a plate."""

    bound: Bound
    structure: Structure
    plate: Plate
    index: torch.Tensor

    @property
    def program(self) -> Any:
        """The program, run at these elements only."""
        whole = self.bound.program

        def at_rows(*args: Any, **kwargs: Any) -> Any:
            with Rows(self.plate, self.index):
                return whole(*args, **kwargs)

        return at_rows

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional inputs."""
        return self.bound.args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Its inputs by keyword."""
        return self.bound.kwargs

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Values of parameters that are held."""
        return self.bound.parameters

    @property
    def observed(self) -> Mapping[str, torch.Tensor]:
        """The data of these elements."""
        data = {site.name: self.structure.observations[site.name] for site in self.structure.observable}
        return {name: self._picked(name, value) for name, value in data.items()}

    @property
    def missing(self) -> Mapping[str, Missing]:
        """Which of the data are missing."""
        return {
            name: Missing(self._picked(name, entries.mask), self._picked(name, entries.values))
            for name, entries in self.bound.missing.items()
        }

    def _picked(self, name: str, value: torch.Tensor) -> torch.Tensor:
        site = self.structure[name]
        return value.index_select(axis_of(site, self.plate), self.index) if in_plate(site, self.plate.name) else value


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
        self._bound, self._whole, self._plate, self._dtype = bound, structure, plate, dtype
        first = torch.zeros(1, dtype=torch.long)
        self._one = discover(AtRows(bound, structure, plate, first), dtype)
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
                rows = AtRows(self._bound, self._whole, self._plate, torch.arange(min(size, count - start)))
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

    def _priors(self, inputs: Values) -> Values:
        rows = AtRows(self._bound, self._whole, self._plate, inputs["index"])
        held = handlers.Substitute({name: value for name, value in inputs.items() if name != "index"})
        nodes = run(rows, held, parameters=self._one.parameters).nodes
        found = {}
        for name in self.local:
            msg = cast(dict[str, Any], nodes[name])
            base = handlers.base(msg["fn"])
            if not base.event_shape and handlers.elementwise(msg["fn"].support) is constraints.real:
                found[name] = base.log_prob(msg["value"])
        return found

    def _terms(self, inputs: Values) -> Values:
        rows = AtRows(self._bound, self._whole, self._plate, inputs["index"])
        missing = rows.missing
        sites = tuple(replace(s, missing=missing[s.name]) if s.name in missing else s for s in self._one.sites)
        one = replace(self._one, sites=sites)
        held = handlers.Substitute({name: value for name, value in inputs.items() if name != "index"})
        if self._one.discrete:
            joint = enumeration.log_evidence(trace := enumeration.enumerated(rows, one, held))
            for site in one.sites:
                if site.role in ("latent", "observed", "factor") and not in_plate(site, self._plate.name):
                    joint = joint - torch.as_tensor(trace.nodes[site.name]["log_prob"]).sum()
            return {"log_joint": joint, "log_likelihood": torch.full((), torch.nan)}
        nodes = score(prune_subsample_sites(run(rows, held, parameters=one.parameters))).nodes
        prior, likelihood = torch.zeros(()), torch.zeros(())
        for site in one.sites:
            if site.role not in ("latent", "observed", "factor") or not in_plate(site, self._plate.name):
                continue
            log_prob = cast(dict[str, Any], nodes[site.name])["log_prob"]
            if site.role == "latent":
                prior = prior + of_latents(site, log_prob).sum()
                likelihood = likelihood + (of_observed(site, log_prob).sum() if site.missing is not None else 0.0)
            else:
                likelihood = likelihood + log_prob.sum()
        return {"log_joint": prior + likelihood, "log_likelihood": likelihood}
