"""Distances between the moments of two samples, in any feature space: Fréchet's, and a kernel's of degree three."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import generator, seed_sequence
from phlogiston.errors import SettingError, WeightWarning, problem, warn
from phlogiston.stats.divergence.points import FEWEST, Features, some, two_samples
from phlogiston.stats.divergence.samples import jackknife_error
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]


def frechet(x: Any, y: Any, *, features: Features | None = None) -> float:
    r"""Squared Fréchet distance between the normals with the samples' moments (of Inception features: the FID).

    .. math:: |\mu_x - \mu_y|^2 + \mathrm{tr}\,\Sigma_x + \mathrm{tr}\,\Sigma_y
        - 2\,\mathrm{tr}\,\big(\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2}\big)^{1/2}

    Both roots are of symmetric matrices, by eigenvalues in float64: real and at least zero whatever the ranks. It is
    too large on average, by about :math:`\mathrm{tr}\,\Sigma\,(1/N + 1/M)` and more where D nears N: compare distances
    between samples of one size only.

    Args:
        x: points ``[N, ...]``; what follows the first dimension is flattened.
        y: points ``[M, ...]`` of the same shape each.
        features: what is compared in place of the points: chunks of them, as tensors, to one row of any shape for each.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.

    Warns:
        WeightWarning: there are no more points than dimensions, so that covariances have not full rank.

    References:
        Dowson and Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X; Heusel, Ramsauer, Unterthiner, Nessler
        and Hochreiter (2017), https://arxiv.org/abs/1706.08500

    Example:
        >>> rng = np.random.default_rng(0)
        >>> bool(abs(frechet(rng.normal(0, 1, 20_000), rng.normal(3, 2, 20_000)) - 10.0) < 0.3)
        True
    """
    x, y = two_samples("frechet", x, y, features)
    dims, fewest = x.shape[1], min(len(x), len(y))
    if fewest <= dims:
        warn(
            problem(
                "frechet",
                found=f"{fewest} points of {dims} dimensions, whose covariance has not full rank",
                expected="more points than dimensions, as the distance depends on how many there are",
                fix="divergence.kid(x, y)",
            ),
            WeightWarning,
        )
    first, second = (np.atleast_2d(np.cov(points, rowvar=False)) for points in (x, y))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second @ root)
    apart = float(np.square(x.mean(0) - y.mean(0)).sum())
    distance = apart + np.trace(first) + np.trace(second) - 2.0 * np.sqrt(np.maximum(inner, 0.0)).sum()
    return max(0.0, float(distance))


def kid(
    x: Any, y: Any, *, max_points: int = 2000, features: Features | None = None, seed: int | None = None
) -> Estimate:
    r"""Kernel distance: unbiased squared MMD under :math:`k(a, b) = (a \cdot b / D + 1)^3` (on Inception: KID).

    It sees how the first three moments differ. Its mean is zero where distributions agree, whatever the number of
    points, so that it may be negative.

    Args:
        x: points ``[N, ...]``; what follows the first dimension is flattened.
        y: points ``[M, ...]`` of the same shape each.
        max_points: of each sample; of more, so many are picked at random.
        features: what is compared in place of the points: chunks of them, as tensors, to one row of any shape for each.
        seed: of the picks.

    Returns:
        the estimate with its jackknife error, which is up to 1.4 times too large where the distributions agree.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.

    References:
        Bińkowski, Sutherland, Arbel and Gretton (2018), Demystifying MMD GANs, https://arxiv.org/abs/1801.01401

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = kid(rng.normal(0, 1, (500, 2)), rng.normal(0, 1, (500, 2)))
        >>> bool(abs(found.value) < 4 * found.se)
        True
    """
    if max_points < FEWEST:
        raise SettingError(problem("max_points", found=repr(max_points), expected=f"at least {FEWEST}"))
    x, y = two_samples("kid", x, y, features)
    rng = generator(seed_sequence(seed))
    pooled = np.concatenate([some(x, max_points, rng), some(y, max_points, rng)])
    n = min(len(x), max_points)
    m = len(pooled) - n
    kernel = (pooled @ pooled.T / pooled.shape[1] + 1.0) ** 3
    np.fill_diagonal(kernel, 0.0)
    within = kernel[:n, :n].sum() / (n * (n - 1)) + kernel[n:, n:].sum() / (m * (m - 1))
    return Estimate(float(within - 2.0 * kernel[:n, n:].mean()), jackknife_error(kernel, n))
