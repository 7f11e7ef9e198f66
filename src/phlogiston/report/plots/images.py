"""Pictures of generative models of images: sheets, reconstructions, the plane of two latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.report.plots.style import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, neat, picture, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSES = (BLUE, ORANGE, GREEN, PINK, SKY, "#D55E00", "#7A5195", "#8C6D31", "#4D4D4D", "#C7B42C")


def tiled(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """``[N, H, W]`` -> one image of them in rows of ``columns``, with white lines between."""
    count, height, width = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _shown(axes: Axes, sheet: np.ndarray, low: float, high: float) -> None:
    axes.imshow(sheet, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    axes.set_axis_off()


def _limits(*images: np.ndarray) -> tuple[float, float]:
    return min(float(np.nanmin(i)) for i in images), max(float(np.nanmax(i)) for i in images)


@styled
def sheet(images: np.ndarray, *, columns: int = 12, title: str = "Draws", notes: Sequence[str] = ()) -> Figure:
    """Images ``[N, H, W]`` side by side."""
    images = np.asarray(images, dtype=float)
    whole = tiled(images, columns)
    width = 6.5
    figure = picture(title, list(notes), width, width * whole.shape[0] / whole.shape[1])
    _shown(figure.add_subplot(), whole, *_limits(images))
    return figure


@styled
def reconstructions(
    images: np.ndarray, made: np.ndarray, *, title: str = "Images, and what the latents keep of them"
) -> Figure:
    """Images ``[N, H, W]`` above the decoder's means for them."""
    images, made = np.asarray(images, dtype=float), np.asarray(made, dtype=float)
    pairs = np.concatenate([images, made])
    whole = tiled(pairs, len(images))
    figure = picture(title, ["above: data, below: reconstruction"], 7.0, 7.0 * whole.shape[0] / whole.shape[1])
    _shown(figure.add_subplot(), whole, *_limits(images, made))
    return figure


@styled
def latent_plane(
    means: np.ndarray, labels: np.ndarray, *, title: str = "The latent plane", notes: Sequence[str] = ()
) -> Figure:
    """Posterior means ``[N, 2]`` of data, coloured by class."""
    figure = picture(title, list(notes), 5.6, 4.6)
    axes = neat(figure.add_subplot())
    for i, name in enumerate(np.unique(labels)):
        own = means[labels == name]
        colour = _CLASSES[i % len(_CLASSES)]
        axes.plot(own[:, 0], own[:, 1], ".", ms=3, alpha=0.6, color=colour, label=str(name))
        middle = np.median(own, 0)
        box = {"facecolor": "white", "edgecolor": colour, "boxstyle": "round,pad=0.15", "linewidth": 0.8}
        axes.text(middle[0], middle[1], str(name), fontsize=9, color=INK, ha="center", va="center", bbox=box)
    axes.axhline(0.0, color=QUIET, lw=0.4, zorder=0)
    axes.axvline(0.0, color=QUIET, lw=0.4, zorder=0)
    axes.set(xlabel="E z[0]", ylabel="E z[1]")
    return figure


@styled
def manifold(images: np.ndarray, *, title: str = "What each point of the latent plane decodes to") -> Figure:
    """Decoded images ``[rows, columns, H, W]`` at a grid of points."""
    _, columns, height, width = images.shape
    whole = tiled(np.asarray(images, dtype=float).reshape(-1, height, width), columns, gap=0)
    figure = picture(title, ["points at equal steps of prior probability"], 5.6, 5.6 * whole.shape[0] / whole.shape[1])
    _shown(figure.add_subplot(), whole, *_limits(images))
    return figure
