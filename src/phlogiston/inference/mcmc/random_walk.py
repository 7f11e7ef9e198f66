"""What random walks have in common: the best size of their steps, their covariance, and the Metropolis test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def optimal_acceptance(dim: int) -> float:
    """Best acceptance rate of a random walk: 0.44 in one dimension, 0.234 in many (Roberts, Gelman and Gilks, 1997)."""
    return 0.234 + 0.206 / dim


def optimal_step(dim: int) -> float:
    """Best step of a random walk, in standard deviations of a normal target (Roberts, Gelman and Gilks, 1997)."""
    return 2.38 / math.sqrt(max(1, dim))


def acceptance(log_ratio: Array) -> Array:
    """The probability to accept, of the log ratio of densities less that of proposals; 0 where that is NaN."""
    return np.nan_to_num(np.exp(np.minimum(log_ratio, 0.0)), nan=0.0)


def root_of(values: Array) -> Array:
    """A root of the covariance of ``values [n, d]``, shrunk towards its diagonal by their number."""
    count, dim = values.shape
    covariance = np.atleast_2d(np.cov(values.T, bias=True))
    variances = np.diag(covariance).copy()
    variances[~(variances > 0.0)] = 1.0
    fraction = (5.0 * dim) / (count + 5.0 * dim) if dim > 1 else 0.0
    mixed = (1.0 - fraction) * covariance + fraction * np.diag(variances)
    mixed[range(dim), range(dim)] = variances * (1.0 + 1e-10)
    return np.linalg.cholesky(mixed)


def new_stats(chains: int, count: int) -> dict[str, Array]:
    """Arrays for the statistics of ``count`` draws of each chain."""
    shape = (chains, count)
    return {
        "lp": np.empty(shape),
        "acceptance_rate": np.empty(shape),
        "accepted": np.zeros(shape, bool),
        "num_nan": np.zeros(shape, np.int64),
    }
