"""What is compared: the site, its data with rows first, and the conditions beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from phlogiston.engine.learning.generator import Generator
from phlogiston.engine.program.plates import axis_of, data_plate, in_plate
from phlogiston.engine.program.sites import Plate, Site
from phlogiston.errors import ModelError, UnknownName, UnsupportedModel, did_you_mean, problem
from phlogiston.model.model import Model

_DRAWN = 256
_SHORTEST = 1e-15


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The program as a generator, and the data ``[N, ...]`` that it is compared with.

    Args:
        generator: the program.
        data: rows first.
        conditions: other observed sites of the same plate, rows first.
        classes: how many values each of them has; 0 for numbers on a continuum.
    """

    generator: Generator
    data: torch.Tensor
    conditions: tuple[torch.Tensor, ...]
    classes: tuple[int, ...]

    def without(self, model: Model) -> Model:
        """The model without data for outputs that have no density: those are not observations of a posterior."""
        return model.unobserved(*model.implicit) if model.implicit else model


def compared(model: Model, wanted: str | None, dtype: torch.dtype) -> Comparison:
    """The comparison that a model and its data ask for.

    Raises:
        UnsupportedModel: nothing to compare, no plate of rows, no latent, or no parameter.
        ModelError: data that are not finite, or outside of the output's range.
    """
    model = model.validated()
    structure = model.structure
    site = _compared_site(model, wanted)
    if not structure.of("latent"):
        raise UnsupportedModel(
            problem(
                f"program {model.name!r}",
                found="no latent site",
                expected="noise that the generator turns into data",
                fix='z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))',
            )
        )
    if not structure.of("parameter"):
        raise UnsupportedModel(
            problem(
                f"program {model.name!r}",
                found="no parameter",
                expected="parameters to learn",
                fix='pyro.module("generator", network)',
            )
        )
    plate = _plate_of(site)
    others = [s for s in structure.of("observed") if s.name != site.name and in_plate(s, plate.name)]
    generator = Generator(model, structure, site, plate, conditions=tuple(s.name for s in others), dtype=dtype)
    data = structure.observations[site.name].movedim(generator.axis, 0).to(dtype)
    _check_data(generator, site, data)
    values = [structure.observations[s.name].movedim(axis_of(s, plate), 0) for s in others]
    classes = tuple(int(v.max()) + 1 if s.discrete else 0 for s, v in zip(others, values, strict=True))
    return Comparison(generator=generator, data=data.contiguous(), conditions=tuple(values), classes=classes)


def _compared_site(model: Model, wanted: str | None) -> Site:
    structure = model.structure
    able = {s.name: s for s in structure.sites if s.name in structure.observations and not s.discrete}
    if wanted is not None and wanted not in able:
        raise UnknownName(f"Adversarial: site={wanted!r} was not observed; {did_you_mean(wanted, able)}")
    if wanted is None and model.implicit:
        wanted = model.implicit[0]
    if wanted is None and len(able) != 1:
        raise UnsupportedModel(
            problem(
                f"program {model.name!r}",
                found=f"{len(able)} continuous sites with data ({', '.join(able) or 'none'})",
                expected="one, the generator's output",
                fix="model.observe(x=data)" if not able else f"ph.Adversarial(site={next(iter(able))!r})",
            )
        )
    return able[wanted if wanted is not None else next(iter(able))]


def _plate_of(site: Site) -> Plate:
    plate = data_plate([site])
    if plate is None:
        raise UnsupportedModel(
            problem(
                f"site {site.name!r}",
                found="no plate around it",
                expected="a plate of the rows of the data, from which batches are taken",
                fix=f'with pyro.plate("data", {site.shape[0] if site.shape else 1}): ...',
            )
        )
    return plate


def _check_data(generator: Generator, site: Site, data: torch.Tensor) -> None:
    bad = int((~torch.isfinite(data)).sum())
    if bad:
        raise ModelError(
            problem(
                f"site {site.name!r}",
                found=f"{bad} of {data.numel()} numbers that are NaN or infinite",
                expected="finite data",
                fix=f".observe({site.name}=data[torch.isfinite(data).flatten(1).all(1)])",
            )
        )
    _check_spread(site, data)
    known = bounds_of(generator)
    low, high = float(data.min()), float(data.max())
    slack = 1e-3 * (known[1] - known[0])
    if low < known[0] - slack or high > known[1] + slack:
        raise ModelError(
            problem(
                f"site {site.name!r}",
                found=f"data from {low:.4g} to {high:.4g}",
                expected=f"numbers that the generator can reach, {known[0]:.4g} to {known[1]:.4g}",
                fix=f"{site.name} = data scaled to that range, or a generator without its last squashing",
            )
        )


def _check_spread(site: Site, data: torch.Tensor) -> None:
    """Refuse data of one value, and of lengths whose squares the precision cannot hold."""
    where = f"site {site.name!r}"
    if bool((data == data[:1]).all()):
        found = f"{len(data)} rows that are all the same"
        raise ModelError(problem(where, found=found, expected="data that vary: there is nothing else to learn"))
    spread = float(data.double().std(0).square().mean().sqrt())
    if data.dtype != torch.float64 and not _SHORTEST < spread < 1.0 / _SHORTEST:
        found = f"data with a standard deviation of {spread:.3g}, whose square is beyond float32"
        fix = f'{site.name} = data / {spread:.3g}, or ph.Adversarial(precision="float64")'
        raise ModelError(problem(where, found=found, expected="numbers nearer to one", fix=fix))


def bounds_of(generator: Generator) -> tuple[float, float]:
    """The range that the output cannot leave, found by driving the parameters far out; infinite where there is none."""
    ends = [generator.extreme(factor, min(_DRAWN, generator.plate.size)) for factor in (1e3, 1e5)]
    lows, highs = [float(e.min()) for e in ends], [float(e.max()) for e in ends]
    bounded = max(map(abs, (*lows, *highs))) < 10.0
    return (min(lows), max(highs)) if bounded else (float("-inf"), float("inf"))
