"""Precision and recall of draws against data, from nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import SettingError, problem
from phlogiston.stats.divergence.points import Features, blocks, two_samples
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]
_SAME = 1e-12  # of the largest squared norm: what distances of equal points come to by rounding


@dataclass(frozen=True)
class Fidelity:
    """How much of the draws looks like data, and of how much of the data there are draws.

    Standard errors are those of a mean over points, the balls around the other sample taken as they are.

    Args:
        precision: fraction of draws within a ball of the data.
        recall: fraction of data within a ball of the draws.
        density: balls of the data that a draw lies in, over k; one on average where the distributions agree.
        coverage: fraction of the data whose ball holds a draw.
        neighbours: k.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    neighbours: int

    def __str__(self) -> str:
        parts = (self.precision, self.recall, self.density, self.coverage)
        shown = ", ".join(f"{name} {float(v.value):.3f}" for name, v in zip(_NAMES, parts, strict=True))
        return f"{shown} (k = {self.neighbours})"


_NAMES = ("precision", "recall", "density", "coverage")


def fidelity(data: Any, draws: Any, *, neighbours: int = 5, features: Features | None = None) -> Fidelity:
    r"""Precision and recall, density and coverage of draws, from balls that reach to each point's k-th neighbour.

    With :math:`B(x)` the ball around :math:`x` that reaches to its k-th neighbour among its own sample:

    .. math:: \mathrm{precision} = \Pr_y\big[y \in \cup_i B(x_i)\big], \quad
        \mathrm{density} = \tfrac1k E_y \textstyle\sum_i 1[y \in B(x_i)], \quad
        \mathrm{coverage} = \Pr_i\big[\exists\, y \in B(x_i)\big]

    and recall is precision with the samples exchanged. For N data and as many draws of the same distribution, density
    is one and coverage :math:`1 - \prod_{j=0}^{k-1} \frac{N-1-j}{2N-1-j} \approx 1 - 2^{-k}` on average.

    Args:
        data: points ``[N, ...]``; what follows the first dimension is flattened.
        draws: points ``[M, ...]`` of the same shape each.
        neighbours: k.
        features: what is compared in place of the points: chunks of them, as tensors, to one row of any shape for each.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight.
        SettingError: k is not below the number of points.

    References:
        Kynkäänniemi, Karras, Laine, Lehtinen and Aila (2019), https://arxiv.org/abs/1904.06991
        Naeem, Oh, Uh, Choi and Yoo (2020), Reliable fidelity and diversity metrics, https://arxiv.org/abs/2002.09797

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = fidelity(rng.normal(0, 1, (400, 2)), rng.normal(0, 0.1, (400, 2)))
        >>> found.precision.value > 0.95, found.coverage.value < 0.5
        (True, True)
    """
    data, draws = two_samples("fidelity", data, draws, features)
    most = min(len(data), len(draws)) - 1
    if isinstance(neighbours, bool) or not 0 < neighbours <= most:
        raise SettingError(problem("neighbours", found=repr(neighbours), expected=f"from 1 to {most}"))
    middle = data.mean(0)
    data, draws = data - middle, draws - middle
    slack = _SAME * max(np.square(data).sum(1).max(), np.square(draws).sum(1).max())
    of_data, of_draws = (_reach(points, neighbours) + slack for points in (data, draws))
    balls, covered, recalled = np.zeros(len(draws)), np.zeros(len(data), dtype=bool), np.zeros(len(data), dtype=bool)
    for rows, distances in blocks(data, draws):
        inside = distances <= of_data[rows, None]
        balls += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (distances <= of_draws[None]).any(1)
    return Fidelity(_mean(balls > 0), _mean(recalled), _mean(balls / neighbours), _mean(covered), neighbours)


def _reach(points: Array, neighbours: int) -> Array:
    """The squared distance of each point to its k-th neighbour."""
    radii = np.empty(len(points))
    for rows, distances in blocks(points, points):
        np.put_along_axis(distances, np.arange(rows.start, rows.stop)[:, None], -1.0, 1)  # itself comes first
        radii[rows] = np.partition(distances, neighbours, 1)[:, neighbours]
    return radii


def _mean(values: NDArray[Any]) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))
