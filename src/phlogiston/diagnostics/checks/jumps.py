"""Where a density jumps along lines through draws: identities that integrate by parts do not hold across a jump."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LogDensity = Callable[[Array], Array]

_LINES = 32
_REACH = 6.0  # of a line to either side, in standard deviations
_POINTS = 65
_SUSPECTED = 3  # segments of a line that are searched
_HALVINGS = 36
_SMALLEST_JUMP = 0.05  # of the log density
_VANISHING = 0.05  # exponent with which a density must fall towards its edge to count as vanishing there


@dataclass(frozen=True)
class Jumps:
    """What is known of the jumps of a density along one coordinate.

    Args:
        place: the coordinate's median place of a jump; NaN where there is none.
        flux: the mean over the lines of the height of the jumps, as a density per standard deviation: by so much may
            the mean score of correct draws differ from zero.
        reach: the largest distance of a jump from the mean, in standard deviations.
    """

    place: float
    flux: float
    reach: float


def jumps_along(u: Array, axis: int, log_density: LogDensity) -> Jumps:
    r"""Search for jumps of a density along one coordinate.

    For draws of a density :math:`p` that is smooth between jumps of height :math:`\Delta_i` at :math:`x_i`, integration
    by parts gives :math:`E[f \, \partial \log p + \partial f] = -\sum_i E[f(x_i) \Delta_i]`, where heights are those of
    the conditional density along the coordinate. A line through each of some draws is cut into segments, those with
    the least smooth differences are halved again and again, and what difference is left at the end is a jump.

    Args:
        u: draws ``[N, D]``.
        axis: the coordinate.
        log_density: points ``[N, D]`` -> log density ``[N]``, -inf outside the support.
    """
    spread = float(u[:, axis].std())
    lines = u[np.linspace(0, len(u) - 1, min(_LINES, len(u))).astype(int)]

    def along(offset: Array) -> Array:
        """Log density at offsets ``[line, k]`` from the draws, in standard deviations."""
        points = np.repeat(lines[:, None], offset.shape[1], axis=1)
        points[..., axis] += spread * offset
        values = log_density(points.reshape(-1, u.shape[1])).reshape(offset.shape)
        return np.where(np.isnan(values), -np.inf, values)

    grid = np.tile(np.linspace(-_REACH, _REACH, _POINTS), (len(lines), 1))
    values = along(grid)
    top = values.max(1, keepdims=True)
    density = np.exp(values - top)
    mass = density.sum(1) * (grid[0, 1] - grid[0, 0])
    left, right, low, high = _halved(along, grid, values)
    with np.errstate(invalid="ignore"):
        size = np.where(np.isneginf(low) & np.isneginf(high), 0.0, np.abs(high - low))
    inner = np.where(low > high, left, right)  # the end on the higher side
    outward = np.where(low > high, -1.0, 1.0)
    # A density that vanishes at its edge like d^k has no jump there: compare two distances on the higher side.
    near, far = along(inner + 1e-6 * outward), along(inner + 1e-3 * outward)
    with np.errstate(invalid="ignore"):
        vanishes = (far - near) / np.log(1e3) > _VANISHING
    heights = np.abs(np.exp(high - top) - np.exp(low - top)) / mass[:, None]
    is_jump = (size > _SMALLEST_JUMP) & ~(vanishes & np.isinf(size)) & np.isfinite(heights)
    heights = np.where(is_jump, heights, 0.0)
    if not is_jump.any():
        return Jumps(float("nan"), 0.0, 0.0)
    places = lines[:, axis, None] + spread * inner
    biggest = places[heights > 0.1 * heights.max()]
    reach = float((np.abs(biggest - u[:, axis].mean()) / spread).max())
    return Jumps(float(np.median(biggest)), float(heights.sum(1).mean()), reach)


def _halved(along: Callable[[Array], Array], grid: Array, values: Array) -> tuple[Array, Array, Array, Array]:
    """The ends of the suspected segments of each line after all halvings, and the log density there."""
    with np.errstate(invalid="ignore"):
        steps = np.diff(values, axis=1)
    steps = np.where(np.isnan(steps), 0.0, steps)  # both ends lie outside the support
    padded = np.pad(steps, ((0, 0), (1, 1)), mode="edge")
    with np.errstate(invalid="ignore"):
        rough = np.abs(steps - 0.5 * (padded[:, 2:] + padded[:, :-2]))
    rough = np.where(np.isinf(steps), np.inf, np.nan_to_num(rough, nan=0.0, posinf=0.0))
    chosen = np.argsort(-rough, axis=1, kind="stable")[:, :_SUSPECTED]
    left, right = np.take_along_axis(grid, chosen, 1), np.take_along_axis(grid, chosen + 1, 1)
    low, high = np.take_along_axis(values, chosen, 1), np.take_along_axis(values, chosen + 1, 1)
    for _ in range(_HALVINGS):
        middle = 0.5 * (left + right)
        value = along(middle)
        with np.errstate(invalid="ignore"):
            first = np.nan_to_num(np.abs(value - low), nan=0.0, posinf=np.inf)
            second = np.nan_to_num(np.abs(high - value), nan=0.0, posinf=np.inf)
        goes_left = first >= second
        left, right = np.where(goes_left, left, middle), np.where(goes_left, middle, right)
        low, high = np.where(goes_left, low, value), np.where(goes_left, value, high)
    return left, right, low, high
