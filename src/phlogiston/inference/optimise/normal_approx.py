r"""Normal approximations from curvature: at a mode (Laplace), and along the way to it (Pathfinder).

Along a path, the inverse Hessian is :math:`\Sigma = \mathrm{diag}(\alpha) + \beta \gamma \beta^\top` with
:math:`\beta = [\mathrm{diag}(\alpha) Y, S]` (Byrd, Nocedal and Schnabel, 1994), whose root takes O(D) numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import ModelError
from phlogiston.inference.optimise.lbfgs import Evaluate, Paths, climb_paths
from phlogiston.stats.weights import pareto_smooth, systematic_resample

Array = NDArray[Any]
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Normal:
    r"""A normal with root :math:`A = \mathrm{diag}(s) (I + Q (L - I) Q^\top)`.

    Args:
        loc: ``[D]``.
        scale: ``s [D]``.
        basis: ``Q [D, k]``, orthonormal.
        root: ``L [k, k]``, lower triangular.
    """

    loc: Array
    scale: Array
    basis: Array
    root: Array

    @property
    def half_log_det(self) -> float:
        """Half the log determinant of the covariance."""
        return float(np.log(self.scale).sum() + np.log(np.diagonal(self.root)).sum())

    @property
    def log_volume(self) -> float:
        """Log of the integral of the normal scaled to height one."""
        return self.half_log_det + len(self.loc) * _HALF_LOG_TAU

    @property
    def standard_deviations(self) -> Array:
        """Standard deviation of each coordinate, ``[D]``."""
        return np.asarray(np.linalg.norm(self.draw(np.eye(len(self.loc))) - self.loc, axis=0))

    def distances(self, points: Array) -> Array:
        """How many standard deviations each point ``[N, D]`` lies from the mean, ``[N]`` (Mahalanobis)."""
        return np.asarray(np.sqrt(np.maximum(-2.0 * (self.log_prob(points) + self.log_volume), 0.0)))

    def draw(self, noise: Array) -> Array:
        """Turn standard normal numbers ``[N, D]`` into points ``[N, D]``."""
        inner = noise @ self.basis
        rotated = noise + (inner @ self.root.T - inner) @ self.basis.T
        return np.asarray(self.loc + self.scale * rotated)

    def log_prob(self, points: Array) -> Array:
        """Log density at points ``[N, D]``."""
        z = (points - self.loc) / self.scale
        inner = z @ self.basis
        solved = np.linalg.solve(self.root, inner.T).T if inner.size else inner
        squares = (z**2).sum(1) - (inner**2).sum(1) + (solved**2).sum(1)
        return np.asarray(-0.5 * squares - self.half_log_det - len(self.loc) * _HALF_LOG_TAU)


def at_mode(evaluate: Evaluate, mode: Array) -> tuple[Normal, float]:
    """The normal with the curvature at a mode, and the smallest eigenvalue of its precision.

    The Hessian comes from central differences of the exact gradient. Directions in which the density does not fall
    (a mode at infinity, a saddle) count as flat as the flattest that does.
    """
    dim = len(mode)
    size = 1e-4 * np.maximum(np.abs(mode), 1.0)
    moves = np.diag(size)
    _, gradients = evaluate(np.concatenate([mode + moves, mode - moves]))
    hessian = (gradients[:dim] - gradients[dim:]) / (2.0 * size[:, None])
    values, vectors = np.linalg.eigh(-0.5 * (hessian + hessian.T))
    smallest = float(values[0])
    floor = max(float(values[values > 0.0].min()) if (values > 0.0).any() else 1.0, 1e-12)
    covariance = (vectors / np.maximum(values, floor)) @ vectors.T
    return Normal(mode, np.ones(dim), np.eye(dim), np.linalg.cholesky(0.5 * (covariance + covariance.T))), smallest


def along(paths: Paths, climber: int, *, memory: int = 6) -> list[Normal]:
    """The normal at each point that a climber passed, from the steps before it.

    References:
        Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder, algorithms 3 and 4, https://arxiv.org/abs/2108.03782
    """
    points, gradients = paths.points[:, climber], paths.gradients[:, climber]
    alpha = np.ones(points.shape[1])
    pairs: list[tuple[Array, Array]] = []
    normals = []
    for before, after in zip(range(len(points) - 1), range(1, len(points)), strict=True):
        s, y = points[after] - points[before], gradients[before] - gradients[after]
        curvature = float(s @ y)
        if not s.any() or not np.isfinite(y).all():
            break
        if curvature > 1e-12 * float(y @ y):
            alpha = _diagonal(alpha, s, y)
            pairs = [*pairs, (s, y)][-memory:]
        if (normal := _normal(points[after], gradients[after], alpha, pairs)) is not None:
            normals.append(normal)
    return normals


def _diagonal(alpha: Array, s: Array, y: Array) -> Array:
    """Update of the diagonal (Gilbert and Lemarechal, 1989)."""
    a, b, c = float(y @ (alpha * y)), float(y @ s), float(s @ (s / alpha))
    inverse = a / (b * alpha) + y**2 / b - a * s**2 / (b * c * alpha**2)
    return np.where(inverse > 0.0, 1.0 / np.where(inverse > 0.0, inverse, 1.0), alpha)


def _normal(point: Array, gradient: Array, alpha: Array, pairs: Sequence[tuple[Array, Array]]) -> Normal | None:
    dim = len(point)
    scale = np.sqrt(alpha)
    if not pairs:
        return Normal(point + alpha * gradient, scale, np.zeros((dim, 0)), np.zeros((0, 0)))
    S, Y = np.stack([s for s, _ in pairs], 1), np.stack([y for _, y in pairs], 1)
    product = S.T @ Y
    upper = np.triu(product)
    try:
        inverse = np.linalg.inv(upper)
        middle = inverse.T @ (np.diag(np.diagonal(product)) + Y.T @ (alpha[:, None] * Y)) @ inverse
        gamma = np.block([[np.zeros_like(upper), -inverse], [-inverse.T, middle]])
        beta = np.concatenate([alpha[:, None] * Y, S], 1)
        basis, triangle = np.linalg.qr(beta / scale[:, None])
        inner = np.eye(basis.shape[1]) + triangle @ gamma @ triangle.T
        root = np.linalg.cholesky(0.5 * (inner + inner.T))
    except np.linalg.LinAlgError:
        return None
    loc = point + alpha * gradient + beta @ (gamma @ (beta.T @ gradient))
    made = Normal(loc, scale, basis, root)
    return made if np.isfinite(loc).all() and np.isfinite(made.half_log_det) else None


def evaluated(target: Target) -> Evaluate:
    """The log density and gradient of points as arrays."""

    def evaluate(points: Array) -> tuple[Array, Array]:
        value, gradient = target.value_and_grad(torch.from_numpy(np.ascontiguousarray(points)))
        return value.double().numpy(), gradient.double().numpy()

    return evaluate


@dataclass(frozen=True)
class PathDraws:
    """The mixture of the paths' normals, and weighted draws of it.

    Args:
        normals: one per path.
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


def multipath(
    target: Target, start: Array, seed: np.random.SeedSequence, *, num_draws: int, elbo_draws: int, max_steps: int
) -> PathDraws:
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
    rows = np.array_split(np.arange(num_draws), len(normals))
    points = np.concatenate(
        [n.draw(drawing.standard_normal((len(own), target.dim))) for n, own in zip(normals, rows, strict=True)]
    )
    parts = np.stack(
        [n.log_prob(points) + math.log(len(own) / num_draws) for n, own in zip(normals, rows, strict=True) if len(own)]
    )
    log_p = target.log_density(torch.from_numpy(points)).double().numpy()
    return PathDraws(normals, elbos, points, np.logaddexp.reduce(parts, 0), log_p)


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


def resampled(paths: PathDraws, count: int, seed: np.random.SeedSequence) -> Array:
    """``count`` of the draws, in proportion to their Pareto-smoothed weights, in random order."""
    log_weights = paths.log_p - paths.log_q
    log_weights = np.where(np.isfinite(log_weights), log_weights, -np.inf)
    smoothed, _ = pareto_smooth(log_weights)
    rng = generator(seed)
    picked = systematic_resample(smoothed, count, rng)
    return np.asarray(paths.points[rng.permutation(picked)])
