"""Samples over time: a sheet of panels, or an animation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine import files
from phlogiston.errors import SettingError, problem
from phlogiston.report.pages.images import as_images
from phlogiston.report.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Frames = Sequence[tuple[int, torch.Tensor]]

_MOST_PANELS = 16
_SIDE = 5  # pictures along a side of a panel
_MOST_POINTS = 1000
_MILLISECONDS, _LAST = 350, 2000


def film(title: str, frames: Frames, data: torch.Tensor, path: Path) -> Path:
    """Write draws of the same noise at several steps: ``.png``, one sheet; ``.gif``, one after another.

    Args:
        title: what is shown.
        frames: steps and draws ``[n, ...]``.
        data: ``[m, ...]``, which the last panel shows.
        path: of the picture; folders are made.

    Raises:
        SettingError: another kind of file.
    """
    if path.suffix not in (".png", ".gif"):
        raise SettingError(problem("film", found=repr(path.name), expected="a .png or a .gif", fix='"samples.gif"'))
    drawn = io.BytesIO()
    if path.suffix == ".png":
        sheet(title, frames, data).savefig(drawn, format="png", dpi=110)
        return files.write(path, drawn.getvalue())
    from PIL import Image

    pictures = []
    for frame in frames:
        buffer = io.BytesIO()
        sheet(title, [frame], data).savefig(buffer, format="png", dpi=80)
        pictures.append(Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE))
    times = [_MILLISECONDS] * (len(pictures) - 1) + [_LAST]
    pictures[0].save(drawn, format="gif", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return files.write(path, drawn.getvalue())


@style.styled
def sheet(title: str, frames: Frames, data: torch.Tensor) -> Figure:
    """A panel a frame, and one of the data, on the same axes."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _MOST_PANELS - 1)).round().astype(int))
    shown = [(f"step {frames[i][0]:,}", _array(frames[i][1])) for i in chosen]
    shown.append(("data", _array(data)))
    figure, axes = style.panels(style.plain(title), [], len(shown), (2.2, 2.2))
    for panel, (name, values) in zip(axes, shown, strict=True):
        _draw(panel, values, shown[-1][1], style.BLUE if name != "data" else style.INK)
        panel.set_title(name)
    return figure


def _array(values: torch.Tensor) -> Array:
    return np.asarray(values.detach().double().numpy())


def _draw(axes: Axes, values: Array, data: Array, colour: str) -> None:
    pictures = as_images(values)
    if pictures is not None:
        _tiles(axes, pictures, data)
        return
    flat, seen = values.reshape(len(values), -1), data.reshape(len(data), -1)
    if flat.shape[1] == 1:
        low, high = np.quantile(seen, (0.0, 1.0))
        room = 0.3 * (high - low) or 1.0
        bins = np.linspace(low - room, high + room, 50).tolist()
        axes.hist(seen[:, 0], bins, density=True, color=style.QUIET, histtype="step", linewidth=0.8)
        axes.hist(flat[:, 0], bins, density=True, color=colour, alpha=0.6)
        style.bare_y(axes)
        return
    flat, seen = _plane(flat, seen)
    axes.scatter(flat[:_MOST_POINTS, 0], flat[:_MOST_POINTS, 1], s=3.0, color=colour, alpha=0.5, linewidths=0.0)
    low, high = seen.min(0), seen.max(0)
    room = 0.25 * np.maximum(high - low, 1e-9)
    axes.set_xlim(low[0] - room[0], high[0] + room[0])
    axes.set_ylim(low[1] - room[1], high[1] + room[1])
    axes.set_box_aspect(1.0)
    style.ticks(axes, 3, 3)


def _plane(flat: Array, seen: Array) -> tuple[Array, Array]:
    """Both in the plane of the data's first two principal components, where there are more coordinates."""
    if flat.shape[1] == 2:
        return flat, seen
    middle = seen.mean(0)
    axes = np.linalg.svd(seen - middle, full_matrices=False)[2][:2].T
    return (flat - middle) @ axes, (seen - middle) @ axes


def _tiles(axes: Axes, pictures: Array, data: Array) -> None:
    side = min(_SIDE, int(len(pictures) ** 0.5))
    chosen = np.pad(pictures[: side * side], ((0, 0), (1, 1), (1, 1)), constant_values=float(data.max()))
    rows = chosen.reshape(side, side, *chosen.shape[1:]).swapaxes(1, 2)
    axes.imshow(
        rows.reshape(side * chosen.shape[1], -1),
        cmap="Greys",
        vmin=float(data.min()),
        vmax=float(data.max()),
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
