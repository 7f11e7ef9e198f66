"""Pathfinder: of the normals along each path to a mode, the one nearest to the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import ModelError
from phlogiston.inference.optimise.curvature import Normal, along
from phlogiston.inference.optimise.lbfgs import Evaluate, climb_paths
from phlogiston.stats.weights import pareto_smooth, systematic_resample

Array = NDArray[Any]
_TRIES = 20


def evaluated(target: Target) -> Evaluate:
    """The log density and gradient of points as arrays."""

    def evaluate(points: Array) -> tuple[Array, Array]:
        value, gradient = target.value_and_grad(torch.from_numpy(np.ascontiguousarray(points)))
        return value.double().numpy(), gradient.double().numpy()

    return evaluate


def spread_points(target: Target, propose: Any, seed: np.random.SeedSequence, count: int) -> Array:
    """So many starting points with a finite density and gradient, ``[count, D]``.

    Raises:
        ModelError: there are none; names the site.
    """
    found = np.empty((0, target.dim))
    last = torch.empty(0, target.dim)
    for attempt in spawn(seed, _TRIES):
        last = propose(attempt, count).to(target.dtype)
        value, gradient = target.value_and_grad(last)
        usable = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
        found = np.concatenate([found, last[usable].double().numpy()])
        if len(found) >= count:
            return found[:count]
    raise ModelError(target.explain_no_start(last[0]))


@dataclass(frozen=True)
class Found:
    """The mixture of the paths' normals, and weighted draws of it.

    Args:
        normals: one a path.
        elbos: of each.
        points: ``[N, D]``, as many of each normal.
        log_q: of the mixture, ``[N]``.
        log_p: the density, ``[N]``.
    """

    normals: tuple[Normal, ...]
    elbos: Array
    points: Array
    log_q: Array
    log_p: Array


def find(
    target: Target, start: Array, seed: np.random.SeedSequence, *, num_draws: int, elbo_draws: int, max_steps: int
) -> Found:
    """Climb from each point, choose each path's best normal, and draw from all of them.

    Raises:
        ModelError: no path left its starting point.
    """
    evaluate = evaluated(target)
    paths = climb_paths(evaluate, start, max_steps=max_steps)
    judging, drawing = (generator(child) for child in spawn(seed, 2))
    chosen = [_best(target, along(paths, i), judging, elbo_draws) for i in range(len(start))]
    usable = [pair for pair in chosen if pair is not None]
    if not usable:
        raise ModelError(target.explain_no_start(torch.from_numpy(start[0])))
    normals, elbos = tuple(normal for normal, _ in usable), np.array([elbo for _, elbo in usable])
    shares = np.array_split(np.arange(num_draws), len(normals))
    points = np.concatenate(
        [n.draw(drawing.standard_normal((len(own), target.dim))) for n, own in zip(normals, shares, strict=True)]
    )
    parts = np.stack(
        [
            n.log_prob(points) + math.log(len(own) / num_draws)
            for n, own in zip(normals, shares, strict=True)
            if len(own)
        ]
    )
    log_p = target.log_density(torch.from_numpy(points)).double().numpy()
    return Found(normals, elbos, points, np.logaddexp.reduce(parts, 0), log_p)


def _best(target: Target, normals: list[Normal], rng: np.random.Generator, draws: int) -> tuple[Normal, float] | None:
    if not normals:
        return None
    noise = rng.standard_normal((len(normals), draws, target.dim))
    points = np.stack([normal.draw(own) for normal, own in zip(normals, noise, strict=True)])
    log_q = np.stack([normal.log_prob(own) for normal, own in zip(normals, points, strict=True)])
    log_p = target.log_density(torch.from_numpy(points)).double().numpy()
    elbos = np.where(np.isfinite(log_p), log_p - log_q, -1e300).mean(1)
    best = int(elbos.argmax())
    return normals[best], float(elbos[best])


def resampled(found: Found, count: int, seed: np.random.SeedSequence) -> Array:
    """So many of the draws, in proportion to their Pareto-smoothed weights, in random order."""
    log_weights = found.log_p - found.log_q
    log_weights = np.where(np.isfinite(log_weights), log_weights, -np.inf)
    smoothed, _ = pareto_smooth(log_weights)
    rng = generator(seed)
    picked = systematic_resample(smoothed, count, rng)
    return np.asarray(found.points[rng.permutation(picked)])
