"""Chains against each other: one that does not move, and chains that each found another mode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.labels import Labels, component
from phlogiston.posterior.verdict import Check, Finding, failed

Array = NDArray[np.float64]

_MOVES = 0.01  # a chain that moves in fewer of its transitions than this does not move
_NARROW = 1e-3  # or one whose spread is this small a share of what is usual among the others
_FEWEST = 20


def stuck(continuous: Mapping[str, Array]) -> Check:
    """Whether a chain stays where it is.

    Args:
        continuous: sites that live on a continuum, ``[chain, draw, ...]``; a chain that moves changes all its values.
    """
    chains, draws = next(iter(continuous.values())).shape[:2]
    flat = np.concatenate([v.reshape(chains, draws, -1) for v in continuous.values()], axis=2).astype(float)
    moved = (np.diff(flat, axis=1) != 0.0).any(axis=2).mean(axis=1) if draws > 1 else np.ones(chains)
    spread = flat.std(axis=1)  # [chain, component]
    usual = np.median(spread, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        narrow = np.where(usual > 0.0, spread / usual, 1.0)
    still = (moved < _MOVES) | (narrow.max(axis=1) < _NARROW if chains > 2 else False)
    if draws < _FEWEST or not still.any():
        return Check("stuck chains", f"none of {chains}")
    names = ", ".join(map(str, np.nonzero(still)[0][:8]))
    several = int(still.sum()) > 1
    finding = Finding(
        f"chain{'s' * several} {names} {'do' if several else 'does'} not move "
        f"({moved[still].min():.1%} of transitions change anything, limit {_MOVES:.0%})",
        "start elsewhere (initial=...), raise num_warmup, or give a smaller step_size",
        number=float(moved[still].min()),
        threshold=_MOVES,
        meaning="Every proposal is refused: the chain repeats one point, which counts as if it were many draws.",
        severity="do not use",
    )
    return failed("stuck chains", finding)


def modes_between_chains(draws: Mapping[str, Array], lp: Array | None, labels: Labels) -> Check:
    """Whether chains fall into groups that share no ground, each at rest where it is.

    Args:
        draws: site -> ``[chain, draw, ...]``.
        lp: log density of the draws, ``[chain, draw]``, where it is known.
        labels: what components are called.
    """
    chains, count = next(iter(draws.values())).shape[:2]
    if chains < 2 or count < _FEWEST:
        return Check("modes between chains", "needs two chains", judged=False)
    name, gap, left, places = "", 0.0, np.zeros(chains, dtype=bool), (0.0, 0.0)
    for site, values in draws.items():
        flat = values.reshape(chains, count, -1).astype(float)
        if not flat.shape[2] or not np.isfinite(flat).all():
            continue
        found, where, lower = _widest_gap(flat)
        if found > gap:
            name, gap, left = component(site, values.shape[2:], where, labels), found, lower
            centre = np.median(flat[..., where], axis=1)
            places = (float(np.median(centre[lower])), float(np.median(centre[~lower])))
    if not name:
        return Check("modes between chains", f"{chains} chains share their ground")
    finding = Finding(
        f"chains do not meet: {left.sum()} stay near {name} = {places[0]:.3g}, {(~left).sum()} near {places[1]:.3g}",
        "run many short chains from the prior, temper (ph.SMC), or remove the symmetry from the model",
        number=gap,
        threshold=0.0,
        site=name,
        meaning="The posterior has more than one mode, and no chain passes between them; how many chains found each "
        "says nothing of how probable it is." + _which_is_higher(lp, left),
        severity="do not use",
    )
    return failed("modes between chains", finding)


def _widest_gap(values: Array) -> tuple[float, int, NDArray[np.bool_]]:
    """The widest gap between the central 98 % of two groups of chains, in spreads of a chain, and who is below it."""
    low, high = np.quantile(values, (0.01, 0.99), axis=1)  # [chain, component]
    spread = np.median(values.std(axis=1), axis=0)
    order = np.argsort(low, axis=0)
    lows = np.take_along_axis(low, order, 0)
    reach = np.maximum.accumulate(np.take_along_axis(high, order, 0), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        gaps = np.where(spread > 0.0, (lows[1:] - reach[:-1]) / spread, -np.inf)
    place, where = np.unravel_index(int(np.argmax(gaps)), gaps.shape)
    lower = np.zeros(values.shape[0], dtype=bool)
    lower[order[: place + 1, where]] = True
    return float(gaps[place, where]), int(where), lower


def _which_is_higher(lp: Array | None, left: NDArray[np.bool_]) -> str:
    if lp is None:
        return ""
    difference = float(np.median(lp[left]) - np.median(lp[~left]))
    if abs(difference) < 3.0:
        return " Their log densities are alike."
    return f" The {'first' if difference > 0 else 'second'} group's log density is {abs(difference):.1f} nats higher."
