"""Sliced Wasserstein distance: samples compared along random directions, where sorting is all it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import generator
from phlogiston.errors import SettingError, problem
from phlogiston.stats.divergence.points import two_samples
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]


def sliced_wasserstein(x: Any, y: Any, *, num_projections: int = 100, seed: int | None = None) -> Estimate:
    r"""Mean Wasserstein-1 distance of two samples along random directions.

    .. math:: \mathrm{SW}(x, y) = E_{\theta} \int_0^1 \big| F^{-1}_{\theta \cdot x}(u) - F^{-1}_{\theta \cdot y}(u)
        \big| \, du, \qquad \theta \sim \text{Uniform on the sphere}

    It is in units of the data. Samples of one distribution are some :math:`1/\sqrt N` of its spread apart. In one
    dimension there is one direction, and the distance is exact.

    Args:
        x: points ``[N, ...]``; what follows the first dimension is flattened.
        y: points ``[M, ...]`` of the same shape each.
        num_projections: directions.
        seed: of the directions.

    Returns:
        The mean, with its standard error over directions.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.
        SettingError: no direction.

    References:
        Rabin, Peyré, Delon and Bernot (2011), Wasserstein barycenter and its application to texture mixing,
        https://doi.org/10.1007/978-3-642-24785-9_37

    Example:
        >>> x = np.random.default_rng(0).normal(size=500)
        >>> round(ph.divergence.sliced_wasserstein(x, 3.0 + x).value, 6)
        3.0
    """
    if num_projections < 1:
        raise SettingError(problem("num_projections", found=repr(num_projections), expected="at least 1"))
    first, second = two_samples("sliced_wasserstein", x, y)
    directions = np.ones((1, 1)) if first.shape[1] == 1 else _directions(first.shape[1], num_projections, seed)
    return along(first, second, directions)


def _directions(dimension: int, count: int, seed: int | None) -> Array:
    directions = generator(seed).standard_normal((dimension, count))
    return np.asarray(directions / np.linalg.norm(directions, axis=0))


def along(x: Array, y: Array, directions: Array) -> Estimate:
    """Mean Wasserstein-1 distance along the columns of ``directions [D, K]``, with its standard error over them."""
    left, right = (np.sort(points @ directions, axis=0) for points in (x, y))
    if len(left) != len(right):
        ends = np.union1d(np.arange(1, len(left) + 1) / len(left), np.arange(1, len(right) + 1) / len(right))
        middles = ends - 0.5 * np.diff(ends, prepend=0.0)
        left, right = (part[np.minimum((middles * len(part)).astype(int), len(part) - 1)] for part in (left, right))
        distances = (np.diff(ends, prepend=0.0)[:, None] * np.abs(left - right)).sum(0)
    else:
        distances = np.abs(left - right).mean(0)
    error = float(distances.std(ddof=1)) / math.sqrt(distances.size) if distances.size > 1 else 0.0
    return Estimate(float(distances.mean()), error)
