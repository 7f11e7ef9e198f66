"""How heavy the tails of draws are, which decides whether a mean exists."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats.moments import quantiles
from phlogiston.stats.weights import pareto_smooth

Array = NDArray[np.float64]

MEAN_LIMIT = 0.7  # a mean over draws with a heavier tail converges too slowly to be of use; at 1 there is none
HEAVY_AT_THE_END = 0.3
FEWEST = 200
_LARGEST = 160


def mean_limit(num_draws: int) -> float:
    r"""The shape above which the mean of ``num_draws`` draws is not to be believed.

    It is 0.7, and one standard error of a shape of 1, :math:`2 / \sqrt M`, which was fitted to the largest
    :math:`M = 3 \sqrt N` draws.

    Example:
        >>> round(mean_limit(4000), 2)
        0.85
    """
    return MEAN_LIMIT + 2.0 / math.sqrt(3.0 * math.sqrt(num_draws))


def tail_shape(values: Array, weights: Array | None = None) -> float:
    r"""The shape of the generalised Pareto distribution that fits the heavier of the two tails of draws.

    Moments of order :math:`r` exist where the shape is below :math:`1 / r`: a mean below 1, a variance below 1/2.

    Args:
        values: ``[N]``.
        weights: normalised weights of the draws, ``[N]``, or None.

    Returns:
        the shape; -inf where there are too few draws or too few different values to fit one.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
        https://arxiv.org/abs/1507.02646

    Example:
        >>> rng = np.random.default_rng(0)
        >>> tail_shape(rng.standard_normal(4000)) < 0.1, tail_shape(rng.standard_cauchy(4000)) > 0.7
        (True, True)
    """
    # The logs of the distances from the median are given to Pareto smoothing in place of log weights; the median exists
    # where a mean may not. Weighted draws have the mean sum w x, so that the tail of w x is the one that matters.
    if values.size < FEWEST or not np.isfinite(values).all():
        return -np.inf
    row = None if weights is None else weights[None]
    centred = values - quantiles(values[None], (0.5,), row)[0]
    with np.errstate(divide="ignore"):
        base = 0.0 if weights is None else np.log(np.maximum(weights, np.finfo(float).tiny))
        sides = [np.log(np.maximum(side, np.finfo(float).tiny)) + base for side in (centred, -centred)]
    return max(_shape(side) for side in sides)


def _shape(logs: Array) -> float:
    """The shape of one tail.

    A small mode far away looks like a heavy tail, as it leaves a gap within the tail. Beyond the gap it falls like
    the mode, so the largest values alone must be heavy too.
    """
    whole = pareto_smooth(logs)[1]
    end = pareto_smooth(np.sort(logs)[-_LARGEST:])[1]
    return whole if np.isfinite(whole) and (whole <= MEAN_LIMIT or end > HEAVY_AT_THE_END) else min(end, MEAN_LIMIT)
