"""Whether the data put a latent where its prior says it cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.labels import Labels, component
from phlogiston.posterior.verdict import Check, Finding, failed

Array = NDArray[np.float64]

CONFLICT = 0.01
_NEIGHBOURS = 20
_MOST = 200


def check_conflict(prior: Mapping[str, Array], posterior: Mapping[str, Array], labels: Labels) -> Check:
    r"""Whether a posterior median lies where the prior has next to no density.

    For each component, the share of prior draws whose density is lower than that at the posterior median (a highest-
    density tail probability, with the density by nearest neighbours) must not fall below 0.01 over the number of
    components.

    Args:
        prior: continuous site -> prior draws ``[n, ...]``.
        posterior: continuous site -> posterior medians of the same shape.
        labels: what components are called.

    References:
        Evans and Moshonov (2006), Checking for prior-data conflict, https://doi.org/10.1214/06-BA129
    """
    name = "prior and data"
    total = min(sum(values[0].size for values in prior.values()), _MOST)
    worst, place, count = 1.0, "", next(iter(prior.values())).shape[0]
    for site, values in prior.items():
        flat, medians = values.reshape(count, -1), posterior[site].reshape(-1)
        for i in range(min(flat.shape[1], _MOST)):
            share = _tail(np.sort(flat[:, i]), float(medians[i]))
            if share < worst:
                worst, place = share, component(site, values.shape[1:], i, labels)
    limit = max(CONFLICT / max(total, 1), 1.5 / count)
    if worst >= limit:
        return Check(name, f"every posterior median within its prior (tail at least {worst:.2g}, limit {limit:.2g})")
    finding = Finding(
        f"the data put {place} where its prior has next to nothing (tail probability {worst:.1g}, limit {limit:.1g})",
        "ask whether the prior, the units of the data, or the likelihood is wrong; post.predict(prior=True) shows it",
        number=worst,
        threshold=limit,
        site=place,
        meaning="Prior and data contradict each other; the posterior is a compromise that neither of them supports.",
    )
    return failed(name, finding)


def _tail(prior: Array, value: float) -> float:
    """Share of sorted prior draws at which the prior is less dense than at a value."""
    if not np.isfinite(prior).all() or prior[0] == prior[-1]:
        return 1.0
    k = min(_NEIGHBOURS, prior.size // 4)
    return float((_radius(prior, prior, k + 1) > _radius(prior, np.array([value]), k)[0]).mean())


def _radius(points: Array, at: Array, k: int) -> Array:
    """Distance from each value to its k-th nearest of the sorted points."""
    steps = np.searchsorted(points, at)[:, None] + np.arange(-k, k)
    padded = np.where((steps >= 0) & (steps < points.size), points[np.clip(steps, 0, points.size - 1)], np.inf)
    return np.asarray(np.sort(np.abs(padded - at[:, None]), axis=1)[:, k - 1])
