"""Where chains begin: points with a finite density, or an error that names the site without one.

Chains that move the continuous latents alone need a finite gradient, too. Chains that move discrete latents as well
begin at a point for the continuous ones and a draw from the prior, given that point, for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.chains import ChainDensity, Scale
from phlogiston.engine.densities.joint import FullDensity, entries
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.sites import Site
from phlogiston.errors import ModelError, SettingError, did_you_mean, problem
from phlogiston.inference.optimise.normal_approx import multipath, resampled

Start = Literal["uniform", "prior", "median", "pathfinder"]
STARTS: tuple[str, ...] = ("uniform", "prior", "median", "pathfinder")
_PATHS, _DRAWS = 8, 1000
_TRIED = 32
_RADIUS, _FOR_THE_MEDIAN = 2.0, 200
_TRIES, _CLIMBERS_TRIES = 100, 20
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

    def draw(attempt: np.random.SeedSequence) -> tuple[torch.Tensor, torch.Tensor]:
        points = propose(attempt, chains).to(target.dtype)
        value, grad = density.evaluate(points.mT.contiguous(), *unit)
        return points, torch.isfinite(value) & torch.isfinite(grad).all(0)

    attempts = spawn(seed, 1 if isinstance(start, Mapping) else _TRIES)
    points, bad = _first_usable(draw, attempts, chains)
    if bad is not None:
        raise ModelError(target.explain_no_start(bad))
    return points


def spread_points(target: Target, propose: Propose, seed: np.random.SeedSequence, count: int) -> NDArray[np.float64]:
    """Points ``[count, D]`` with a finite density and gradient, from which optimisers climb.

    Raises:
        ModelError: there are too few; names the site.
    """

    def draw(attempt: np.random.SeedSequence) -> tuple[torch.Tensor, torch.Tensor]:
        points = propose(attempt, count).to(target.dtype)
        value, gradient = target.value_and_grad(points)
        return points, torch.isfinite(value) & torch.isfinite(gradient).all(-1)

    points, bad = _first_usable(draw, spawn(seed, _CLIMBERS_TRIES), count)
    if bad is not None:
        raise ModelError(target.explain_no_start(bad))
    return points.double().numpy()


def joint_points(
    target: Target, full: FullDensity, start: Any, seed: np.random.SeedSequence, count: int
) -> torch.Tensor:
    """Points ``w [count, W]`` of all latents with a finite density.

    Args:
        target: the model's densities.
        full: the density of all latents.
        start: the name of a way to start, or values by site; discrete latents that it lacks are drawn from the prior
            given the others.
        seed: of the points.
        count: how many.

    Raises:
        ModelError: no point with a finite density was found; names the site.
    """
    fixed = dict(start) if isinstance(start, Mapping) else {}
    discrete = {site.name: fixed.pop(site.name) for site in target.structure.discrete if site.name in fixed}
    if isinstance(start, Mapping) and fixed and not target.dim:
        raise SettingError(f"initial: found site {next(iter(fixed))!r}; {did_you_mean(next(iter(fixed)), full.states)}")
    propose = proposal(target, fixed if isinstance(start, Mapping) else start, count)

    def draw(attempt: np.random.SeedSequence) -> tuple[torch.Tensor, torch.Tensor]:
        points = _completed(target, propose, discrete, attempt, count)
        return points, torch.from_numpy(np.isfinite(full.terms(points.numpy()).sum(1)))

    points, bad = _first_usable(draw, spawn(seed, _TRIES), count)
    if bad is not None:
        raise ModelError(_explained(full, bad[None]))
    return points


def _first_usable(
    draw: Callable[[np.random.SeedSequence], tuple[torch.Tensor, torch.Tensor]],
    attempts: Sequence[np.random.SeedSequence],
    count: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The first ``count`` usable points that are drawn, and, if there are too few, one that is not usable."""
    usable, bad = [], None
    for attempt in attempts:
        points, is_usable = draw(attempt)
        usable.append(points[is_usable])
        if sum(map(len, usable)) >= count:
            return torch.cat(usable)[:count], None
        bad = points[~is_usable][0]
    return torch.cat(usable), bad


