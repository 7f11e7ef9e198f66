r"""Whether the density has a mode with mass that matters and that no draw visits.

Draws cannot tell of a mode that none of them reached. Climbs from points that are spread over the space can: where
climbs end at a mode, the mass in a ball around it is found by importance sampling. A ball that the draws do visit
gives the scale: its mass divided by its share of the draws is the mass of all that the draws represent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston.inference.optimise.lbfgs import Evaluate, climb_paths
from phlogiston.inference.optimise.mixture import modes_among
from phlogiston.inference.optimise.normal_approx import Normal
from phlogiston.posterior.verdict import Check, Finding, failed, skipped

Array = NDArray[np.float64]

NAME = "modes without draws"
MOST_DIMENSIONS = 50
SMALLEST_MASS = 0.05  # the share of all mass from which on a mode that no draw visits is reported
_VISITED = 0.05  # draws visit a ball that holds this fraction of the draws it should hold
_FEWEST = 20  # draws in the ball that gives the scale
_LOOSEST = 0.3  # a mass with a larger relative standard error decides nothing
_WIDER = 1.2  # scale of the proposal relative to the mode's normal: its tails must not be lighter
_MOST_STEPS = 100  # of each climb
_MOST_MODES = 8
_SYMMETRIC = 0.01  # two modes whose log masses and log heights differ by less than this are mirror images


@dataclass(frozen=True)
class Ball:
    """The neighbourhood of a mode.

    Args:
        normal: the normal with the curvature at the mode.
        log_height: log density at the mode.
        log_mass: log of the integral of the density over the ball.
        error: standard error of ``log_mass``.
        share: the share of the draws that lie in the ball.
        count: how many draws lie in it.
    """

    normal: Normal
    log_height: float
    log_mass: float
    error: float
    share: float
    count: int


def mirrored(u: Array, shapes: list[tuple[int, int, tuple[int, ...]]], rng: np.random.Generator) -> Array:
    """Points ``[N + N, D]`` where images of the draws under a symmetry would lie.

    The first N points change signs, all of them or those of random coordinates, which reaches the images of sign
    symmetries; the others reverse one or all sites along their last axis, which reaches the images of label switching.

    Args:
        u: draws, ``[N, D]``.
        shapes: of each site: the first coordinate, the last plus one, and the shape.
        rng: chooses the coordinates.
    """
    signs = rng.choice([-1.0, 1.0], u.shape)
    signs[::2] = -1.0
    swapped = u.copy()
    for i, (start, stop, shape) in enumerate(shapes):
        # Every other point reverses all sites together, because labels switch in all sites at once.
        rows = [r for r in range(len(u)) if r % 2 == 0 or (r // 2) % len(shapes) == i]
        if shape:
            block = u[rows, start:stop].reshape(len(rows), *shape)
            swapped[rows, start:stop] = block[..., ::-1].reshape(len(rows), stop - start)
    return np.concatenate([signs * u, swapped])


def check_missed_modes(
    u: Array,
    weights: Array,
    starts: Array,
    evaluate: Evaluate,
    label: Callable[[int], str],
    rng: np.random.Generator,
    *,
    proposals: int,
) -> Check:
    """Climb from spread points, and compare the mass at each mode found with the share of the draws there.

    Args:
        u: draws on the unconstrained scale, ``[N, D]``.
        weights: of the draws, normalised, ``[N]``.
        starts: points from which to climb, with a finite density, ``[P, D]``; some of them must be draws.
        evaluate: the log density and its gradient.
        label: what an unconstrained coordinate is called.
        rng: of the proposals.
        proposals: points by which the mass of one mode is estimated.
    """
    found = modes_among(evaluate, climb_paths(evaluate, starts, max_steps=_MOST_STEPS), _MOST_MODES)
    if not found:
        return skipped(NAME, "no climb ended at a mode")
    balls = [_ball(normal, height, u, weights, evaluate, rng, proposals) for normal, height in found]
    balls = [ball for ball in balls if ball.error < _LOOSEST]
    visited = [ball for ball in balls if ball.count >= _FEWEST]
    if not visited:
        return skipped(NAME, "no mode with a mass that could be found lies among the draws")
    scale = max(visited, key=lambda ball: ball.share)
    total = scale.log_mass - math.log(scale.share)
    missed = [ball for ball in balls if ball.share < _VISITED * math.exp(min(ball.log_mass - total, 0.0))]
    if not missed:
        return Check(NAME, f"draws lie at all of the {len(balls)} modes at which {len(starts)} climbs ended")
    masses = np.array([ball.log_mass for ball in missed])
    without = float(np.exp(np.logaddexp.reduce(masses) - np.logaddexp(total, np.logaddexp.reduce(masses))))
    if without < SMALLEST_MASS:
        return Check(NAME, f"modes without draws hold {without:.1%} of the mass (limit {SMALLEST_MASS:.0%})")
    return failed(NAME, _finding(missed[int(masses.argmax())], scale, without, label))


def _ball(
    normal: Normal,
    height: float,
    u: Array,
    weights: Array,
    evaluate: Evaluate,
    rng: np.random.Generator,
    proposals: int,
) -> Ball:
    """The mass within a radius that holds nearly all of the mode's normal, and the draws there."""
    dim = u.shape[1]
    radius = math.sqrt(dim) + 2.0
    inside = normal.distances(u) <= radius
    noise = _WIDER * rng.standard_normal((proposals, dim))
    points = normal.draw(noise)
    log_q = -0.5 * np.square(noise / _WIDER).sum(1) - normal.log_volume - dim * math.log(_WIDER)
    value, _ = evaluate(points)
    usable = (np.linalg.norm(noise, axis=1) <= radius) & np.isfinite(value)
    log_ratio = np.where(usable, value, -np.inf) - log_q
    top = log_ratio.max()
    ratio = np.exp(log_ratio - top) if np.isfinite(top) else np.zeros(proposals)
    mean = float(ratio.mean())
    error = float(ratio.std()) / (mean * math.sqrt(proposals)) if mean > 0.0 else math.inf
    log_mass = float(top + math.log(mean)) if mean > 0.0 else -math.inf
    return Ball(normal, height, log_mass, error, float(weights[inside].sum()), int(inside.sum()))


def _finding(missed: Ball, visited: Ball, without: float, label: Callable[[int], str]) -> Finding:
    spread = visited.normal.standard_deviations
    axis = int(np.argmax(np.abs(missed.normal.loc - visited.normal.loc) / spread))
    image = (
        abs(missed.log_mass - visited.log_mass) < 3.0 * math.hypot(missed.error, visited.error) + _SYMMETRIC
        and abs(missed.log_height - visited.log_height) < _SYMMETRIC
    )
    alike = "Such modes are often mirror images of each other (switched labels, a free sign): if so, order the labels "
    place = f"{label(axis)} = {missed.normal.loc[axis]:.3g} (unconstrained)"
    return Finding(
        f"no draw lies at the mode near {place}; such modes hold {without:.0%} of the mass (limit {SMALLEST_MASS:.0%})",
        "temper (ph.SMC), or run many more chains from the prior"
        + (", or remove the symmetry from the model" if image else ""),
        number=without,
        threshold=SMALLEST_MASS,
        site=label(axis),
        meaning="The draws describe a part of the posterior only: probabilities, means and intervals over all of it "
        "are off. " + (alike + "or fix the sign. Functions without labels or signs are not affected." if image else ""),
        severity="do not use",
    )
