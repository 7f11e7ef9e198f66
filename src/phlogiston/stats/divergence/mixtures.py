"""How many components of a known mixture a sample reaches, and how much of it lies in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import SettingError, problem
from phlogiston.stats.divergence.points import array_of
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Modes:
    """A sample against a mixture of equal, isotropic components.

    Args:
        captured: components with at least one point of high quality.
        total: components.
        high_quality: fraction of points within the radius of a centre, with its standard error.
        reverse_kl: of the fractions of points that are nearest to each centre from equal fractions, in nats.
        counts: points of high quality at each centre.
    """

    captured: int
    total: int
    high_quality: Estimate
    reverse_kl: float
    counts: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.captured}/{self.total} modes, high quality = {self.high_quality}"


def modes(x: Any, centres: Any, *, sd: float, radius: float = 3.0) -> Modes:
    r"""Components captured by a sample, and its fraction of points within ``radius`` standard deviations of a centre.

    The mixture itself scores :math:`P(\chi^2_D \le r^2)`, 0.98889 for :math:`D = 2` and :math:`r = 3`.

    Args:
        x: points ``[N, D]``.
        centres: of the components, ``[K, D]``.
        sd: of each component, along each dimension.
        radius: in standard deviations.

    Returns:
        Counts, the fraction with its binomial error, and :math:`\sum_k q_k \log(K q_k)` for nearest-centre fractions
        :math:`q`.

    Raises:
        ValueError: points or centres are not finite, or differ in their dimension.
        SettingError: ``sd`` or ``radius`` is not above zero.

    References:
        Lin, Khetan, Fanti and Oh (2018), PacGAN, https://arxiv.org/abs/1712.04086

    Example:
        >>> found = modes([[0.0, 0.1], [5.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [5.0, 0.0], [9.0, 0.0]], sd=0.1)
        >>> found.captured, found.counts, round(found.high_quality.value, 4)
        (2, (1, 1, 0), 0.6667)
    """
    lengths: tuple[Any, ...] = (sd, radius)
    if not all(isinstance(v, Real) and 0.0 < float(v) < math.inf for v in lengths):
        raise SettingError(problem("modes", found=f"sd={sd}, radius={radius}", expected="numbers above zero"))
    points, middles = _points("x", x), _points("centres", centres)
    if points.shape[1] != middles.shape[1]:
        found = f"points of {points.shape[1]} dimensions and centres of {middles.shape[1]}"
        raise ValueError(problem("modes", found=found, expected="one dimension"))
    if len(np.unique(middles, axis=0)) < len(middles):
        raise ValueError(problem("modes(centres)", found="a centre that is there twice", expected="one for each mode"))
    squared = np.stack([np.square(points - middle).sum(1) for middle in middles], 1)
    nearest = squared.argmin(1)
    good = squared.min(1) <= (radius * sd) ** 2
    total = len(middles)
    counts = np.bincount(nearest[good], minlength=total)
    fraction = float(good.mean())
    q = np.bincount(nearest, minlength=total) / len(points)
    reverse = float((q[q > 0.0] * np.log(total * q[q > 0.0])).sum())
    error = math.sqrt(fraction * (1.0 - fraction) / len(points))
    return Modes(int((counts > 0).sum()), total, Estimate(fraction, error), reverse, tuple(int(c) for c in counts))


def _points(name: str, given: Any) -> Array:
    array = array_of(given, f"modes({name})")
    if array.ndim != 2 or not array.size:
        raise ValueError(problem(f"modes({name})", found=f"shape {array.shape}", expected="[number, dimension]"))
    bad = int((~np.isfinite(array)).sum())
    if bad:
        found = f"{bad} of {array.size} numbers that are NaN or infinite"
        raise ValueError(problem(f"modes({name})", found=found, expected="finite numbers"))
    return array
