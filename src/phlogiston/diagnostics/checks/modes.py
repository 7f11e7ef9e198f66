r"""Whether as many draws lie around each mode as the density puts there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.verdict import Check, Finding, failed, skipped
from phlogiston.stats.bridge import bridge
from phlogiston.stats.moments import standard_error

Array = NDArray[np.float64]
LogDensity = Callable[[Array], Array]

Z_LIMIT = 5.0
SMALLEST_EFFECT = 0.05
_SPLIT = 0.3  # share of the variance left within two parts: 0.36 for a normal, 0.25 for a uniform
_MOST_REGIONS = 4
_MOST_DIMENSIONS = 100
_FEWEST = 40  # draws of a region
_LOOSEST = 0.15  # a log evidence with a larger standard error than this decides nothing
_LOOSEST_SHARE = 0.1  # a share of draws, the same


@dataclass(frozen=True, eq=False)
class Cut:
    """A half space, ``direction @ u <= threshold``."""

    direction: Array
    threshold: float

    def below(self, u: Array) -> NDArray[np.bool_]:
        """Which rows of ``u [..., D]`` lie in it."""
        return np.asarray(u @ self.direction <= self.threshold)


def regions_of(u: Array) -> list[list[tuple[Cut, bool]]]:
    """Up to four regions, each a list of cuts with the side taken, that part the draws ``[N, D]`` between modes."""
    regions: list[list[tuple[Cut, bool]]] = [[]]
    while len(regions) < _MOST_REGIONS:
        splits = [(_best_cut(u[inside(u, region)]), i) for i, region in enumerate(regions)]
        found = [(cut[1], i, cut[0]) for cut, i in splits if cut is not None]
        if not found:
            break
        _, i, cut = min(found, key=lambda item: item[0])
        parent = regions.pop(i)
        regions += [[*parent, (cut, True)], [*parent, (cut, False)]]
    return regions


def inside(u: Array, region: list[tuple[Cut, bool]]) -> NDArray[np.bool_]:
    """Which rows of ``u [..., D]`` lie in a region."""
    mask = np.ones(u.shape[:-1], dtype=bool)
    for cut, below in region:
        mask &= cut.below(u) == below
    return mask


def _best_cut(u: Array) -> tuple[Cut, float] | None:
    """The cut that leaves the least variance within its two sides, along coordinates and principal axes."""
    count, dim = u.shape
    if count < 2 * _FEWEST:
        return None
    spread = u.std(0)
    if not (spread > 0.0).all():
        return None
    _, axes = np.linalg.eigh(np.corrcoef(u.T).reshape(dim, dim))
    directions = np.concatenate([np.eye(dim), axes.T[::-1][: min(dim, 10)]]) / spread
    best: tuple[Cut, float] | None = None
    for direction in directions:
        x = np.sort(u @ direction)
        low, high = x[int(0.001 * count)], x[math.ceil(0.999 * count) - 1]
        share, place = _two_parts(np.clip(x, low, high))
        if share < (best[1] if best else _SPLIT):
            # Where draws differ by less than rounding, the middle of two of them may have all draws on one side.
            cut = Cut(direction, float((x[place - 1] + x[place]) / 2.0))
            if min(cut.below(u).sum(), (~cut.below(u)).sum()) >= _FEWEST // 2:
                best = cut, share
    return best


def _two_parts(x: Array) -> tuple[float, int]:
    """The least fraction of the variance of sorted numbers within two parts, and where the second part begins."""
    count = x.size
    total = np.square(x - x.mean()).sum()
    n = np.arange(1, count)
    left = np.cumsum(x - x.mean())[:-1]
    between = np.square(left) * (1.0 / n + 1.0 / (count - n))
    between[: _FEWEST - 1], between[count - _FEWEST :] = 0.0, 0.0
    between[np.diff(x) <= 0.0] = 0.0  # no cut goes between draws that are equal
    place = int(np.argmax(between))
    return (1.0 - between[place] / total if total > 0.0 else 1.0), place + 1


def region_evidence(
    u: Array, size: float, density: LogDensity, region: list[tuple[Cut, bool]], rng: np.random.Generator
) -> tuple[float, float]:
    r"""Log of the mass that a density has in a region, by bridge sampling, with its standard error.

    A Student-t is fitted to half of the draws and bridged with the other half by the optimal bridge of Meng and Wong.

    Args:
        u: the draws that lie in the region, ``[N, D]``.
        size: their effective number of draws.
        density: ``[N, D]`` -> log density ``[N]``, not normalised.
        region: where.
        rng: of the proposals.

    References:
        Meng and Wong (1996), Simulating ratios of normalizing constants, Statistica Sinica 6, 831-860;
        Frühwirth-Schnatter (2004), https://doi.org/10.1111/j.1368-423X.2004.00125.x
    """
    # Draws that shaped the proposal would look too likely under it, so that the bridge uses the other half only.
    fit, rest = u[::2], u[1::2]
    centre, dim = fit.mean(0), u.shape[1]
    covariance = np.atleast_2d(np.cov(fit.T)) + 1e-9 * np.diag(fit.var(0) + 1e-12)
    root: Array = np.linalg.cholesky(covariance).astype(float)
    freedom = 5.0  # tails heavier than a normal's keep p / q bounded where the mode is wider than its covariance
    count = max(len(rest), 1000)
    normal = rng.standard_normal((count, dim))
    proposed = centre + (normal / np.sqrt(rng.chisquare(freedom, count) / freedom)[:, None]) @ root.T
    log_q = _student(np.concatenate([rest, proposed]), centre, root, freedom)
    log_p = density(np.concatenate([rest, proposed]))
    log_p = np.where(inside(np.concatenate([rest, proposed]), region), log_p, -np.inf)
    ratio = log_p - log_q
    ours, theirs = ratio[: len(rest)], ratio[len(rest) :]
    effective = max(size / 2.0, 2.0)
    share = effective / (effective + count)
    return _bridge(ours, theirs, share, effective)


def _student(x: Array, centre: Array, root: Array, freedom: float) -> Array:
    dim = centre.size
    distance = np.square(np.linalg.solve(root, (x - centre).T)).sum(0)
    constant = math.lgamma((freedom + dim) / 2) - math.lgamma(freedom / 2) - dim / 2 * math.log(freedom * math.pi)
    return np.asarray(
        constant - np.log(np.diag(root)).sum() - (freedom + dim) / 2 * np.log1p(distance / freedom), dtype=float
    )


def _bridge(ours: Array, theirs: Array, share: float, effective: float) -> tuple[float, float]:
    """Log evidence from log ratios p / q at draws of p and of q, and its standard error."""
    found = bridge(ours, theirs, share)
    if not math.isfinite(found.log_ratio):
        return -math.inf, math.inf
    f1, f2 = found.theirs, found.ours
    error = f1.var() / (f1.mean() ** 2 * theirs.size) + f2.var() / (f2.mean() ** 2 * effective)
    return found.log_ratio, math.sqrt(error)


def check_modes(
    u: Array, density: LogDensity, label: Callable[[int], str], rng: np.random.Generator, *, chains: bool
) -> Check:
    r"""Whether the share of draws around each mode is the share of the density's mass there.

    The space is cut between groups of draws, whatever they are; the mass of each part is found by bridge sampling,
    and the shares must agree with those of the draws. Any cut is valid, so one mode cut in two raises no alarm.

    Args:
        u: draws on the unconstrained scale, ``[chain, draw, D]``.
        density: ``[N, D]`` -> log density ``[N]``.
        label: what an unconstrained coordinate is called.
        rng: of the proposals.
        chains: whether successive draws depend on each other.
    """
    name = "weights of modes"
    flat = u.reshape(-1, u.shape[2])
    if u.shape[2] > _MOST_DIMENSIONS or len(flat) < 4 * _FEWEST:
        return skipped(name, f"{u.shape[2]} dimensions, {len(flat)} draws")
    regions = regions_of(flat)
    if len(regions) < 2:
        return Check(name, "one group of draws")
    masks = [inside(u, region) for region in regions]
    if min(int(mask.sum()) for mask in masks) < _FEWEST // 2:
        return skipped(name, "draws that differ by no more than rounding")
    shares = np.array([mask.mean() for mask in masks])
    errors = np.array([float(standard_error(mask.astype(float), None, chains=chains)) for mask in masks])
    sizes = [_effective_size(u, mask, chains) for mask in masks]
    parts = zip(masks, sizes, regions, strict=True)
    try:
        log_z, log_error = np.array([region_evidence(u[m], n, density, r, rng) for m, n, r in parts]).T
    except np.linalg.LinAlgError:
        return skipped(name, "a group of draws spans no volume")
    if not (log_error < _LOOSEST).all():
        return skipped(
            name, f"{len(regions)} groups of draws whose masses could not be found (error {log_error.max():.2f})"
        )
    mass, mass_error = _fractions(log_z, log_error)
    z = (shares - mass) / np.maximum(np.hypot(errors, mass_error), 1e-12)
    worst = int(np.argmax(np.abs(z)))
    if abs(z[worst]) <= Z_LIMIT or abs(shares[worst] - mass[worst]) <= SMALLEST_EFFECT:
        return _agreement(name, len(regions), errors.max())
    return failed(name, _finding(u, regions[worst], shares[worst], mass[worst], z[worst], label))


def _agreement(name: str, count: int, error: float) -> Check:
    """The outcome where no difference was found: a pass only if the draws could have shown one."""
    # Each group has a fixed share of the draws if no chain ever crosses: agreement then says nothing.
    if error > _LOOSEST_SHARE:
        shown = f"{count} groups of draws, whose shares are known to ± {error:.2f} only"
        return skipped(name, f"{shown}: the chains hardly cross between them")
    return Check(name, f"{count} groups of draws, each with the share that the density gives it")


def _fractions(log_z: Array, log_error: Array) -> tuple[Array, Array]:
    """The fraction of the mass in each region, and its error by the delta method."""
    mass = np.exp(log_z - np.logaddexp.reduce(log_z))
    return mass, mass * np.sqrt(np.square(log_error) + np.square(mass * log_error).sum())


def _effective_size(u: Array, mask: NDArray[np.bool_], chains: bool) -> float:
    """The effective number of draws in a region: the smallest over the coordinates."""
    count = float(mask.sum())
    if not chains:
        return count
    values = np.where(mask[..., None], u - u[mask].mean(0), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        independent = values.std((0, 1)) / math.sqrt(mask.size)
        ratio = np.square(independent / standard_error(values, None, chains=True))
    return float(np.clip(np.nanmin(ratio) * count if np.isfinite(ratio).any() else count, 2.0, count))


def _finding(
    u: Array, region: list[tuple[Cut, bool]], share: float, mass: float, z: float, label: Callable[[int], str]
) -> Finding:
    cut = region[-1][0]
    axis = int(np.argmax(np.abs(cut.direction) * u.std((0, 1))))
    place = float(np.median(u[inside(u, region)][:, axis]))
    return Finding(
        f"{share:.0%} of the draws lie in the mode near {label(axis)} = {place:.3g}, where the density has {mass:.0%} "
        f"of its mass, {abs(z):.0f} standard errors (limit {Z_LIMIT:.0f}) apart",
        "temper (ph.SMC), or run many more chains from the prior",
        number=z,
        threshold=Z_LIMIT,
        site=label(axis),
        meaning="The modes themselves are drawn well, but in the wrong proportion: every mean over them is off.",
        severity="do not use",
    )
