r"""Whether draws come from the density of the model, by Stein's identities, which draws of that density satisfy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from phlogiston.diagnostics.checks.jumps import Jumps, jumps_along
from phlogiston.posterior.verdict import Check, Finding, failed, skipped
from phlogiston.stats.effective_size import weighted_size
from phlogiston.stats.moments import standard_error
from phlogiston.stats.weights import pareto_smooth, systematic_resample

Array = NDArray[np.float64]

FALSE_ALARMS = 1e-4  # so often may any of the statistics of one posterior of correct draws be beyond the limit
SMALLEST_Z = 5.0
SMALLEST_EFFECT = 0.05
_PAIRS = 32  # up to so many dimensions, every pair of them is looked at
_FEWEST = 100
_CONFIRMED = 8
_UNUSABLE = 0.001  # share of draws without a finite gradient
_HEAVY = 0.5  # a tail shape from which on a mean has no variance
_LINES = 48  # along which jumps of the density are searched
_LOOSE = 0.1  # relative error of a density that is normalised by a sum over a grid


@dataclass(frozen=True)
class Statistic:
    """One identity: which test function, its mean (zero for correct draws), and the mean over its error."""

    kind: str
    first: int
    second: int
    effect: float
    z: float


def stein(
    u: Array, gradient: Array, weights: Array | None = None, *, chains: bool, inflation: float = 1.0
) -> tuple[list[Statistic], float, int]:
    r"""The identities that do not hold, the worst first, the limit of their z, and how many were tested.

    For draws of a density :math:`p` on :math:`\mathbb R^D` and any mild :math:`f`,
    :math:`E[f \, \partial_j \log p + \partial_j f] = 0`. With :math:`f = 1` (location) a dropped Jacobian or a shift
    shows, with :math:`f = (u_k - m_k) / s_k` (spread) a wrong variance or a missing correlation.

    Args:
        u: draws on the unconstrained scale, ``[chain, draw, D]``.
        gradient: of the log density there, ``[chain, draw, D]``.
        weights: normalised, ``[chain, draw]``, or None.
        chains: whether successive draws depend on each other.
        inflation: what the standard errors of independent draws are to be multiplied by.

    Returns:
        up to eight statistics beyond the limit and ``SMALLEST_EFFECT``, the limit, the count.

    References:
        Gorham and Mackey (2015), Measuring sample quality with Stein's method, https://arxiv.org/abs/1506.03039
    """
    dim = u.shape[2]
    mass = np.full(u.shape[:2], 1.0 / u[..., 0].size) if weights is None else weights
    centre = np.einsum("cn,cnd->d", mass, u)
    spread = np.sqrt(np.einsum("cn,cnd->d", mass, np.square(u - centre)))
    spread = np.where(spread > 0.0, spread, 1.0)
    w, g = (u - centre) / spread, gradient * spread
    pairs = [(k, j) for k in range(dim) for j in range(dim)] if dim <= _PAIRS else [(j, j) for j in range(dim)]
    count = dim + len(pairs)
    limit = max(SMALLEST_Z, NormalDist().inv_cdf(1.0 - FALSE_ALARMS / (2.0 * count)))
    found = _screened(w, g, pairs, weights, chains)
    suspects = sorted((s for s in found if s[0] > limit and abs(s[1]) > SMALLEST_EFFECT), reverse=True)
    confirmed = []
    for _, mean, kind, k, j in suspects[:_CONFIRMED]:
        values = g[..., j] if kind == "location" else w[..., k] * g[..., j] + float(k == j)
        if weights is None and _heavy(values):
            continue
        z = mean / max(inflation * float(standard_error(values, weights, chains=chains)), 1e-300)
        if abs(z) > limit:
            confirmed.append(Statistic(kind, k, j, mean, z))
    return confirmed, limit, count


def _screened(
    w: Array, g: Array, pairs: list[tuple[int, int]], weights: Array | None, chains: bool
) -> list[tuple[float, float, str, int, int]]:
    """Every identity with a cheap z: its size, the mean, the kind, and both coordinates."""
    found: list[tuple[float, float, str, int, int]] = []
    for j, (mean, z) in enumerate(zip(*_batched(g, weights, chains), strict=True)):
        found.append((abs(z), mean, "location", j, j))
    for k in range(w.shape[2]):
        columns = [j for i, j in pairs if i == k]
        values = w[..., k, None] * g[..., columns]
        values[..., columns.index(k)] += 1.0
        for j, mean, z in zip(columns, *_batched(values, weights, chains), strict=True):
            found.append((abs(z), mean, "spread", k, j))
    return found


def _batched(values: Array, weights: Array | None, chains: bool) -> tuple[Array, Array]:
    """Means of ``[chain, draw, k]`` and how many standard errors they are from zero, by batches where draws depend."""
    if weights is not None:
        mean = np.einsum("cn,cnk->k", weights, values)
        return mean, mean / np.maximum(standard_error(values, weights, chains=False), 1e-300)
    rows, draws, _ = values.shape
    batch = max(1, int(math.sqrt(draws))) if chains else 1
    used = values[:, : draws // batch * batch]
    means = used.reshape(rows * (draws // batch), batch, -1).mean(axis=1)
    error = means.std(axis=0, ddof=1) / math.sqrt(means.shape[0])
    mean = values.mean((0, 1))
    return mean, mean / np.maximum(error, 1e-300)


def _heavy(values: Array) -> bool:
    """Whether a tail, on either side, is so heavy that a standard error means nothing."""
    centred = values.reshape(-1) - np.median(values)
    tails = (np.log(np.maximum(side, np.finfo(float).tiny)) for side in (centred, -centred))
    return max(pareto_smooth(tail)[1] for tail in tails) > _HEAVY


def check_draws(
    u: Array,
    gradient: Array,
    label: Callable[[int], str],
    *,
    weights: Array | None = None,
    chains: bool,
    inflation: float = 1.0,
    log_density: Callable[[Array], Array],
) -> Check:
    """Whether draws satisfy the identities of the density; see ``stein``.

    Args:
        u: draws ``[chain, draw, D]``, NaN where they lie outside the support.
        gradient: of the log density there.
        label: what an unconstrained coordinate is called.
        weights: of the draws, ``[chain, draw]``, or None.
        chains: whether successive draws depend on each other.
        inflation: of the standard errors of independent draws.
        log_density: points ``[N, D]`` -> log density ``[N]``.
    """
    name = "draws against the density"
    good = np.isfinite(u).all(2) & np.isfinite(gradient).all(2)
    if weights is not None:
        good |= weights == 0.0
        u, gradient = (np.where(weights[..., None] > 0.0, part, 0.0) for part in (u, gradient))
        if (size := float(weighted_size(weights))) < _FEWEST:
            return skipped(name, f"weighted draws with an effective size of {size:.0f} are too few")
    if good.size < _FEWEST:
        return skipped(name, f"{good.size} draws are too few")
    if (share := 1.0 - good.mean()) > _UNUSABLE:
        return failed(name, _not_finite(share))
    keep = good.all(0)  # the few others go, in every chain
    mass = None if weights is None else weights[:, keep] / weights[:, keep].sum()
    found, limit, count = stein(u[:, keep], gradient[:, keep], mass, chains=chains, inflation=inflation)
    if not found:
        return Check(name, f"{count} identities within {limit:.1f} standard errors")
    excused = _across_jumps(found, u[:, keep], mass, log_density)
    unexcused = [statistic for statistic in found if statistic not in excused]
    if unexcused:
        return failed(name, _finding(unexcused[0], limit, label))
    axis = found[0].second
    text = f"the density jumps along {label(axis)} (at {excused[found[0]].place:.3g} on the unconstrained scale)"
    return skipped(name, f"{text}, so that the identities do not hold for correct draws either")


def _not_finite(share: float) -> Finding:
    return Finding(
        f"the density or its gradient is not finite at {share:.1%} of the draws",
        "look at model.check(), and at the draws on the edge of their support",
        number=share,
        threshold=_UNUSABLE,
        meaning="The method drew values that the model says cannot happen.",
        severity="do not use",
    )


def _across_jumps(
    found: list[Statistic], u: Array, weights: Array | None, log_density: Callable[[Array], Array]
) -> dict[Statistic, Jumps]:
    """The statistics that jumps of the density explain: they are what correct draws would show."""
    flat = u.reshape(-1, u.shape[2])
    mass = np.full(len(flat), 1.0 / len(flat)) if weights is None else weights.reshape(-1)
    centre = mass @ flat
    spread = np.sqrt(mass @ np.square(flat - centre))
    with np.errstate(divide="ignore"):
        lines = flat[systematic_resample(np.log(mass), _LINES, np.random.default_rng(0))]
    axes = {statistic.second for statistic in found}
    along = {axis: jumps_along(lines, axis, float(spread[axis]), log_density) for axis in axes}
    excused = {}
    for statistic in found:
        jumps, first = along[statistic.second], statistic.first

        def standardised(points: Array, first: int = first) -> Array:
            return np.asarray((points[:, first] - centre[first]) / spread[first])

        function = (lambda points: np.ones(len(points))) if statistic.kind == "location" else standardised
        expected, error = jumps.boundary_term(function)
        tolerance = SMALLEST_EFFECT + _LOOSE * abs(expected) + SMALLEST_Z * error
        if expected != 0.0 and abs(statistic.effect - expected) <= tolerance:
            excused[statistic] = jumps
    return excused


def _finding(worst: Statistic, limit: float, label: Callable[[int], str]) -> Finding:
    site, other = label(worst.second), label(worst.first)
    size = f"{abs(worst.z):.0f} standard errors (limit {limit:.1f})"
    if worst.kind == "location":
        message = f"the mean score of {site} is {worst.effect:+.2f} per standard deviation, not 0, by {size}"
        meaning = (
            "The draws lie to one side of where the density puts them, as when a Jacobian is left out or a chain "
            "has not arrived."
        )
    elif worst.first == worst.second:
        wide = worst.effect < 0.0
        message = f"the spread of {site} is too {'wide' if wide else 'narrow'} for the density, by {size}"
        meaning = f"The density asks for a {'smaller' if wide else 'larger'} variance than the draws have."
    else:
        message = f"{other} and {site} do not depend on each other in the draws as in the density, by {size}"
        meaning = "A correlation of the posterior is missing from the draws, or the draws have one that it lacks."
    return Finding(
        message,
        "sample the same model by another method (ph.agree), longer, or with a richer guide",
        number=worst.z,
        threshold=limit,
        site=site,
        meaning=meaning + " They are draws from something else than this model's posterior.",
        severity="do not use",
    )
