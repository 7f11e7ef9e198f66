"""Bounds of the evidence: how one was climbed, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.errors import problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import style
from phlogiston.report.plots.chains import heading
from phlogiston.report.plots.components import LIMIT, Array, DoesNotApply
from phlogiston.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 2_000
_WINDOWS = 50


@style.styled
def gap(posterior: Posterior) -> Figure:
    """The ELBO, the log evidence and their parts on one scale; see ``Plots.gap``."""
    parts = posterior.decomposition
    if parts is None:
        text = problem(
            f"gap ({posterior.method})",
            found="draws that come from no approximation",
            expected="a method with a guide, such as 'svi'",
            fix='ph.infer(model, "svi").plot.gap()',
        )
        raise DoesNotApply(text)
    note = f"log p(x) − ELBO = KL[q, p] = {float(parts.gap.value):.3f} ± {float(parts.gap.se):.3f} nats"
    figure = style.picture(heading("Evidence and bound", posterior), [note], 8.0, 3.0)
    axes = style.neat(figure.add_subplot())
    ways = (
        (("E[log p(x, z)]", parts.expected_log_joint), ("entropy", parts.entropy), 1.0),
        (("reconstruction", parts.reconstruction), ("−KL[q, p(z)]", parts.kl), -1.0),
    )
    _row(axes, 0, "log p(x)", parts.log_evidence)
    _row(axes, 1, "ELBO", parts.elbo)
    start, end = float(parts.elbo.value), float(parts.log_evidence.value)
    axes.barh(0.5, end - start, 0.35, left=start, color=style.ORANGE, alpha=0.8)
    for row, ((first, base), (second, added), sign) in enumerate(ways, start=2):
        value, change = float(base.value), sign * float(added.value)
        axes.plot([value], [row], "o", color=style.BLUE, markersize=5)
        axes.annotate(
            "", (value + change, row), (value, row), arrowprops={"arrowstyle": "->", "color": style.GREEN, "lw": 1.6}
        )
        axes.text(value, row - 0.16, f"{first} {value:.2f}", fontsize=8, va="bottom", ha="center")
        axes.text(value + change / 2.0, row + 0.12, f"{second} {change:+.2f}", fontsize=8, va="top", ha="center")
    axes.axvline(start, color=style.QUIET, linewidth=0.7, linestyle="--", zorder=0)
    axes.set_yticks([0, 0.5, 1, 2, 3], ["log p(x)", "gap", "ELBO", "= joint + entropy", "= recon. − KL"])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(3.6, -0.5)
    axes.margins(x=0.12)
    axes.set_xlabel("nats")
    return figure


def _row(axes: Axes, row: float, name: str, estimate: Estimate) -> None:
    value, error = float(estimate.value), 1.96 * float(estimate.se)
    axes.errorbar(
        [value], [row], xerr=[[error], [error]], fmt="o", color=style.INK, capsize=3, markersize=5, label=name
    )


@style.styled
def curves(title: str, history: Mapping[str, Array]) -> Figure:
    """Curves of a training or an optimisation, a panel each, with a running mean.

    Args:
        title: what was run.
        history: curve -> one number a record; "step", or another name that ends in it, says at which step each record
            of that length was made.

    Raises:
        DoesNotApply: nothing was recorded.
    """
    steps = {len(v): v for name, v in history.items() if name.endswith("step")}
    named = {n: np.asarray(v, dtype=float) for n, v in history.items() if not n.endswith("step") and np.ndim(v) == 1}
    shown = {name: v for name, v in named.items() if v.size > 1 and np.isfinite(v).any()}
    if not shown:
        raise DoesNotApply(f"history ({title}): found no curve; expected a method that optimises")
    first = list(shown)[:LIMIT]
    note = "" if len(first) == len(shown) else f"the first {LIMIT} of {len(shown)} curves"
    lines = "pale: each record; dark: running mean"
    figure, axes = style.panels(style.plain(title), [lines, note], len(first), (3.2, 2.0))
    for panel, name in zip(axes, first, strict=True):
        values = shown[name]
        places = steps.get(values.size, np.arange(values.size))
        _curve(panel, np.asarray(places, dtype=float), values)
        panel.set_title(style.plain(name))
    return figure


def _curve(axes: Axes, places: Array, values: Array) -> None:
    width = max(1, values.size // _WINDOWS)
    kernel = np.ones(width) / width
    smooth = np.convolve(np.nan_to_num(values, nan=float(np.nanmean(values))), kernel, mode="valid")
    step = max(1, values.size // _POINTS)
    axes.plot(places[::step], values[::step], color=style.PALE, linewidth=0.7)
    axes.plot(places[width - 1 :][::step], smooth[::step], color=style.BLUE, linewidth=1.3)
    late = values[values.size // 10 :]
    finite = late[np.isfinite(late)]
    if finite.size > 1:
        low, high = np.quantile(finite, (0.005, 1.0))
        room = 0.08 * (high - low) or 0.5
        axes.set_ylim(low - room, high + room)
    axes.set_xlabel("step")
    style.ticks(axes, 5, 5)
