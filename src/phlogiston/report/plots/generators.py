"""Generators side by side: what they draw, and how they measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.report.plots import style
from phlogiston.report.plots.images import tiled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS, _WIDTH = 12, 9.0
_LETTERS = 18  # names that stand side by side under one measure
# What is drawn of the table, and what a perfect generator has where no other data say it.
_MEASURES = {"C2ST": 0.5, "KID": 0.0, "coverage": None, "precision": None, "sharpness": None, "log lik.": None}


@style.styled
def picture_of(shown: Mapping[str, np.ndarray], table: pd.DataFrame) -> Figure:
    """Draws above, a bar a generator for each measure below.

    Args:
        shown: rows of data and of each generator: images, or points of two numbers; others are left out.
        table: a row a generator; "data" is that of a perfect one.
    """
    measures = [name for name in _MEASURES if name in table.columns]
    kind = _kind(next(iter(shown.values())))
    height = {"images": 0.62 * math.ceil(len(next(iter(shown.values()))) / _COLUMNS) * len(shown) * 1.25, "points": 2.4}
    figure = style.picture("Generators of the same data", [], _WIDTH, height.get(kind, 0.0) + 2.0)
    rows = figure.add_gridspec(2, 1, height_ratios=[max(height.get(kind, 0.0), 0.01), 2.0])
    if kind == "images":
        _sheets(figure, rows[0], shown)
    elif kind == "points":
        _points(figure, rows[0], shown)
    below = rows[1].subgridspec(1, len(measures))
    for place, name in enumerate(measures):
        _bars(style.neat(figure.add_subplot(below[0, place])), table[name], name)
    return figure


def _kind(rows: np.ndarray) -> str:
    if rows.ndim == 3:
        return "images"
    return "points" if rows.ndim == 2 and rows.shape[1] == 2 else ""


def _sheets(figure: Figure, place: Any, shown: Mapping[str, np.ndarray]) -> None:
    whole = np.concatenate([rows.reshape(-1) for rows in shown.values()])
    low, high = float(whole.min()), float(whole.max())
    grid = place.subgridspec(len(shown), 1)
    for i, (name, rows) in enumerate(shown.items()):
        axes = figure.add_subplot(grid[i, 0])
        axes.imshow(tiled(rows, _COLUMNS), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(style.plain("held-out data" if name == "data" else name))
        axes.set_anchor("W")
        axes.set_axis_off()


def _points(figure: Figure, place: Any, shown: Mapping[str, np.ndarray]) -> None:
    grid = place.subgridspec(1, len(shown))
    first: Axes | None = None
    for i, (name, rows) in enumerate(shown.items()):
        axes = style.neat(figure.add_subplot(grid[0, i], sharex=first, sharey=first))
        first = first or axes
        axes.plot(rows[:, 0], rows[:, 1], ".", ms=3, alpha=0.6, color=style.BLUE if i else style.QUIET)
        axes.set_title(style.plain("held-out data" if name == "data" else name))


def _bars(axes: Axes, values: pd.Series, name: str) -> None:
    """One bar a generator; a line where a perfect one would be."""
    names = [str(n) for n in values.index if n != "data"]
    colours = style.chain_colours(len(names))
    heights = [float(values[n]) for n in names]
    axes.bar(range(len(names)), heights, 0.6, color=colours)
    perfect = float(values["data"]) if "data" in values.index else _MEASURES[name]
    if perfect is not None and math.isfinite(perfect):
        axes.axhline(perfect, color=style.INK, lw=0.9, ls="--")
    if name == "C2ST":
        axes.set_ylim(0.4, 1.0)
    crowded = len(names) > 3 or max(map(len, names)) * len(names) > _LETTERS
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(names)), [style.plain(n) for n in names], **turned)
    axes.set_title(name)
    style.ticks(axes, most_y=4)
