"""Where to look at draws, and how to sum them up as bars or a curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phlogiston.report.plots.components import is_whole
from phlogiston.stats.moments import quantiles
from phlogiston.stats.weights import effective_sample_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

MOST_BARS = 40
_GRID = 256
_CORE, _ALMOST_ALL = (0.025, 0.975), (0.0005, 0.9995)


def view(values: Array, weights: Array | None = None) -> tuple[float, float]:
    """The interval to show: almost all draws, less of tails that would squeeze the rest into a corner.

    Args:
        values: any shape.
        weights: of the same shape, or None.
    """
    flat, mass = finite(values, weights)
    if not flat.size:
        return 0.0, 1.0
    low, core_low, core_high, high = quantiles(flat[None], (_ALMOST_ALL[0], *_CORE, _ALMOST_ALL[1]), mass)
    margin = 0.5 * (core_high - core_low)
    if core_high > core_low and high - low > 4.0 * (core_high - core_low):
        low, high = max(low, core_low - margin), min(high, core_high + margin)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        pad = 0.5 * max(abs(float(low)), 1.0) if not is_whole(flat) else 0.5
        return float(low) - pad, float(high) + pad
    return _with_room(flat, mass, float(low), float(high))


def _with_room(values: Array, weights: Array | None, low: float, high: float) -> tuple[float, float]:
    """A little more at an end where the draws thin out; none at one where they stop short, as a scale's do at zero."""
    if is_whole(values):
        return low, high
    edge = 0.05 * (high - low)
    mass = np.full(values.size, 1.0 / values.size) if weights is None else weights / weights.sum()
    thin_below = mass[values < low + edge].sum() < 0.02
    thin_above = mass[values > high - edge].sum() < 0.02
    return low - 1.2 * edge * bool(thin_below), high + 1.2 * edge * bool(thin_above)


def finite(values: Array, weights: Array | None) -> tuple[Array, Array | None]:
    """Flat finite values, with their weights (in a row each)."""
    flat = np.asarray(values, dtype=float).reshape(-1)
    keep = np.isfinite(flat)
    return flat[keep], None if weights is None else np.asarray(weights).reshape(-1)[keep]


def bins(values: Array, low: float, high: float, weights: Array | None = None) -> Array:
    """Edges of a histogram: one bar a whole number where there are few of them, else as the sample size allows."""
    if is_whole(values):
        first, last = np.floor(low), np.ceil(high)
        step = max(1.0, np.ceil((last - first + 1.0) / MOST_BARS))
        return np.arange(first - 0.5, last + step + 0.5 - 1e-9, step)
    size = values.size if weights is None else effective_sample_size(np.log(np.maximum(weights, 1e-300)).reshape(-1))
    count = int(np.clip(2.0 * size ** (1.0 / 3.0), 8, 50))
    return np.linspace(low, high, count + 1)


def histogram(values: Array, edges: Array, weights: Array | None = None) -> Array:
    """The share of the draws in each bin (draws outside of all count too)."""
    flat, mass = finite(values, weights)
    total = flat.size if mass is None else mass.sum()
    return np.asarray(np.histogram(flat, edges, weights=mass)[0] / max(total, np.finfo(float).tiny), dtype=float)


def curve(values: Array, low: float, high: float) -> tuple[Array, Array]:
    """Points and heights of a density: a Gaussian kernel of Silverman's width, reflected at both ends.

    Reflection keeps a density that stops at a bound, as that of a scale at zero, from sagging there.

    References:
        Silverman (1986), Density Estimation, section 3.4.2
    """
    flat, _ = finite(values, None)
    edges = np.linspace(low, high, _GRID + 1)
    points, step = (edges[:-1] + edges[1:]) / 2.0, (high - low) / _GRID
    if flat.size < 2:
        return points, histogram(flat, edges) / step
    width = float(np.clip(0.9 * _spread(flat) * flat.size**-0.2 / step, 0.5, _GRID / 4))
    reach = int(4.0 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(histogram(flat, edges), min(reach, _GRID), mode="symmetric")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="same")[min(reach, _GRID) : -min(reach, _GRID)]
    return points, smooth / step


def _spread(values: Array) -> float:
    """The scale of a normal with the same quartiles, less where a narrow mode would be smoothed away."""
    ordered = np.sort(values)
    quarter = max(1, values.size // 4)
    usual = min(float(values.std()), float(np.subtract(*np.quantile(ordered, (0.75, 0.25)))) / 1.349)
    densest = float((ordered[quarter:] - ordered[:-quarter]).min()) / 0.637  # the shortest interval with a quarter
    return float(np.sqrt(usual * min(usual, densest))) or float(values.std())


def at_whole_numbers(axes: Axes, low: float, high: float) -> None:
    """Ticks at whole numbers only, with half a bar's room at either end."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    first, last = np.floor(low), np.ceil(high)
    each = last - first < 8
    every = FixedLocator(np.arange(first, last + 0.5).tolist())
    axes.xaxis.set_major_locator(every if each else MaxNLocator(6, integer=True))
    axes.set_xlim(first - 0.7, last + 0.7)
