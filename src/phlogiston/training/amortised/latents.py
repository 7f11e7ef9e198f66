"""What an encoder has to do in a model: the plate of the data, its latents, and the data that inform them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import biject_to, constraints
from torch.nn.functional import one_hot

from phlogiston.engine.program.plates import axis_of, in_plate, masks
from phlogiston.engine.program.sites import Plate, Site, Structure
from phlogiston.errors import UnknownName, UnsupportedModel, did_you_mean, problem
from phlogiston.model.model import Model


@dataclass(frozen=True)
class LocalLatent:
    """A continuous latent of a plate: columns ``start`` to ``stop`` of what an encoder gives for an element."""

    site: Site
    axis: int
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one element's unconstrained value."""
        whole = self.site.unconstrained_shape or ()
        return (*whole[: self.axis], *whole[self.axis + 1 :])

    @property
    def stop(self) -> int:
        """One past its last column."""
        return self.start + math.prod(self.shape)

    def columns(self, u: torch.Tensor) -> torch.Tensor:
        """``u [..., B, dim]`` -> this latent's unconstrained values ``[..., *shape with B along the plate]``."""
        front = u.ndim - 2
        part = u[..., self.start : self.stop].reshape(*u.shape[:-1], *self.shape)
        return part.movedim(front, front + self.axis)

    @property
    def is_real(self) -> bool:
        """Whether the site's own scale is the unconstrained one."""
        support = self.site.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support is constraints.real

    def constrained(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unconstrained values as the site's own, and log |d value / d u| of each element."""
        bijection = biject_to(self.site.support)
        value = bijection(u)
        return value, bijection.log_abs_det_jacobian(u, value)

    def over(self, base: Any) -> Any:
        """A distribution of unconstrained values as one of the site's own."""
        if self.is_real:
            return base
        return dist.TransformedDistribution(base, [biject_to(self.site.support)])


@dataclass(frozen=True)
class LatentSplit:
    """A model's latents by what a guide does with them.

    ``local`` are encoded, ``summed`` (discrete ones) are summed out, ``rest`` get an ordinary guide. ``observed`` and
    ``inputs`` name the data that an element has of its own: observed sites, and inputs as long as the plate.
    """

    plate: Plate
    local: tuple[LocalLatent, ...]
    summed: tuple[str, ...]
    rest: tuple[str, ...]
    observed: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Numbers that an encoder gives for the latents of an element."""
        return self.local[-1].stop


def split_of(model: Model, plate: str | None = None, inputs: Sequence[str] | None = None) -> LatentSplit:
    """Find the plate whose latents an encoder can tell from data, and sort the latents.

    Raises:
        UnsupportedModel: no plate holds both continuous latents and observations.
        UnknownName: there is no such plate, or no such data.
    """
    structure = model.structure
    chosen = _plate(structure, model.name, plate)
    own = [site for site in structure.continuous if in_plate(site, chosen.name)]
    observed = _names_in(structure.of("observed"), chosen)
    inputs_by_row = [name for name, value in model.inputs.items() if _has_row_each(value, chosen.size)]
    wanted = _wanted_data({*observed, *inputs_by_row}, inputs, chosen)
    names = {site.name for site in own}
    return LatentSplit(
        plate=chosen,
        local=_columns(own, chosen),
        summed=tuple(_names_in(structure.discrete, chosen)),
        rest=tuple(s.name for s in structure.continuous if s.name not in names),
        observed=tuple(name for name in observed if name in wanted),
        inputs=tuple(name for name in inputs_by_row if name in wanted),
    )


def _columns(sites: Sequence[Site], plate: Plate) -> tuple[LocalLatent, ...]:
    """The latents of a plate, each with the columns of the encoder's output that are its own."""
    local: list[LocalLatent] = []
    for site in sites:
        if site.missing is not None:
            raise UnsupportedModel(
                problem(
                    f"site {site.name!r}",
                    found="missing entries, which an amortised guide would have to encode one datum at a time",
                    expected="complete data, or a guide of another kind",
                    fix='ph.SVI(guide="normal")',
                )
            )
        local.append(LocalLatent(site, axis_of(site, plate), local[-1].stop if local else 0))
    return tuple(local)


def _wanted_data(known: set[str], inputs: Sequence[str] | None, plate: Plate) -> set[str]:
    """The names of the data that an encoder reads: those asked for, or all."""
    for name in inputs or ():
        if name not in known:
            raise UnknownName(f"Amortized: no data {name!r} along plate {plate.name!r}; {did_you_mean(name, known)}")
    return known if inputs is None else set(inputs)


def _has_row_each(value: Any, size: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == size


def _names_in(sites: Sequence[Site], plate: Plate) -> list[str]:
    return [site.name for site in sites if in_plate(site, plate.name)]


def _plate(structure: Structure, program: str, wanted: str | None) -> Plate:
    plates = {plate.name: plate for site in structure.of("latent", "observed") for plate in site.plates}
    if wanted is not None and wanted not in plates:
        raise UnknownName(f"Amortized: program {program!r} has no plate {wanted!r}; {did_you_mean(wanted, plates)}")
    of_latents, of_data = _plates_of(structure.continuous), _plates_of(structure.of("observed"))
    able = [name for name in plates if name in of_latents & of_data and wanted in (None, name)]
    if not able:
        raise UnsupportedModel(_no_plate(structure, f"plate {wanted!r}" if wanted else f"program {program!r}"))
    # Of nested plates the outermost is taken: its elements contain those of the others.
    return min((plates[name] for name in able), key=lambda plate: plate.dim)


def _plates_of(sites: Sequence[Site]) -> set[str]:
    return {plate.name for site in sites for plate in site.plates}


def _no_plate(structure: Structure, where: str) -> str:
    latents = ", ".join(site.name for site in structure.continuous) or "none"
    return problem(
        f"Amortized: {where}",
        found=f"no plate that holds both continuous latents ({latents}) and observed sites",
        expected="latents that each belong to a datum, under one plate with it",
        fix='with pyro.plate("datum", len(x)): both pyro.sample statements',
    )


@dataclass(frozen=True)
class DataSite:
    """Data that each element of the plate has of its own, from one observed site or input: ``value [N, ...]``."""

    name: str
    value: torch.Tensor
    inner: tuple[Plate, ...]
    event_dim: int
    discrete: bool
    mask: torch.Tensor | None


def data_of(model: Model, split: LatentSplit) -> list[DataSite]:
    """The data of the plate's elements, the plate first; categories as indicators."""
    structure = model.structure
    hidden = masks(model, structure, split.observed)
    found = []
    for name in split.observed:
        site = structure[name]
        axis = axis_of(site, split.plate)
        value = torch.as_tensor(structure.observations[name]).movedim(axis, 0)
        mask = hidden[name].movedim(axis, 0) if name in hidden else None
        inner = tuple(plate for plate in site.plates if plate.name != split.plate.name)
        event_dim, discrete = site.event_dim, site.discrete
        if site.distribution == "Categorical":  # categories have no order that could be read
            states = int(torch.as_tensor(site.support.upper_bound).max()) + 1
            value, event_dim = one_hot(value.long().clamp(min=0), states), event_dim + 1
        found.append(DataSite(name, value.float(), inner, event_dim, discrete, mask))
    given = model.inputs
    for name in split.inputs:
        value = torch.as_tensor(given[name])
        if any(value.dtype == torch.bool and value.numel() == m.numel() for m in hidden.values()):
            continue  # the mask itself, which is there already
        found.append(DataSite(name, value.float(), (), value.ndim - 1, not value.is_floating_point(), None))
    if not found:
        raise UnsupportedModel(
            problem(
                f"Amortized: plate {split.plate.name!r}",
                found="no data for an encoder to read",
                expected="observed sites in the plate",
                fix="model.observe(x=...)",
            )
        )
    return found
