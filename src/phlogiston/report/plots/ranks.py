"""Ranks of true values among posterior draws, as histograms and as differences of distribution functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.report.plots import style
from phlogiston.report.plots.components import LIMIT, Array
from phlogiston.stats import ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@style.styled
def histograms(title: str, values: Mapping[str, Array], marks: Sequence[str], bins: int) -> Figure:
    """A histogram of ranks a quantity, with the 95 % range of each bar's height under uniformity.

    Args:
        title: what is shown.
        values: quantity -> fractional ranks ``[S]``, the most suspect first.
        marks: a word a quantity; empty where it is fine.
        bins: bars.
    """
    legend = "shade: 95 % of the bars of exact posteriors"
    figure, axes = style.panels(style.plain(title), [legend, _cut(values)], min(LIMIT, len(values)))
    count = next(iter(values.values())).size
    mean, sd = count / bins, np.sqrt(count / bins * (1.0 - 1.0 / bins))
    for panel, (name, u), mark in zip(axes, values.items(), marks, strict=False):
        panel.axhspan(max(0.0, mean - 1.96 * sd), mean + 1.96 * sd, color=style.PALE, alpha=0.5, linewidth=0.0)
        heights, edges = np.histogram(u, bins, (0.0, 1.0))
        panel.stairs(heights, edges, color=style.DIVERGENT if mark else style.BLUE, fill=True, alpha=0.8)
        panel.axhline(mean, color=style.QUIET, linewidth=0.8)
        panel.set_ylim(bottom=0.0)
        _finish(panel, name, mark)
    return figure


@style.styled
def differences(title: str, values: Mapping[str, Array], marks: Sequence[str]) -> Figure:
    """The ECDF of ranks less the uniform's, a panel a quantity, with simultaneous 95 % bands."""
    legend = "shade: 95 % of exact posteriors stay within, at all points at once"
    figure, axes = style.panels(style.plain(title), [legend, _cut(values)], min(LIMIT, len(values)))
    points, lower, upper = ranks.ecdf_band(next(iter(values.values())).size)
    for panel, (name, u), mark in zip(axes, values.items(), marks, strict=False):
        panel.fill_between(points, lower, upper, color=style.PALE, alpha=0.5, linewidth=0.0)
        panel.axhline(0.0, color=style.QUIET, linewidth=0.8)
        x = np.sort(u)
        step = np.arange(1, x.size + 1) / x.size
        panel.plot(np.repeat(x, 2), np.stack([step - 1.0 / x.size, step], 1).reshape(-1) - np.repeat(x, 2))
        panel.lines[-1].set_color(style.DIVERGENT if mark else style.BLUE)
        _finish(panel, name, mark)
    return figure


def _finish(panel: Axes, name: str, mark: str) -> None:
    panel.set_xlim(0.0, 1.0)
    panel.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    style.ticks(panel, most_y=4)
    panel.set_title(style.plain(name))
    if mark:
        panel.set_title(mark, loc="right", fontsize=7.5, color=style.DIVERGENT)


def _cut(values: Mapping[str, Array]) -> str:
    return "" if len(values) <= LIMIT else f"the {LIMIT} most suspect of {len(values):,} quantities"
