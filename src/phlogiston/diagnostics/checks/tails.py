"""Whether the means of draws can exist, by the tails of the draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.labels import Labels, component
from phlogiston.posterior.verdict import Check, Finding, failed, skipped
from phlogiston.stats.convergence import SCREENED
from phlogiston.stats.tails import FEWEST, mean_limit, tail_shape
from phlogiston.stats.weights import khat_threshold, pareto_smooth

Array = NDArray[np.float64]


def check_tails(
    draws: Mapping[str, Array],
    weights: Array | None,
    labels: Labels,
    *,
    observed: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Check:
    """Whether the tail of any component is so heavy that its mean has no finite error, or does not exist.

    Args:
        draws: site -> ``[chain, draw, ...]``.
        weights: normalised weights ``[chain, draw]``, or None.
        labels: what components are called.
        observed: site -> entries that are data, which are left out.
    """
    name = "tails of the draws"
    flat_weights = None if weights is None else weights.reshape(-1).astype(float)
    chains, rows = next(iter(draws.values())).shape[:2]
    size = chains * rows
    if size < FEWEST:
        return skipped(name, f"{size} draws are too few")
    if flat_weights is not None:
        with np.errstate(divide="ignore"):
            khat = pareto_smooth(np.log(flat_weights))[1]
        if khat > khat_threshold(size):  # the tail of the weights would be taken for that of the draws
            return skipped(name, f"the weights have a heavy tail themselves, k-hat {khat:.2f}")
    worst, place = -np.inf, ""
    for site, values in draws.items():
        flat = values.reshape(size, -1).astype(float)
        if observed and site in observed:
            flat = flat[:, ~observed[site].reshape(-1)]
        for i in _longest(flat):
            if (shape := tail_shape(flat[:, i], flat_weights)) > worst:
                worst, place = shape, component(site, values.shape[2:], int(i), labels)
    limit = mean_limit(size)
    if worst <= limit:
        outcome = f"Pareto shape at most {worst:.2f}, of {place}, limit {limit:.2f}"
        return Check(name, outcome if place else "no tail")
    finding = Finding(
        f"the draws of {place} have a tail of Pareto shape {worst:.2f} (limit {limit:.2f})",
        "report medians and quantiles instead of means, or choose priors with lighter tails",
        number=worst,
        threshold=limit,
        site=place,
        meaning="The mean of such a distribution has no finite Monte Carlo error, and from a shape of 1 on it does not "
        "exist: the printed mean is an accident of the largest draws. Quantiles and probabilities are not affected.",
    )
    return failed(name, finding)


def _longest(flat: Array) -> NDArray[np.int64]:
    """The components of ``[N, k]`` whose largest deviation is largest relative to their bulk."""
    if flat.shape[1] <= SCREENED:
        return np.arange(flat.shape[1])
    low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.nan_to_num(np.abs(flat - middle).max(0) / (high - low), nan=0.0)
    return np.argsort(-reach, kind="stable")[:SCREENED]
