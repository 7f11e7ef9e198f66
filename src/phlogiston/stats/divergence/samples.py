"""Divergences between two samples: maximum mean discrepancy, and a classifier's accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import generator, one_thread, spawn
from phlogiston.errors import SettingError, problem
from phlogiston.stats.divergence.classifier import held_out_logits
from phlogiston.stats.divergence.points import FEWEST, Features, some, squared_distances, standardised, two_samples
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]

_BY_MEDIAN = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Mmd:
    """Squared maximum mean discrepancy between two samples.

    Args:
        squared: the unbiased estimate with its standard error; below zero where the samples agree by chance.
        p_value: fraction of random relabellings of the pooled points with a discrepancy at least as large.
        bandwidths: of the Gaussian kernels that were averaged.
        sizes: points of each sample that were used.
    """

    squared: Estimate
    p_value: float
    bandwidths: tuple[float, ...]
    sizes: tuple[int, int]

    def __str__(self) -> str:
        return f"MMD^2 = {self.squared}, p = {self.p_value:.3g}"


@dataclass(frozen=True)
class C2st:
    """Accuracy of a classifier that is asked which of two samples a point comes from; 0.5 where they agree.

    Args:
        accuracy: on points that the classifier has not seen, with its standard error.
        p_value: of an accuracy as high under equal distributions.
        loss: mean binary cross entropy on these points, in nats; log 2 where the samples agree.
        size: points of each sample that were used.
    """

    accuracy: Estimate
    p_value: float
    loss: float
    size: int

    def __str__(self) -> str:
        return f"C2ST accuracy = {self.accuracy}, p = {self.p_value:.3g}"


def mmd(
    x: Any,
    y: Any,
    *,
    bandwidths: Sequence[float] | None = None,
    num_permutations: int = 500,
    max_points: int = 2000,
    features: Features | None = None,
    seed: int | None = None,
) -> Mmd:
    r"""Squared maximum mean discrepancy, :math:`E k(x, x') + E k(y, y') - 2 E k(x, y)`, without bias.

    :math:`k` is the mean over bandwidths :math:`\ell` of :math:`\exp(-|x - y|^2 / 2 \ell^2)`. The p-value is that of
    a permutation test, exact whatever the distributions, for independent points.

    Args:
        x: points ``[N, ...]``; what follows the first dimension is flattened.
        y: points ``[M, ...]`` of the same shape each.
        bandwidths: by default 1/4 to 4 times the median distance of the pooled points.
        num_permutations: relabellings; the smallest p-value is one over one more than that.
        max_points: of each sample; of more, so many are picked at random.
        features: what is compared in place of the points: chunks of them, as tensors, to one row of any shape for each.
        seed: of the picks and the relabellings.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test,
        https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = mmd(rng.normal(0, 1, 500), rng.normal(1, 1, 500), bandwidths=[1.0], seed=0)
        >>> bool(abs(found.squared.value - 0.177268) < 4 * found.squared.se), found.p_value < 0.01
        (True, True)
    """
    if num_permutations < 1 or max_points < FEWEST:
        found = f"{num_permutations} permutations, {max_points} points"
        raise SettingError(problem("mmd", found=found, expected=f"at least 1 and {FEWEST}"))
    picking, labelling = spawn(seed, 2)
    x, y = two_samples("mmd", x, y, features)
    rng = generator(picking)
    x, y = some(x, max_points, rng), some(y, max_points, rng)
    pooled = np.concatenate([x, y])
    distances = squared_distances(pooled, pooled)
    chosen = _bandwidths(distances, bandwidths)
    kernel = np.zeros_like(distances)
    for width in chosen:
        kernel += np.exp(distances / (-2.0 * width**2)) / len(chosen)
    np.fill_diagonal(kernel, 0.0)
    n, m = len(x), len(y)
    first = _memberships(n, m, num_permutations, generator(labelling))
    values = _discrepancies(kernel, first, n, m)
    p_value = float((1 + (values[1:] >= values[0]).sum()) / (1 + num_permutations))
    return Mmd(Estimate(float(values[0]), jackknife_error(kernel, n)), p_value, chosen, (n, m))


def _bandwidths(distances: Array, given: Sequence[float] | None) -> tuple[float, ...]:
    if given is None:
        median = math.sqrt(max(float(np.median(distances[np.triu_indices(len(distances), 1)])), 1e-300))
        return tuple(factor * median for factor in _BY_MEDIAN)
    chosen = tuple(float(width) for width in given)
    if not chosen or not all(0.0 < width < math.inf for width in chosen):
        raise SettingError(problem("bandwidths", found=str(chosen), expected="numbers above zero"))
    return chosen


def _memberships(n: int, m: int, num_permutations: int, rng: np.random.Generator) -> Array:
    """Who belongs to the first sample, ``[N + M, columns]``: as it is, then relabelled at random."""
    first = np.zeros((n + m, 1 + num_permutations))
    first[:n, 0] = 1.0
    for column in range(1, 1 + num_permutations):
        first[rng.permutation(n + m)[:n], column] = 1.0
    return first


def _discrepancies(kernel: Array, first: Array, n: int, m: int) -> Array:
    """The statistic for each column of memberships ``[N + M, columns]``; the kernel's diagonal is zero."""
    with one_thread():
        reach = (torch.from_numpy(kernel) @ torch.from_numpy(first)).numpy()
    within = (first * reach).sum(0)
    to_first = reach.sum(0)
    across = to_first - within
    others = kernel.sum() - within - 2.0 * across
    return np.asarray(within / (n * (n - 1)) + others / (m * (m - 1)) - 2.0 * across / (n * m))


