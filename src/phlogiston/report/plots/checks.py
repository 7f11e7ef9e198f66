"""Observed statistics among replicated ones, and probability integral transforms against the uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.report.plots import densities, style
from phlogiston.report.plots.components import LIMIT, Array, is_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@style.styled
def replicated(title: str, names: Sequence[str], observed: Array, values: Array, p_values: Array) -> Figure:
    """A histogram of replicated statistics a panel, with the observed one as a line.

    Args:
        title: what is shown.
        names: of the statistics, ``[k]``.
        observed: ``[k]``.
        values: replicated, ``[draw, k]``.
        p_values: share of replicated statistics above the observed one, ``[k]``.
    """
    order = np.argsort(np.minimum(p_values, 1.0 - p_values), kind="stable")[:LIMIT]
    shown = np.sort(order)
    note = "" if len(names) <= LIMIT else f"the {LIMIT} of {len(names):,} with the most extreme p-values"
    legend = "bars: replicated; line: observed"
    figure, axes = style.panels(style.plain(title), [legend, note], len(shown))
    for panel, i in zip(axes, shown, strict=True):
        _panel(panel, float(observed[i]), values[:, i])
        extreme = min(p_values[i], 1.0 - p_values[i]) < 0.025
        panel.set_title(style.plain(names[i]))
        text = f"p = {p_values[i]:.3f}"
        panel.set_title(text, loc="right", fontsize=8.5, color=style.DIVERGENT if extreme else style.QUIET)
    return figure


def _panel(axes: Axes, observed: float, values: Array) -> None:
    low, high = densities.view(values)
    edges = densities.bins(values, low, high)
    axes.stairs(densities.histogram(values, edges), edges, fill=True, color=style.PALE)
    axes.axvline(observed, color=style.INK, linewidth=1.6)
    margin = 0.05 * (max(high, observed) - min(low, observed))
    axes.set_xlim(min(low, observed) - margin, max(high, observed) + margin)
    style.ticks(axes, 5, whole_x=is_whole(values))
    style.bare_y(axes)


@style.styled
def pit(title: str, values: Array, p_value: float) -> Figure:
    """The difference of the transforms' distribution from the uniform, with a simultaneous 95 % band.

    Args:
        title: what is shown.
        values: of each observation, in [0, 1], ``[n]``.
        p_value: of the Kolmogorov-Smirnov statistic.
    """
    band = math.sqrt(-math.log(0.025) / (2.0 * values.size))
    shape = "a hump and a dip: predictions lie to one side; an S: they are too narrow or too wide"
    notes = [f"Kolmogorov-Smirnov p = {p_value:.3f}; shade: 95 % of calibrated predictions", shape]
    figure = style.picture(style.plain(title), notes, 7.0, 3.0)
    axes = style.neat(figure.add_subplot())
    ordered = np.sort(values)
    steps = np.arange(1, values.size + 1) / values.size
    x = np.concatenate([[0.0], np.repeat(ordered, 2), [1.0]])
    y = np.concatenate([[0.0], np.stack([steps - 1.0 / values.size, steps], axis=1).reshape(-1), [1.0]])
    axes.axhspan(-band, band, color=style.PALE, alpha=0.5, linewidth=0.0)
    axes.axhline(0.0, color=style.QUIET, linewidth=0.8)
    axes.plot(x, y - x, color=style.BLUE)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("leave-one-out probability integral transform")
    axes.set_ylabel("ECDF − uniform")
    return figure
