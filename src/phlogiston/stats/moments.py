"""Posterior moments with their Monte Carlo standard errors, for chains, independent draws and weighted draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats import arviz

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each component, with their standard errors; all of the site's shape."""

    mean: Array
    sd: Array
    mean_se: Array
    sd_se: Array


def standard_error(values: Array, weights: Array | None, *, chains: bool) -> Array:
    r"""Monte Carlo standard error of the mean of each component.

    Chains: :math:`\mathrm{sd}/\sqrt{\mathrm{ESS}}` with the ESS of the chain; independent draws:
    :math:`\mathrm{sd}/\sqrt{N}`; self-normalised weights: :math:`\sqrt{\sum_i w_i^2 (x_i - \bar x)^2}`.

    Args:
        values: ``[chain, draw, ...]``.
        weights: normalised, ``[chain, draw]``, or None.
        chains: whether successive draws depend on each other.
    """
    if weights is not None:
        w = _align(weights, values)
        mean = (w * values).sum((0, 1))
        return np.asarray(np.sqrt((np.square(w * (values - mean))).sum((0, 1))))
    if values.shape[0] * values.shape[1] == 1:
        return np.full(values.shape[2:], np.inf)
    sd = values.reshape(-1, *values.shape[2:]).std(0, ddof=1)
    if not chains:
        return np.asarray(sd / np.sqrt(values.shape[0] * values.shape[1]))
    size = arviz.ess(values, "mean") if values.shape[1] >= 4 else np.full(values.shape[2:], np.nan)
    return np.asarray(np.where(sd == 0.0, 0.0, sd / np.sqrt(size)))


def moments(values: Array, weights: Array | None = None, *, chains: bool) -> Moments:
    """Mean and standard deviation of each component of ``[chain, draw, ...]``, with their errors."""
    values = np.asarray(values, dtype=float)
    if weights is None:
        mean, sd = values.mean((0, 1)), values.reshape(-1, *values.shape[2:]).std(0)
    else:
        w = _align(weights, values)
        mean = (w * values).sum((0, 1))
        sd = np.sqrt((w * np.square(values - mean)).sum((0, 1)))
    mean_se = standard_error(values, weights, chains=chains)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance_se = standard_error(np.square(values - mean), weights, chains=chains)
        sd_se = np.where(sd > 0.0, variance_se / (2.0 * sd), 0.0)
    return Moments(np.asarray(mean), np.asarray(sd), mean_se, sd_se)


def quantiles(values: Array, probabilities: tuple[float, ...], weights: Array | None = None) -> Array:
    """Quantiles of each component, ``[len(probabilities), ...]``."""
    flat = np.asarray(values, dtype=float).reshape(-1, *values.shape[2:])
    if weights is None:
        return np.asarray(np.quantile(flat, probabilities, axis=0))
    w = np.asarray(weights).reshape(-1)
    order = np.argsort(flat, axis=0)
    cumulative = np.cumsum(w[order], axis=0)
    result = [
        np.take_along_axis(
            flat, np.take_along_axis(order, (cumulative < p).sum(0, keepdims=True).clip(max=len(w) - 1), 0), 0
        )[0]
        for p in probabilities
    ]
    return np.asarray(result)


def _align(weights: Array, values: Array) -> Array:
    return np.asarray(weights).reshape(*weights.shape, *(1,) * (values.ndim - 2))
