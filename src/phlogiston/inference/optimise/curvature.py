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
from numpy.typing import NDArray

from phlogiston.inference.optimise.lbfgs import Evaluate, Paths

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
        """Of the covariance."""
        return float(np.log(self.scale).sum() + np.log(np.diagonal(self.root)).sum())

    def draw(self, noise: Array) -> Array:
        """Standard normal numbers ``[N, D]`` -> points ``[N, D]``."""
        inner = noise @ self.basis
        bent = noise + (inner @ self.root.T - inner) @ self.basis.T
        return np.asarray(self.loc + self.scale * bent)

    def log_prob(self, points: Array) -> Array:
        """``[N, D]`` -> ``[N]``."""
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
    found = []
    for before, after in zip(range(len(points) - 1), range(1, len(points)), strict=True):
        s, y = points[after] - points[before], gradients[before] - gradients[after]
        curvature = float(s @ y)
        if not s.any() or not np.isfinite(y).all():
            break
        if curvature > 1e-12 * float(y @ y):
            alpha = _diagonal(alpha, s, y)
            pairs = [*pairs, (s, y)][-memory:]
        if (normal := _normal(points[after], gradients[after], alpha, pairs)) is not None:
            found.append(normal)
    return found


def _diagonal(alpha: Array, s: Array, y: Array) -> Array:
    """The diagonal's own update (Gilbert and Lemarechal, 1989)."""
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
