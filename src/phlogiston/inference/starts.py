"""Where chains begin: points with a finite density and gradient, or an error that names the site without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch

from phlogiston.engine.densities.chains import ChainDensity, Scale
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import ModelError, SettingError, did_you_mean, problem
from phlogiston.inference.optimise.normal_approx import find, resampled, spread_points

Start = Literal["uniform", "prior", "median", "pathfinder"]
STARTS: tuple[str, ...] = ("uniform", "prior", "median", "pathfinder")
_PATHS, _DRAWS = 8, 1000
_TRIED = 32
_RADIUS, _TRIES, _FOR_THE_MEDIAN = 2.0, 100, 200
Propose = Callable[[np.random.SeedSequence, int], torch.Tensor]


def starting_points(
    target: Target,
    density: ChainDensity,
    unit: Scale,
    start: Start | Mapping[str, Any],
    seed: np.random.SeedSequence,
    chains: int,
) -> torch.Tensor:
    """Points ``[C, D]`` on the unconstrained scale.

    Args:
        target: the model's densities.
        density: of all chains at once.
        unit: the scale that changes nothing.
        start: "uniform" in [-2, 2] on the unconstrained scale, "prior" draws, the "median" of prior draws (moved by a
            tenth of their spread), draws of "pathfinder", or values by site, ``[*site shape]`` or ``[C, *site shape]``.
        seed: of the points.
        chains: how many.

    Raises:
        ModelError: no point with a finite density and gradient was found; names the site and its value.
    """
    propose = proposal(target, start, chains)
    found = torch.empty(0, target.dim, dtype=target.dtype)
    last = found
    for attempt in spawn(seed, 1 if isinstance(start, Mapping) else _TRIES):
        last = propose(attempt, chains).to(target.dtype)
        value, grad = density.evaluate(last.mT.contiguous(), *unit)
        found = torch.cat([found, last[torch.isfinite(value) & torch.isfinite(grad).all(0)]])
        if len(found) >= chains:
            return found[:chains]
        if isinstance(start, Mapping):
            last = last[~(torch.isfinite(value) & torch.isfinite(grad).all(0))]
    raise ModelError(target.explain_no_start(last[0]))


def first_point(target: Target, start: Start | Mapping[str, Any], seed: np.random.SeedSequence) -> torch.Tensor:
    """The best of some starting points, ``[D]``.

    Raises:
        ModelError: none has a finite density and gradient; names the site.
    """
    propose = proposal(target, start, 1)
    points = propose(seed, 1 if isinstance(start, Mapping) else _TRIED).to(target.dtype)
    value, gradient = target.value_and_grad(points)
    usable = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
    if not usable.any():
        raise ModelError(target.explain_no_start(points[0]))
    return points[torch.where(usable, value, -torch.inf).argmax()]


def proposal(target: Target, start: Start | Mapping[str, Any], count: int) -> Propose:
    """Points by a name, or those that were given."""
    return given(target, start, count) if isinstance(start, Mapping) else named(target, start)


def named(target: Target, start: Start) -> Propose:
    """Points by a name."""
    if start == "uniform":
        return lambda seed, n: torch.from_numpy(generator(seed).uniform(-_RADIUS, _RADIUS, (n, target.dim)))
    if start == "prior":
        return lambda seed, n: _prior(target, seed, n)

    if start == "pathfinder":
        return lambda seed, n: _pathfound(target, seed, n)

    def near_the_median(seed: np.random.SeedSequence, n: int) -> torch.Tensor:
        drawing, moving = spawn(seed, 2)
        draws = _prior(target, drawing, _FOR_THE_MEDIAN)
        noise = torch.from_numpy(generator(moving).standard_normal((n, target.dim)))
        spread = (draws.quantile(0.75, 0) - draws.quantile(0.25, 0)) / 1.349
        return draws.median(0).values + 0.1 * spread * noise

    return near_the_median


def _pathfound(target: Target, seed: np.random.SeedSequence, n: int) -> torch.Tensor:
    starting, finding, picking = spawn(seed, 3)
    start = spread_points(target, named(target, "uniform"), starting, _PATHS)
    found = find(target, start, finding, num_draws=max(_DRAWS, 4 * n), elbo_draws=16, max_steps=100)
    return torch.from_numpy(resampled(found, n, picking))


def _prior(target: Target, seed: np.random.SeedSequence, n: int) -> torch.Tensor:
    chunks = list(target.propose(n, seed))
    names = [site.name for site in target.structure.continuous]
    return target.unconstrain({name: torch.cat([chunk[name] for chunk in chunks]) for name in names})


def given(target: Target, values: Mapping[str, Any], chains: int) -> Propose:
    """The points that were given; refuses names and shapes that do not fit."""
    sites = {site.name: site for site in target.structure.continuous}
    for name in values:
        if name not in sites:
            raise SettingError(f"initial: found site {name!r}; {did_you_mean(name, sites)}")
    tensors = {}
    for name, site in sites.items():
        if name not in values:
            raise SettingError(problem(f"initial, site {name!r}", found="no value", expected=f"shape {site.shape}"))
        value = torch.as_tensor(values[name], dtype=target.dtype)
        if tuple(value.shape) not in (site.shape, (chains, *site.shape)):
            expected = f"{site.shape} or {(chains, *site.shape)}"
            raise SettingError(
                problem(f"initial, site {name!r}", found=f"shape {tuple(value.shape)}", expected=expected)
            )
        tensors[name] = value.expand(chains, *site.shape)
    return lambda seed, n: target.unconstrain(tensors)
