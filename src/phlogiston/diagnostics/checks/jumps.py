"""Where a density jumps along lines through draws: identities that integrate by parts do not hold across a jump."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LogDensity = Callable[[Array], Array]

_REACH = 6.0  # of a line to either side, in standard deviations
_POINTS = 65
_SUSPECTED = 3  # segments of a line that are searched
_HALVINGS = 36
_SMALLEST_JUMP = 0.05  # of the log density
_VANISHING = 0.05  # exponent with which a density must fall towards its edge to count as vanishing there


@dataclass(frozen=True, eq=False)
class Jumps:
    """The jumps of a density along lines in the direction of one coordinate.

    Args:
        lines: a point of each line, ``[line, D]``.
        axis: the coordinate.
        places: where along the coordinate each line is searched most closely, ``[line, k]``.
        steps: by how much the conditional density, per standard deviation, rises there, ``[line, k]``; 0 for no jump.
    """

    lines: Array
    axis: int
    places: Array
    steps: Array

    @property
    def place(self) -> float:
        """The median place of a jump; NaN where there is none."""
        found = self.places[np.abs(self.steps) > 0.1 * np.abs(self.steps).max()]
        return float(np.median(found)) if found.size else float("nan")

    def boundary_term(self, test_function: LogDensity) -> tuple[float, float]:
        r"""The value of :math:`E[f \, \partial \log p + \partial f]` for correct draws, and its standard error.

        Args:
            test_function: f, points ``[N, D]`` -> ``[N]``.
        """
        count, kept = self.places.shape
        points = np.repeat(self.lines[:, None], kept, axis=1)
        points[..., self.axis] = self.places
        values = test_function(points.reshape(-1, self.lines.shape[1])).reshape(self.places.shape)
        terms = -(values * self.steps).sum(1)
        return float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(count))


def jumps_along(lines: Array, axis: int, spread: float, log_density: LogDensity) -> Jumps:
    r"""Search for jumps of a density along one coordinate.

    For draws of a density :math:`p` that is smooth between jumps at :math:`x_i`, integration by parts gives
    :math:`E[f \, \partial \log p + \partial f] = -\sum_i E[f(x_i) \, (p(x_i^+) - p(x_i^-))]`, where :math:`p` is the
    conditional density along the coordinate. Each line is cut into segments; those whose differences are least smooth
    are halved again and again, and what difference is left at the end is a jump.

    Args:
        lines: draws ``[line, D]`` through which the lines go.
        axis: the coordinate.
        spread: standard deviation of the coordinate.
        log_density: points ``[N, D]`` -> log density ``[N]``, -inf outside the support.
    """

    def along(offset: Array) -> Array:
        """Log density at offsets ``[line, k]`` from the draws, in standard deviations."""
        points = np.repeat(lines[:, None], offset.shape[1], axis=1)
        points[..., axis] += spread * offset
        values = log_density(points.reshape(-1, lines.shape[1])).reshape(offset.shape)
        return np.where(np.isnan(values), -np.inf, values)

    grid = np.tile(np.linspace(-_REACH, _REACH, _POINTS), (len(lines), 1))
    values = along(grid)
    top = values.max(1, keepdims=True)
    mass = np.exp(values - top).sum(1, keepdims=True) * (grid[0, 1] - grid[0, 0])
    left, right, low, high = _halved(along, grid, values)
    inner, outward = np.where(low > high, left, right), np.where(low > high, -1.0, 1.0)
    with np.errstate(invalid="ignore"):
        size = np.where(np.isneginf(low) & np.isneginf(high), 0.0, np.abs(high - low))
        # A density that vanishes at the edge of its support like distance^k has no jump there, though it ends.
        fall = along(inner + 1e-3 * outward) - along(inner + 1e-6 * outward)
        vanishes = np.isinf(size) & (fall / math.log(1e3) > _VANISHING)
        steps = (np.exp(high - top) - np.exp(low - top)) / mass
    is_jump = (size > _SMALLEST_JUMP) & ~vanishes & np.isfinite(steps)
    places = lines[:, axis, None] + spread * inner
    return Jumps(lines, axis, places, np.where(is_jump, steps, 0.0))


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
