"""Everything that is wrong with a model, found before any sampling: site, found, expected, the line to write."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from phlogiston.engine.program.handlers import elementwise
from phlogiston.engine.program.sites import Site, Structure
from phlogiston.errors import SettingError, did_you_mean, problem


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong (``severity="error"``) or doubtful (``"warning"``) about a model."""

    where: str
    found: str
    expected: str
    fix: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return problem(self.where, found=self.found, expected=self.expected, fix=self.fix)


def problems_of(
    structure: Structure,
    inputs: Mapping[str, Any],
    observed: Mapping[str, torch.Tensor],
    coords: Mapping[str, Sequence[Any]],
    parents: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Problem]:
    """All problems, the worst first.

    Args:
        structure: the sites of one run.
        inputs: the program's arguments by name.
        observed: the values given to ``.observe``, by site.
        coords: labels by dimension.
        parents: what each site depends on, where that is known.
    """
    found: list[Problem] = [
        _impossible(site) for site in structure.observable if _is_impossible(site, structure, parents)
    ]
    for site in structure.observable:
        found += _problems_of_observation(site, structure.observations[site.name], site.name in observed)
    sites = structure.of("latent", "observed")
    if not all(math.isfinite(site.log_prob) for site in sites):
        found += [p for name, value in inputs.items() for p in _not_finite(f"input {name!r}", value)]
        found += [] if found else [_undefined(site) for site in sites if math.isnan(site.log_prob)]
    for site in structure.of("latent"):
        found += _problems_of_latent(site)
    found += problems_of_labels(structure.sizes, coords)
    return sorted(found, key=lambda p: p.severity)


def _problems_of_observation(site: Site, value: torch.Tensor, by_name: bool) -> list[Problem]:
    where = f"site {site.name!r}"
    if site.missing is not None:
        value = torch.where(site.missing.mask, site.missing.values, value)
    problems = _not_finite(where, value) if math.isnan(site.log_prob) or not site.masked else []
    problems = problems or _problems_of_missing(site)
    if tuple(value.shape) not in (site.drawn_shape, _shape_in_plates(site)):
        problems.append(_wrong_shape(site, tuple(value.shape), by_name))
    elif not problems and not site.in_support:
        outside, expected = "an observed value outside the support", f"{site.distribution} in {site.support}"
        problems.append(_grey(where) if _is_grey(site, value) else Problem(where, outside, expected))
    elif not problems and site.score_error:
        problems.append(_not_scored(site, value.dtype))
    return problems + _unplated(site)


def _wrong_shape(site: Site, shape: tuple[int, ...], by_name: bool) -> Problem:
    extra = len(shape) - len(site.drawn_shape)
    batched = extra > 0 and shape[extra:] == site.drawn_shape
    fix = f'with pyro.plate("{site.name}_plate", {shape[0]}): pyro.sample("{site.name}", ...)' if batched else ""
    return Problem(
        f"site {site.name!r}",
        f"an observed value of shape {shape}",
        f"shape {site.drawn_shape}{_from_plates(site)}",
        fix or _of_a_minibatch(site, shape),
        "error" if by_name or not batched else "warning",
    )


def _not_scored(site: Site, dtype: torch.dtype) -> Problem:
    kind = str(dtype).removeprefix("torch.")
    return Problem(
        f"site {site.name!r}",
        f"observed values of type {kind} that {site.distribution} cannot score ({site.score_error})",
        "numbers of the type that it draws",
        "obs=value.double()" if dtype == torch.bool else "",
    )


def problems_of_labels(sizes: Mapping[str, int], coords: Mapping[str, Sequence[Any]]) -> list[Problem]:
    """Labels of dimensions that there are not, or of another length."""
    found = []
    for dim, labels in coords.items():
        where = f"coords {dim!r}"
        if dim not in sizes:
            expected = f"the name of a plate or dimension; {did_you_mean(dim, sizes)}"
            found.append(Problem(where, "no such dimension", expected, severity="warning"))
        elif len(labels) != sizes[dim]:
            expected = f"{sizes[dim]}; the dimension is numbered instead"
            found.append(Problem(where, f"{len(labels)} labels", expected, severity="warning"))
    return found


def _is_impossible(site: Site, structure: Structure, parents: Mapping[str, tuple[str, ...]] | None) -> bool:
    """Whether a value has probability zero whatever the latents are: none of them is among what the site depends on."""
    if not site.impossible or parents is None:
        return False
    unknown = {other.name for other in structure.sites if other.role in ("latent", "parameter")}
    known, left = set[str](), [site.name]
    while left:
        name = left.pop()
        known.add(name)
        left += [parent for parent in parents.get(name, ()) if parent not in known]
    return not known & unknown


def _impossible(site: Site) -> Problem:
    many = "values" if site.impossible > 1 else "value"
    return Problem(
        f"site {site.name!r}",
        f"{site.impossible} observed {many} of probability zero under {site.distribution}, whatever the latents are",
        "data that can happen, or probabilities that are not exactly 0 or 1",
        "probs.clamp(1e-6, 1 - 1e-6)",
    )


