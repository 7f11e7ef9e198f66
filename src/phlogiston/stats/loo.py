"""Leave-one-out cross-validation by Pareto-smoothed importance sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats.weights import khat_threshold, pareto_smooth

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Loo:
    """Expected log predictive density of unseen observations, estimated by leaving each one out.

    Args:
        elpd: the sum over observations, in nats.
        se: its standard error over observations.
        khat: Pareto k-hat of each observation; above the limit its term is not to be trusted.
        limit: that limit.
        pointwise: the term of each observation, which sum to ``elpd``.
    """

    elpd: float
    se: float
    khat: Array
    limit: float
    pointwise: Array

    def __str__(self) -> str:
        bad = int((self.khat > self.limit).sum())
        doubt = f", {bad} of {self.khat.size} observations have k-hat above {self.limit:.2f}" if bad else ""
        return f"elpd_loo = {self.elpd:.2f} ± {self.se:.2f}{doubt}"


def loo(log_likelihood: Array, log_weights: Array | None = None) -> Loo:
    r"""PSIS-LOO, :math:`\sum_i \log p(x_i \mid x_{-i})`.

    Args:
        log_likelihood: pointwise, ``[chain, draw, *observations]``.
        log_weights: of the draws, ``[chain, draw]``, where they are weighted.

    References:
        Vehtari, Gelman and Gabry (2017), https://arxiv.org/abs/1507.04544
    """
    draws = log_likelihood.reshape(-1, int(np.prod(log_likelihood.shape[2:], dtype=int)))
    base = np.zeros(draws.shape[0]) if log_weights is None else np.asarray(log_weights).reshape(-1)
    pointwise, khat = np.empty(draws.shape[1]), np.empty(draws.shape[1])
    # The posterior without observation i is the posterior with weights 1 / p(x_i | z). They are largest where x_i is
    # least likely, so that their tail may be too heavy for a mean, which k-hat measures (Vehtari, Gelman and Gabry,
    # 2017).
    for i in range(draws.shape[1]):
        smoothed, khat[i] = pareto_smooth(base - draws[:, i])
        pointwise[i] = np.logaddexp.reduce(smoothed + draws[:, i])
    # The error is that over new observations, not over draws: the terms are taken as independent.
    error = float(np.sqrt(pointwise.size * pointwise.var()))
    return Loo(float(pointwise.sum()), error, khat, khat_threshold(draws.shape[0]), pointwise)
