"""Ranks of true values among posterior draws: are they uniform, and what does it mean if they are not?"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = Literal["uniform", "over-confident", "under-confident", "biased low", "biased high", "not uniform"]

MEANING: dict[Shape, str] = {
    "uniform": "ranks are uniform, as those of the exact posterior are",
    "over-confident": "too many true values in the tails (a U): the posterior is too narrow",
    "under-confident": "too many true values in the middle (a hump): the posterior is too wide",
    "biased low": "true values lie above the draws (a slope to the right): the posterior is too far to the left",
    "biased high": "true values lie below the draws (a slope to the left): the posterior is too far to the right",
    "not uniform": "ranks are uneven, though neither shifted nor too narrow or wide: the posterior has a wrong shape",
}
_LEVEL = 0.01
_BAND_SETS, _BAND_POINTS = 2000, 100


def fractional_ranks(truth: Array, draws: Array, rng: np.random.Generator) -> Array:
    r"""The rank of each true value among its draws, as a fraction of all ranks and randomised within it.

    .. math:: u = \frac{\#\{z_l < z\} + V + U}{L + 1}, \qquad V \sim \mathrm{Uniform}\{0, \dots, \#\{z_l = z\}\},
        \quad U \sim \mathrm{Uniform}(0, 1)

    It is uniform on [0, 1] for exact posterior draws, for any L and for discrete values as well.

    Args:
        truth: ``[K]``.
        draws: ``[L, K]``.
        rng: breaks ties.

    References:
        Talts et al. (2018), https://arxiv.org/abs/1804.06788; Modrak et al. (2023), https://arxiv.org/abs/2211.02383

    Example:
        >>> u = fractional_ranks(np.array([0.5]), np.array([[0.0], [1.0], [2.0]]), np.random.default_rng(0))
        >>> bool(0.25 <= u[0] <= 0.5)
        True
    """
    below, level = (draws < truth).sum(0), (draws == truth).sum(0)
    among = rng.integers(0, level, endpoint=True)
    return np.asarray((below + among + rng.random(truth.shape)) / (len(draws) + 1.0))


def chi_square(u: Array, bins: int) -> float:
    """P-value of Pearson's test that fractions ``u [S]`` fall into equal bins equally often."""
    expected = u.size / bins
    counts = np.bincount(np.minimum((u * bins).astype(int), bins - 1), minlength=bins)
    statistic = float(np.square(counts - expected).sum() / expected)
    return float(torch.special.gammaincc(torch.tensor(0.5 * (bins - 1.0)), torch.tensor(0.5 * statistic)))


def bins_for(simulations: int) -> int:
    """Bins with ten simulations each or more: from 2 to 20."""
    return max(2, min(20, simulations // 10))


@dataclass(frozen=True)
class Uniformity:
    """Tests of one quantity's ranks.

    Args:
        chi_square: p-value over all bins.
        bias: z-score of the mean; positive where true values lie above the draws.
        spread: z-score of the mean squared distance from one half; positive where true values lie in the tails.
    """

    chi_square: float
    bias: float
    spread: float

    @property
    def p_value(self) -> float:
        """The smallest of the three p-values, times three."""
        return min(1.0, 3.0 * min(self.chi_square, _two_sided(self.bias), _two_sided(self.spread)))

    def shape(self, quantities: int = 1) -> Shape:
        """What the ranks look like, at the level 0.01 over so many quantities."""
        if self.p_value >= _LEVEL / quantities:
            return "uniform"
        if max(abs(self.bias), abs(self.spread)) < 3.0:
            return "not uniform"
        if abs(self.bias) > abs(self.spread):
            return "biased low" if self.bias > 0 else "biased high"
        return "over-confident" if self.spread > 0 else "under-confident"


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2.0))


def uniformity(u: Array, bins: int) -> Uniformity:
    """Test fractional ranks ``[S]`` of one quantity."""
    root = math.sqrt(u.size)
    bias = float((u - 0.5).mean()) * math.sqrt(12.0) * root
    spread = (float(np.square(u - 0.5).mean()) - 1.0 / 12.0) * math.sqrt(180.0) * root
    return Uniformity(chi_square(u, bins), bias, spread)


@functools.lru_cache(maxsize=32)
def ecdf_band(simulations: int, level: float = 0.95) -> tuple[Array, Array, Array]:
    r"""Where the ECDF of uniform ranks stays, at all points at once, with probability ``level``.

    Pointwise binomial intervals whose coverage :math:`\gamma` is such that all hold together: the
    :math:`1 - \mathrm{level}` quantile of the smallest two-sided tail over the points, by simulation.

    Returns:
        points ``[K]``, and the band's lower and upper ends there, as differences from the uniform.

    References:
        Sailynoja, Burkner and Vehtari (2022), https://arxiv.org/abs/2103.10522
    """
    points = np.arange(1, _BAND_POINTS) / _BAND_POINTS
    cdf = _binomial_cdf(simulations, points)
    rng = np.random.default_rng(20220101)
    smallest = np.empty(_BAND_SETS)
    columns = np.arange(points.size)
    for i in range(_BAND_SETS):
        counts = np.searchsorted(np.sort(rng.random(simulations)), points, side="right")
        under = cdf[counts, columns]
        over = 1.0 - np.where(counts > 0, cdf[np.maximum(counts - 1, 0), columns], 0.0)
        smallest[i] = np.minimum(1.0, 2.0 * np.minimum(under, over)).min()
    gamma = float(np.quantile(smallest, 1.0 - level))
    lower = (cdf < 0.5 * gamma).sum(0) / simulations
    upper = (cdf < 1.0 - 0.5 * gamma).sum(0) / simulations
    return points, lower - points, upper - points


def _binomial_cdf(n: int, points: Array) -> Array:
    """``[n + 1, K]``: P(count <= i) of n trials at each probability."""
    k = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    choose = logs[n] - logs - logs[::-1]
    mass = np.exp(choose[:, None] + k[:, None] * np.log(points) + (n - k)[:, None] * np.log1p(-points))
    return np.asarray(np.minimum(np.cumsum(mass, 0), 1.0))


def outside_band(u: Array) -> bool:
    """Whether the ECDF of ``u [S]`` leaves its simultaneous 95 % band."""
    points, lower, upper = ecdf_band(u.size)
    difference = np.searchsorted(np.sort(u), points, side="right") / u.size - points
    return bool(((difference < lower - 1e-12) | (difference > upper + 1e-12)).any())


def central_coverage(u: Array, level: float) -> tuple[float, float]:
    """Fraction of true values within the central interval of a level, with its standard error."""
    fraction = float((np.abs(u - 0.5) <= 0.5 * level).mean())
    return fraction, math.sqrt(level * (1.0 - level) / u.size)