def _undefined(site: Site) -> Problem:
    return Problem(
        f"site {site.name!r}",
        f"a log probability that is NaN under {site.distribution}, with finite data and inputs",
        "parameters within the distribution's constraints (a scale above zero, probabilities that are not negative)",
    )


def _of_a_minibatch(site: Site, shape: tuple[int, ...]) -> str:
    """The line to write where a plate has the size of a minibatch and the data are whole."""
    for plate in site.plates:
        axis = len(site.batch_shape) + plate.dim
        others = [n for i, n in enumerate(shape) if i != axis]
        drawn = [n for i, n in enumerate(site.drawn_shape) if i != axis]
        if len(shape) == len(site.drawn_shape) and others == drawn and shape[axis] > plate.size:
            return f'pyro.plate("{plate.name}", {shape[axis]}); ph.SVI(batch_size={plate.size}) takes the minibatches'
    return ""


def _is_grey(site: Site, value: torch.Tensor) -> bool:
    return site.distribution == "Bernoulli" and bool(((value >= 0.0) & (value <= 1.0)).all())


def _grey(where: str) -> Problem:
    return Problem(
        where,
        "grey values between 0 and 1 under a Bernoulli, of which they are no outcomes",
        "0 or 1: a bound on grey values cannot be compared with one on black and white",
        "x=(x > 0.5).float(), or dist.ContinuousBernoulli in the program",
        "warning",
    )


def _shape_in_plates(site: Site) -> tuple[int, ...]:
    """The shape of a site whose distribution has no batch for some of its plates: those without a size of their own."""
    batch = site.drawn_shape[: len(site.drawn_shape) - site.event_dim]
    depth = max((-plate.dim for plate in site.plates), default=0)
    sizes = [1] * (depth - len(batch)) + list(batch)
    for plate in site.plates:
        sizes[plate.dim] = plate.size if sizes[plate.dim] == 1 else sizes[plate.dim]
    return (*sizes, *site.drawn_shape[len(batch) :])


def _from_plates(site: Site) -> str:
    return "".join(f", as plate {plate.name!r} has {plate.size}" for plate in site.plates)


def _not_finite(where: str, value: Any) -> list[Problem]:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return []
    nan, inf = int(torch.isnan(value).sum()), int(torch.isinf(value).sum())
    if not nan and not inf:
        return []
    counts = " and ".join(f"{count} {kind}" for count, kind in ((nan, "NaN"), (inf, "infinite")) if count)
    fix = "rows without NaN, or a latent in the program for each missing input" if nan else ""
    if nan and where.startswith("site"):
        fix = 'model.observe(..., missing="latent") where NaN stands for what was not observed'
    return [Problem(where, f"{counts} of {value.numel()} values", "finite numbers", fix)]


def _problems_of_missing(site: Site) -> list[Problem]:
    if site.missing is None or not site.event_dim or not elementwise(site.support).event_dim:
        return []
    expected = "entries that may vary on their own, or events that are missing as a whole in a plate of their own"
    return [Problem(f"site {site.name!r}", f"missing entries within an event in {site.support}", expected)]


def _problems_of_latent(site: Site) -> list[Problem]:
    where, problems = f"site {site.name!r}", _unplated(site)
    if site.discrete and site.unplated:
        size = site.batch_shape[site.unplated[0]]
        problems = [
            Problem(
                where,
                f"a discrete latent with a batch of shape {site.batch_shape} outside any plate",
                "a plate for every batch dimension, so that it can be summed out",
                f'with pyro.plate("{site.name}_plate", {size}):',
                "warning",
            )
        ]
    if site.support_error:
        expected = f"a support property of {site.distribution} that holds all values of positive density and no other"
        problems.append(Problem(where, site.support_error, expected, "support = constraints.positive"))
    for plate in site.plates:
        if plate.subsampled:
            problems.append(
                Problem(
                    where,
                    f"plate {plate.name!r} subsampled",
                    f"all {plate.size} elements, as this library draws minibatches itself",
                    f'pyro.plate("{plate.name}", {plate.size})',
                )
            )
    return problems


def require_memory(structure: Structure, num_samples: int) -> None:
    """Refuse draws of every site that the machine has no room for; a plate of images makes a thousand of them huge.

    Raises:
        SettingError: they take more than all of the memory.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows does not tell
        return
    a_draw = 8 * sum(math.prod(site.shape) for site in structure.sites if site.role != "parameter")
    if num_samples * a_draw > memory:
        found = f"{num_samples:,} draws of every site, {num_samples * a_draw / 1e9:,.0f} GB"
        expected = f"what fits into {memory / 1e9:,.0f} GB of memory"
        fix = f"num_samples={max(1, memory // (4 * a_draw))}"
        raise SettingError(problem("simulate", found=found, expected=expected, fix=fix))


def _unplated(site: Site) -> list[Problem]:
    if not site.unplated:
        return []
    event = f".to_event({len(site.unplated)})"
    return [
        Problem(
            f"site {site.name!r}",
            f"batch shape {site.batch_shape} with {len(site.unplated)} dimension(s) outside any plate",
            "each batch dimension in a plate, or part of the event",
            f'{event}, or with pyro.plate("{site.name}_plate", {site.batch_shape[site.unplated[0]]}):',
            "warning",
        )
    ]
