"""Intervals of many components under each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import style
from phlogiston.report.plots.chains import heading, name_chains
from phlogiston.report.plots.components import Component, choose
from phlogiston.stats.moments import quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = 40
_CHAINS = 8
_PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)


@style.styled
def forest(posterior: Posterior, sites: Sequence[str] | str | None) -> Figure:
    """A row a component; see ``Plots.forest``."""
    chosen = choose(posterior, sites, _ROWS)
    count = len(chosen.components)
    apart = posterior.num_chains if posterior.is_chain and posterior.num_chains <= _CHAINS else 1
    marks = "dots: medians; lines: central 50 % and 90 %" + (", a line a chain" if apart > 1 else "")
    figure = style.picture(
        heading("Intervals", posterior),
        [chosen.note, marks],
        8.0,
        max(1.6, (0.42 if apart > 1 else 0.24) * count + 0.5),
    )
    axes = style.neat(figure.add_subplot())
    weights = None if posterior.weights is None else posterior.weights.numpy()
    colours = style.chain_colours(apart)
    for row, component in enumerate(chosen.components):
        parts = component.values[:, None] if apart > 1 else component.values.reshape(1, 1, -1)
        for chain, values in enumerate(parts):
            mass = None if weights is None else weights.reshape(1, -1)
            _interval(axes, values, mass, row + (chain - (apart - 1) / 2.0) * 0.7 / max(apart, 3), colours[chain])
    _dress(axes, chosen.components)
    if apart > 1:
        name_chains(figure, colours)
    return figure


def _interval(axes: Axes, values: np.ndarray, weights: np.ndarray | None, height: float, colour: str) -> None:
    lowest, low, middle, high, highest = (float(q) for q in quantiles(values, _PROBABILITIES, weights))
    axes.plot([lowest, highest], [height, height], color=colour, linewidth=0.9, solid_capstyle="butt")
    axes.plot([low, high], [height, height], color=colour, linewidth=2.6, solid_capstyle="butt")
    axes.plot([middle], [height], "o", color="white", markeredgecolor=colour, markersize=3.6, markeredgewidth=1.0)


def _dress(axes: Axes, components: Sequence[Component]) -> None:
    rows = range(len(components))
    axes.set_yticks(rows, [style.plain(component.label) for component in components])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(components) - 0.4, -0.6)
    low, high = axes.get_xlim()
    if low < 0.0 < high:
        axes.axvline(0.0, color=style.QUIET, linewidth=0.6, zorder=0)
    axes.set_xlim(low, high)
    for row, component in enumerate(components):
        axes.text(
            1.01,
            row,
            component.verdict,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=style.QUIET,
        )