def _completed(
    target: Target, propose: Propose, fixed: Mapping[str, Any], seed: np.random.SeedSequence, count: int
) -> torch.Tensor:
    """Points ``w [count, W]``: the continuous latents as proposed, the discrete ones as fixed or from the prior."""
    continuous, completing = spawn(seed, 2)
    u, values = torch.zeros(count, 0, dtype=target.dtype), {}
    if target.dim:
        u = propose(continuous, count).to(target.dtype)
        constrained = target.constrain(u)
        values = {site.name: constrained[site.name] for site in target.structure.continuous}
    sites = {site.name: site for site in target.structure.discrete}
    if not sites:
        return u
    chosen = {name: _given(sites[name], value, count, sites[name].dtype) for name, value in fixed.items()}
    if len(chosen) < len(sites):
        chosen = {**target.complete({**values, **chosen}, count, completing), **chosen}
    flat = [entries(site, chosen[name]).reshape(count, -1).to(target.dtype) for name, site in sites.items()]
    return torch.cat([u, *flat], 1)


def _explained(full: FullDensity, w: torch.Tensor) -> str:
    terms = full.terms(w.numpy())[0]
    first = int(np.flatnonzero(~np.isfinite(terms))[0])
    values = full.values(w)
    name = full.names[first].site
    shown = str({site: value[0].tolist() for site, value in values.items()})[:200]
    return problem(
        f"starting point, site {name!r}",
        found=f"a log probability of {terms[first]} with {shown}",
        expected="a finite log density",
        fix=f'initial={{"{full.parts[0].site.name}": ...}} within the supports of all sites',
    )


def first_point(target: Target, start: Start | Mapping[str, Any], seed: np.random.SeedSequence) -> torch.Tensor:
    """The starting point with the highest density among several, ``[D]``.

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
    """The function that proposes starting points: by a name, or those given by site."""
    return given(target, start, count) if isinstance(start, Mapping) else named(target, start)


def named(target: Target, start: Start) -> Propose:
    """The function that proposes starting points by a name."""
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
    paths = multipath(target, start, finding, num_draws=max(_DRAWS, 4 * n), elbo_draws=16, max_steps=100)
    return torch.from_numpy(resampled(paths, n, picking))


def _prior(target: Target, seed: np.random.SeedSequence, n: int) -> torch.Tensor:
    chunks = list(target.propose(n, seed))
    names = [site.name for site in target.structure.continuous]
    return target.unconstrain({name: torch.cat([chunk[name] for chunk in chunks]) for name in names})


def given(target: Target, values: Mapping[str, Any], chains: int) -> Propose:
    """The function that proposes the points given by site; names and shapes that do not fit are refused."""
    sites = {site.name: site for site in target.structure.continuous}
    for name in values:
        if name not in sites:
            raise SettingError(f"initial: found site {name!r}; {did_you_mean(name, sites)}")
    tensors = {}
    for name, site in sites.items():
        if name not in values:
            raise SettingError(problem(f"initial, site {name!r}", found="no value", expected=f"shape {site.shape}"))
        tensors[name] = _given(site, values[name], chains, target.dtype)
    return lambda seed, n: target.unconstrain(tensors)


def _given(site: Site, value: Any, count: int, dtype: torch.dtype | None) -> torch.Tensor:
    """The start of every chain at a site, ``[count, *site shape]``, from one for all or one for each."""
    tensor = torch.as_tensor(value, dtype=dtype)
    if tuple(tensor.shape) not in (site.shape, (count, *site.shape)):
        expected = f"{site.shape} or {(count, *site.shape)}"
        raise SettingError(
            problem(f"initial, site {site.name!r}", found=f"shape {tuple(tensor.shape)}", expected=expected)
        )
    return tensor.expand(count, *site.shape)
