"""A program's terms at a minibatch, as a pure function of its parameters: what learning them climbs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import constraints, transform_to

from phlogiston.engine.program import handlers
from phlogiston.engine.program.interpreter import Slot, layout
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.plates import axis_of, in_plate, rows_of
from phlogiston.engine.program.reading import Values, read
from phlogiston.engine.program.sites import Bound, Plate, Site, Structure, cast_inputs, discover, run

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
        self._plate, self._rows = plate, rows_of(bound, structure, plate, dtype)
        self._part = discover(self._rows.at(torch.arange(min(2, plate.size))), dtype)
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
        held = handlers.Substitute({name: latent.value for name, latent in encoded.items()})
        split = {slot.site.name: u[slot.start : slot.stop].reshape(slot.shape) for slot in self.shared}
        part = replace(self._rows.structure_at(self._part, index), parameters=params)
        reading = read(self._rows.at(index), part, handlers.Unconstrained(split), held, sum_out=True)
        split_off, priors = set(reading.outside(self._plate)), {}
        shared = reading.sum_of(split_off)
        for name, latent in encoded.items():
            single = reading.is_single(name)  # what has an enumerated dimension stays with what it was summed with
            priors[f"prior/{name}"] = self._prior(part[name], reading.message(name), latent, single)
            split_off |= {name} if single else set()
        return {**priors, "likelihood": reading.without(split_off), "shared": shared + reading.jacobian}

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
            terms = terms if msg["scale"] == 1.0 else terms * msg["scale"]
            return cast(torch.Tensor, terms.expand(latent.value.shape).movedim(axis, 0).reshape(count, -1))
        log_prob = msg["log_prob"].expand(site_batch(latent.value, site))
        return cast(torch.Tensor, log_prob.movedim(axis, 0).reshape(count, -1).sum(-1))


def site_batch(value: torch.Tensor, site: Site) -> torch.Size:
    """The batch shape of a value at some rows of a plate."""
    return value.shape[: value.ndim - site.event_dim]


def call_with(module: torch.nn.Module, params: Mapping[str, torch.Tensor], *args: Any) -> Any:
    """What a module gives for these arguments with these parameters, by name, in place of its own."""
    return torch.func.functional_call(module, dict(params), args)
