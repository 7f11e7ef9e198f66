"""Divergences between two samples by way of the ratio of their densities, which a classifier learns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import SettingError, WeightWarning, problem, warn
from phlogiston.stats.divergence.classifier import held_out_logits
from phlogiston.stats.divergence.points import Features, some, standardised, two_samples
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class DensityRatio:
    """Divergences of the first sample's distribution p from the second's q, in nats, with bootstrap errors.

    Args:
        kl: KL[p, q].
        reverse_kl: KL[q, p].
        js: Jensen-Shannon, at most log 2.
        intervals: "kl", "reverse_kl" and "js" -> the 95 % bootstrap interval.
        log_ratio: log p - log q at the points that were used, by networks that have not seen them, ``[2, n]``:
            those of the first sample, then those of the second.
    """

    kl: Estimate
    reverse_kl: Estimate
    js: Estimate
    intervals: dict[str, Interval]
    log_ratio: Array

    def __str__(self) -> str:
        return f"KL = {self.kl}, reverse KL = {self.reverse_kl}, JS = {self.js}"


def density_ratio(
    x: Any,
    y: Any,
    *,
    folds: int = 5,
    num_resamples: int = 500,
    max_points: int = 5000,
    features: Features | None = None,
    seed: int | None = None,
) -> DensityRatio:
    r"""KL both ways and Jensen-Shannon divergence between samples, from a cross-fitted classifier.

    The log odds :math:`T` of a classifier between samples of one size estimate :math:`\log p - \log q`, and the
    divergences are read off as the bounds that the true ratio attains,

    .. math:: \mathrm{KL}[p, q] \ge E_p[T] - \log E_q[e^T], \qquad
        \mathrm{JS}[p, q] \ge \log 2 + \tfrac12 E_p[\log\sigma(T)] + \tfrac12 E_q[\log\sigma(-T)],

    on points that the classifier has not seen. An error in :math:`T` enters squared, so it hardly shows where there are
    thousands of points; but it always lowers the result, and the interval knows of the points only, not of that.
    Where samples hardly overlap, KL rests on few points and is far too small: JS near log 2 says so.

    Args:
        x: points ``[N, ...]`` of p; what follows the first dimension is flattened.
        y: points ``[M, ...]`` of q, shaped alike. Of the larger sample, as many as the smaller has are picked.
        folds: parts of the data; each is judged by a network trained on the others.
        num_resamples: of the bootstrap, over points.
        max_points: of each sample; of more, so many are picked at random.
        features: what is compared in place of the points: chunks of them, as tensors, to one row of any shape for each.
        seed: of picks, networks and bootstrap.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.
        SettingError: fewer than two folds or resamples, or more folds than points.

    References:
        Sugiyama, Suzuki and Kanamori (2012), Density ratio estimation in machine learning.
        https://doi.org/10.1017/CBO9781139035613
        Belghazi et al. (2018), Mutual information neural estimation. https://arxiv.org/abs/1801.04062

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = density_ratio(rng.normal(0, 1, 1000), rng.normal(1, 1, 1000), seed=0)
        >>> bool(abs(found.kl.value - 0.5) < 4 * found.kl.se), bool(abs(found.js.value - 0.1114) < 4 * found.js.se)
        (True, True)
    """
    if num_resamples < 2:
        raise SettingError(problem("num_resamples", found=repr(num_resamples), expected="at least 2"))
    picking, fitting, resampling = spawn(seed, 3)
    x, y = two_samples("density_ratio", x, y, features)
    size = min(len(x), len(y), max_points)
    if folds < 2 or size < folds:
        raise SettingError(problem("folds", found=f"{folds} for {size} points", expected="from 2 to as many as points"))
    rng = generator(picking)
    pooled = np.concatenate([some(x, size, rng), some(y, size, rng)])
    logits = held_out_logits(standardised(pooled), np.repeat([0.0, 1.0], size), folds, fitting)
    ratio = _with_bootstrap(-logits[:size], -logits[size:], num_resamples, generator(resampling))
    _warn_below_zero(ratio.js, x.shape[1])
    return ratio


def _warn_below_zero(js: Estimate, dims: int) -> None:
    """Say so where the networks do worse on points that they have not seen than knowing nothing would."""
    if js.value > -0.05 or js.value > -2.0 * js.se:
        return
    warn(
        problem(
            "density_ratio",
            found=f"JS = {js} in {dims} dimensions, a divergence below zero",
            expected="more points, fewer dimensions, or samples that are independent of one another",
            fix="features=... of fewer dimensions, or divergence.mmd(x, y)",
        ),
        WeightWarning,
    )


def _with_bootstrap(of_x: Array, of_y: Array, num_resamples: int, rng: np.random.Generator) -> DensityRatio:
    """Divergences with bootstrap errors, from log ratios at points of both."""
    rows = rng.integers(0, of_x.size, (num_resamples, 2, of_x.size))
    again = np.stack([_divergences(of_x[first], of_y[second]) for first, second in rows])
    divergences, errors, ends = _divergences(of_x, of_y), again.std(0), np.quantile(again, [0.025, 0.975], 0)
    kl, reverse, js = (Estimate(float(value), float(se)) for value, se in zip(divergences, errors, strict=True))
    intervals = {name: (float(ends[0, i]), float(ends[1, i])) for i, name in enumerate(("kl", "reverse_kl", "js"))}
    return DensityRatio(kl, reverse, js, intervals, np.stack([of_x, of_y]))


def _divergences(of_x: Array, of_y: Array) -> Array:
    """KL, reverse KL and Jensen-Shannon divergence from log ratios at points of both."""
    kl = of_x.mean() - _log_mean_exp(of_y)
    reverse = -of_y.mean() - _log_mean_exp(-of_x)
    js = math.log(2.0) - 0.5 * (np.logaddexp(0.0, -of_x).mean() + np.logaddexp(0.0, of_y).mean())
    return np.array([kl, reverse, js])


def _log_mean_exp(values: Array) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).mean()))
