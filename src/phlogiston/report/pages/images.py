"""Data that are images, as sheets; latents as a plane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phlogiston.report.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_SMALLEST = 8
_COLUMNS = 10
_MOST_POINTS = 3000


def as_images(values: Array) -> Array | None:
    """``[n, H, W]`` where a batch of data looks like images: ``[n, H, W]``, ``[n, 1, H, W]``, or rows of squares."""
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 3 and min(values.shape[1:]) >= _SMALLEST:
        return values
    side = math.isqrt(values.shape[1]) if values.ndim == 2 else 0
    return values.reshape(-1, side, side) if side >= _SMALLEST and side * side == values.shape[1] else None


@style.styled
def sheet(title: str, rows: list[tuple[str, Array]]) -> Figure:
    """Rows of images, each with its name: ``[n, H, W]``."""
    figure = style.picture(style.plain(title), [], 9.0, 1.15 * len(rows))
    grid = figure.add_gridspec(len(rows), 1)
    low, high = min(float(images.min()) for _, images in rows), max(float(images.max()) for _, images in rows)
    for place, (name, images) in enumerate(rows):
        axes = figure.add_subplot(grid[place])
        shown = images[:_COLUMNS]
        padded = np.pad(shown, ((0, 0), (1, 1), (1, 1)), constant_values=high)
        axes.imshow(np.concatenate(list(padded), axis=1), cmap="Greys", vmin=low, vmax=high, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(style.plain(name), fontsize=8.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


@style.styled
def plane(title: str, names: tuple[str, str], points: Array) -> Figure:
    """Posterior means of two latent coordinates, ``[n, 2]``."""
    figure = style.picture(style.plain(title), [], 6.0, 4.6)
    axes = style.neat(figure.add_subplot())
    step = max(1, len(points) // _MOST_POINTS)
    axes.scatter(points[::step, 0], points[::step, 1], s=7, color=style.BLUE, alpha=0.5, linewidths=0.0)
    axes.set_xlabel(style.plain(names[0]))
    axes.set_ylabel(style.plain(names[1]))
    return figure


@style.styled
def bars(title: str, names: tuple[str, ...], values: Array, active: NDArray[np.bool_]) -> Figure:
    """A bar a latent coordinate; the ones not in use pale."""
    order = np.argsort(-np.nan_to_num(values), kind="stable")[:60]
    figure = style.picture(style.plain(title), ["pale: does not move with the data"], 8.0, 2.4)
    axes = style.neat(figure.add_subplot())
    axes.bar(range(order.size), values[order], color=[style.BLUE if active[i] else style.PALE for i in order])
    axes.set_xticks(range(order.size), [style.plain(names[i]) for i in order], rotation=90 if order.size > 8 else 0)
    axes.set_ylabel("KL, nats")
    return figure