def jackknife_error(kernel: Array, n: int) -> float:
    """Standard error by the jackknife over the points of each sample, which sees both orders of a U-statistic."""
    m = kernel.shape[0] - n
    xx, yy, xy = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    total_x, total_y, total = xx.sum(), yy.sum(), xy.sum()
    of_x, of_y = total_x / (n * (n - 1)), total_y / (m * (m - 1))
    without_x = (total_x - 2.0 * xx.sum(1)) / ((n - 1) * (n - 2)) + of_y - 2.0 * (total - xy.sum(1)) / ((n - 1) * m)
    without_y = (total_y - 2.0 * yy.sum(1)) / ((m - 1) * (m - 2)) + of_x - 2.0 * (total - xy.sum(0)) / (n * (m - 1))
    return math.sqrt((n - 1) * without_x.var() + (m - 1) * without_y.var())


def c2st(
    x: Any,
    y: Any,
    *,
    folds: int = 5,
    max_points: int = 5000,
    features: Features | None = None,
    seed: int | None = None,
) -> C2st:
    r"""Classifier two-sample test: how often a network tells the samples apart, on points that it has not seen.

    Under equal distributions the number of right answers of ``2 n`` is binomial with one half; the p-value is
    :math:`1 - \Phi((a - 1/2) \sqrt{8 n})` for accuracy :math:`a`. Against N(0, 1), N(1, 1) has 0.6915 at best.

    Args:
        x: points ``[N, ...]``; what follows the first dimension is flattened.
        y: points ``[M, ...]`` of the same shape each. Of the larger sample, as many as the smaller has are picked.
        folds: parts of the data; each is judged by a network trained on the others.
        max_points: of each sample; of more, so many are picked at random.
        features: what is compared in place of the points: chunks of them, as tensors, to one row of any shape for each.
        seed: of picks, folds and networks.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.

    References:
        Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests, https://arxiv.org/abs/1610.06545

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = c2st(rng.normal(0, 1, 1000), rng.normal(1, 1, 1000), seed=0)
        >>> bool(abs(found.accuracy.value - 0.691462) < 4 * found.accuracy.se)
        True
    """
    picking, fitting = spawn(seed, 2)
    x, y = two_samples("c2st", x, y, features)
    size = min(len(x), len(y), max_points)
    if folds < 2 or size < folds:
        raise SettingError(problem("folds", found=f"{folds} for {size} points", expected="from 2 to as many as points"))
    rng = generator(picking)
    pooled = np.concatenate([some(x, size, rng), some(y, size, rng)])
    labels = np.repeat([0.0, 1.0], size)
    logits = held_out_logits(standardised(pooled), labels, folds, fitting)
    right = np.where(logits == 0.0, 0.5, (logits > 0.0) == (labels > 0.5))
    accuracy = float(right.mean())
    error = math.sqrt(max(accuracy * (1.0 - accuracy), 0.25 / (2 * size)) / (2 * size))
    p_value = 0.5 * math.erfc((accuracy - 0.5) * math.sqrt(8.0 * size) / math.sqrt(2.0))
    loss = float(np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits)).mean())
    return C2st(Estimate(accuracy, error), p_value, loss, size)
