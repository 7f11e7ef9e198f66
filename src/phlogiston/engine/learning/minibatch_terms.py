"""A program's terms at a minibatch, as a pure function of its parameters: what learning them climbs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import constraints, transform_to

from phlogiston.engine.learning.element_terms import AtRows
from phlogiston.engine.program import enumeration, handlers
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.plates import axis_of, in_plate
from phlogiston.engine.program.readings import Slot, layout
from phlogiston.engine.program.sites import Bound, Plate, Site, Structure, cast_inputs, discover, run, score

Values = dict[str, torch.Tensor]
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Learned:
    """A ``pyro.param`` statement, or one parameter of a module: where it starts, and what it may be."""

    initial: torch.Tensor
    constraint: Any

    @property
    def unconstrained(self) -> torch.Tensor:
        """The start, on the unconstrained scale."""
        return cast(torch.Tensor, transform_to(self.constraint).inv(self.initial)).detach().clone()

    def constrained(self, value: torch.Tensor) -> torch.Tensor:
        """An unconstrained value as the parameter's own."""
        return cast(torch.Tensor, transform_to(self.constraint)(value))


class _Seen(Messenger):
    """Write down every parameter that a run asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        self.found[msg["name"]] = (msg["value"], msg["kwargs"].get("constraint") or constraints.real)


def learned_parameters(bound: Bound, dtype: torch.dtype) -> dict[str, Learned]:
    """Every parameter of a program by name, starting where it is held, or else where the program starts it."""
    seen = _Seen()
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        run(bound, seen, parameters=bound.parameters)
        return {name: Learned(value.detach().to(dtype).clone(), kind) for name, (value, kind) in seen.found.items()}


@dataclass(frozen=True)
class Encoding:
    """A latent's values at the rows of a minibatch, and the normal that they come from where its support is real."""

    value: torch.Tensor
    loc: torch.Tensor | None = None
    scale: torch.Tensor | None = None


class BatchTerms:
    """The log joint density of a minibatch, in parts.

    Args:
        bound: the program with its data.
        structure: what it consists of.
        plate: that minibatches are taken from.
        dtype: precision.
    """

    def __init__(self, bound: Bound, structure: Structure, plate: Plate, dtype: torch.dtype) -> None:
        # now, and not row by row at every step
        structure = replace(structure, observations=cast_inputs(structure.observations, dtype))
        self._bound, self._whole, self._plate = bound, structure, plate
        two = torch.arange(min(2, plate.size))
        self._part = discover(AtRows(bound, structure, plate, two), dtype)
        self.shared: tuple[Slot, ...] = layout(
            replace(structure, sites=tuple(s for s in structure.continuous if not in_plate(s, plate.name)))
        )

    def __call__(
        self, params: Mapping[str, torch.Tensor], index: torch.Tensor, encoded: Mapping[str, Encoding], u: torch.Tensor
    ) -> Values:
        """The parts, summed over the minibatch.

        Args:
            params: constrained values of every parameter.
            index: rows of the plate, ``[B]``.
            encoded: the latents of the plate.
            u: those outside of it, on the unconstrained scale, one after another.

        Returns:
            ``likelihood []``; ``prior/<site>``, E log p of each latent of the plate: ``[B, coordinates]`` where prior
            and guide are normals, else ``[B]`` at the values; ``shared []``, of latents outside of the plate. Where a
            latent's prior depends on a discrete latent, ``likelihood`` holds both and the prior is zero.
        """
        rows = AtRows(self._bound, self._whole, self._plate, index)
        held = handlers.Substitute({name: latent.value for name, latent in encoded.items()})
        split = {slot.site.name: u[slot.start : slot.stop].reshape(slot.shape) for slot in self.shared}
        unconstrain, missing = handlers.Unconstrained(split), rows.missing
        sites = tuple(replace(s, missing=missing[s.name]) if s.name in missing else s for s in self._part.sites)
        part = replace(self._part, sites=sites, parameters=params)
        if part.discrete:
            trace = enumeration.enumerated(rows, part, unconstrain, held)
            nodes = {name: dict(cast(dict[str, Any], msg)) for name, msg in trace.nodes.items()}
            joint = enumeration.log_evidence(trace)
        else:
            trace = score(prune_subsample_sites(run(rows, unconstrain, held, parameters=params)))
            nodes = {name: cast(dict[str, Any], msg) for name, msg in trace.nodes.items()}
            joint = None
        return self._parts(part, nodes, encoded, unconstrain, joint)

    def _parts(
        self,
        part: Structure,
        nodes: Mapping[str, Any],
        encoded: Mapping[str, Encoding],
        unconstrain: handlers.Unconstrained,
        joint: torch.Tensor | None,
    ) -> Values:
        found: Values = {}
        shared, likelihood = torch.zeros(()), torch.zeros(())
        split_off = torch.zeros(())  # of the joint density: what is accounted for elsewhere
        for site in part.of("latent", "observed", "factor"):
            msg, inside = nodes[site.name], in_plate(site, self._plate.name)
            log_prob = msg["log_prob"]
            summed_out = site.discrete and site.role == "latent"
            single = log_prob.ndim <= part.plate_nesting and not summed_out
            if not inside and single:  # what has an enumerated dimension stays with what it was summed with
                shared = shared + log_prob.sum()
            elif site.name in encoded:
                found[f"prior/{site.name}"] = self._prior(site, msg, encoded[site.name], single)
                split_off = split_off + (log_prob.sum() if single else 0.0)
            elif joint is None:
                likelihood = likelihood + log_prob.sum()
        if joint is not None:
            likelihood = joint - shared - split_off
        jacobian = sum((value.sum() for value in unconstrain.log_jacobian.values()), torch.zeros(()))
        return {**found, "likelihood": likelihood, "shared": shared + jacobian}

    def _prior(self, site: Site, msg: Mapping[str, Any], latent: Encoding, single: bool) -> torch.Tensor:
        """E log p of a latent: by coordinate in closed form where both are normals, else at its value."""
        axis, base = axis_of(site, self._plate), handlers.base(msg["fn"])
        count = latent.value.shape[axis]
        if not single:
            return torch.zeros(count, dtype=latent.value.dtype)
        plain = msg["mask"] is None and isinstance(msg["scale"], float)
        if latent.loc is not None and latent.scale is not None and type(base).__name__ == "Normal" and plain:
            loc, scale = base.loc, base.scale
            square = (latent.loc - loc).square() + latent.scale.square()
            terms = -torch.log(scale) - _HALF_LOG_TAU - 0.5 * square / scale.square()
            return cast(torch.Tensor, terms.expand(latent.value.shape).movedim(axis, 0).reshape(count, -1))
        log_prob = msg["log_prob"].expand(site_batch(latent.value, site))
        return cast(torch.Tensor, log_prob.movedim(axis, 0).reshape(count, -1).sum(-1))


def site_batch(value: torch.Tensor, site: Site) -> torch.Size:
    """The batch shape of a value at some rows of a plate."""
    return value.shape[: value.ndim - site.event_dim]


def with_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], data: torch.Tensor) -> Any:
    """What a module gives with other parameters, by name, than its own."""
    return torch.func.functional_call(module, dict(weights), (data,))
