"""Several methods on one model: means, spreads and evidences beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.report.plots import style
from phlogiston.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 8
Row = tuple[str, Mapping[str, Estimate], Mapping[str, Estimate]]


@style.styled
def picture_of(
    title: str, rows: Sequence[Row], evidences: Mapping[str, Estimate], names: Sequence[str], outlier: str
) -> Figure:
    """A row a component and a mark a method.

    Args:
        title: the verdict.
        rows: label, means and sds by method, those that differ most first.
        evidences: by method.
        names: of the methods.
        outlier: the one to mark; "" if none.
    """
    shown = rows[:_MOST]
    more = f"{len(shown)} of {len(rows)} numbers, those that differ most" if len(rows) > _MOST else ""
    notes = ["thick: mean ± 2 Monte Carlo errors", "thin: ± 1 sd", "both in sds from the median method", more]
    height = max(2.2, 0.5 + (0.16 * len(names) + 0.14) * len(shown))
    figure = style.picture(title, notes, 9.0, height)
    grid = figure.add_gridspec(1, 2 if evidences else 1, width_ratios=[1.9, 1.0] if evidences else None)
    colours = dict(zip(names, style.chain_colours(len(names)), strict=True))
    axes = style.neat(figure.add_subplot(grid[0, 0]))
    _moments(axes, shown, names, colours)
    if evidences:
        _evidences(style.neat(figure.add_subplot(grid[0, 1])), evidences, names, colours, outlier)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _moments(axes: Axes, rows: Sequence[Row], names: Sequence[str], colours: Mapping[str, Any]) -> None:
    step = 0.8 / len(names)
    for place, (_, means, sds) in enumerate(rows):
        centre = float(np.median([float(found.value) for found in means.values()]))
        scale = max(float(np.median([float(found.value) for found in sds.values()])), 1e-300)
        for i, name in enumerate(names):
            y = place + (i - (len(names) - 1) / 2) * step
            x, error = (float(means[name].value) - centre) / scale, float(means[name].se) / scale
            spread = float(sds[name].value) / scale
            colour = colours[name]
            axes.plot([x - spread, x + spread], [y, y], color=colour, linewidth=0.8)
            axes.plot([x - 2 * error, x + 2 * error], [y, y], color=colour, linewidth=3.0)
            axes.plot([x], [y], "o", color=colour, markersize=3.5, label=name if not place else None)
    axes.set_yticks(range(len(rows)), [style.plain(label) for label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0.0, color=style.QUIET, linewidth=0.6, linestyle=":")
    axes.set_xlabel("posterior sds")


def _evidences(
    axes: Axes, evidences: Mapping[str, Estimate], names: Sequence[str], colours: Mapping[str, Any], outlier: str
) -> None:
    """One line a method; those without an evidence are named all the same, as the colours' key."""
    for place, name in enumerate(names):
        if name not in evidences:
            continue
        value, error = float(evidences[name].value), float(evidences[name].se)
        colour = colours[name]
        axes.errorbar([value], [place], xerr=[[1.96 * error], [1.96 * error]], fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(names)), [f"{name} (outlier)" if name == outlier else name for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(colours[name])
    axes.set_ylim(len(names) - 0.5, -0.5)
    style.ticks(axes, 4)
    axes.set_xlabel("log evidence, nats; bar: 95 %")
