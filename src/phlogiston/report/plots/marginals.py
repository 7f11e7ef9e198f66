"""Components one by one and in pairs, for draws of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import generator
from phlogiston.errors import UnknownName, did_you_mean, problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import densities, style
from phlogiston.report.plots.chains import divergence_note, divergences, heading
from phlogiston.report.plots.components import Array, Component, DoesNotApply, choose
from phlogiston.stats.moments import quantiles
from phlogiston.stats.weights import systematic_resample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAIRED = 5
_POINTS = 2_000
_NAMED_STATES = 6


@style.styled
def marginals(posterior: Posterior, sites: Sequence[str] | str | None, reference: Mapping[str, Any]) -> Figure:
    """A panel a component; see ``Plots.marginals``."""
    truth = {name: _truth(posterior, name, value) for name, value in reference.items()}
    chosen = choose(posterior, sites)
    weights = None if posterior.weights is None else posterior.weights.numpy()
    exact = [c.site in posterior.marginals for c in chosen.components]
    marks = (
        "line and number: mean; bar below and brackets: central 90 %"
        if not all(c.whole for c in chosen.components)
        else ""
    )
    notes = [
        chosen.note,
        marks,
        "dashed: reference" if any(c.site in truth for c in chosen.components) else "",
        "exact probabilities" if all(exact) else "exact probabilities where filled dark" if any(exact) else "",
    ]
    figure, axes = style.panels(heading("Marginals", posterior), notes, len(chosen.components))
    for panel, component in zip(axes, chosen.components, strict=True):
        panel.set_title(style.plain(component.label))
        if component.site in posterior.marginals:
            _exact(panel, posterior, component)
        else:
            _histogram(panel, component, weights)
        if component.site in truth:
            value = float(truth[component.site][component.index])
            panel.axvline(value, color=style.DIVERGENT, linestyle="--", linewidth=1.3)
            low, high = panel.get_xlim()
            margin = 0.03 * (high - low)
            panel.set_xlim(min(low, value - margin), max(high, value + margin))
    return figure


def _truth(posterior: Posterior, name: str, value: Any) -> Array:
    if name not in posterior.draws:
        raise UnknownName(f"marginals: reference names no site {name!r}; {did_you_mean(name, posterior.draws)}")
    array, shape = np.asarray(value, dtype=float), tuple(posterior.draws[name].shape[2:])
    if array.shape != shape:
        found = problem(
            f"marginals: reference of site {name!r}", found=f"shape {array.shape}", expected=f"shape {shape}"
        )
        raise ValueError(found)
    return array


def _histogram(axes: Axes, component: Component, weights: Array | None) -> None:
    values, mass = densities.finite(component.values, weights)
    if not values.size:
        axes.text(0.5, 0.5, "no finite draws", transform=axes.transAxes, ha="center", color=style.QUIET)
        axes.set_xticks([])
        style.bare_y(axes)
        return
    low, high = densities.view(values, mass)
    edges = densities.bins(values, low, high, mass)
    share = densities.histogram(values, edges, mass)
    if component.whole and len(share) <= densities.MOST_BARS:
        axes.bar((edges[:-1] + edges[1:]) / 2.0, share, 0.8 * (edges[1] - edges[0]), color=style.PALE)
        densities.at_whole_numbers(axes, low, high)
        style.shares(axes, len(share))
        if len(share) <= _NAMED_STATES:
            return
    else:
        axes.stairs(share, edges, fill=True, color=style.PALE)
        axes.set_xlim(low, high)
        style.ticks(axes, 5)
        style.bare_y(axes)
    total = 1.0 if mass is None else mass.sum()
    mean = float(values.mean() if mass is None else (mass * values).sum() / total)
    _mark(axes, mean, *quantiles(values[None], (0.05, 0.95), None if mass is None else mass / total))


def _mark(axes: Axes, mean: float, low: float, high: float) -> None:
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.09 * top, 1.02 * top)
    axes.axhline(0.0, color=style.QUIET, linewidth=0.6)
    axes.plot([low, high], [-0.045 * top] * 2, color=style.BLUE, linewidth=2.6, solid_capstyle="butt")
    axes.plot([mean, mean], [-0.09 * top, top], color=style.BLUE, linewidth=1.1)
    size = max(abs(low), abs(high), abs(mean))
    extra = np.log10(size / (high - low)) if high > low else 0.0  # digits that all of them share
    digits = int(np.clip(3 + np.floor(extra), 3, 12))
    centre, interval = f"{mean:.{digits}g}", f"[{low:.{digits}g}, {high:.{digits}g}]"
    text = f"{centre}  {interval}" if len(centre + interval) < 27 else f"{centre}\n{interval}"
    axes.set_xlabel(text.replace("-", "−"), fontsize=8, color=style.QUIET, loc="left", labelpad=2)


def _exact(axes: Axes, posterior: Posterior, component: Component) -> None:
    share = posterior.marginals[component.site][component.index].double().numpy()
    places = np.arange(share.size)
    axes.bar(places, share, 0.8, color=style.BLUE)
    labels = posterior.model.coords.get(f"{component.site}_state", ()) if posterior.model is not None else ()
    densities.at_whole_numbers(axes, 0.0, share.size - 1.0)
    if len(labels) == share.size <= _NAMED_STATES:
        axes.set_xticks(places, [style.plain(str(name)[:12]) for name in labels])
    style.shares(axes, share.size)


@style.styled
def pair(posterior: Posterior, sites: Sequence[str] | str | None) -> Figure:
    """The lower triangle of a scatter matrix; see ``Plots.pairs``."""
    chosen = choose(posterior, sites, _PAIRED)
    count = len(chosen.components)
    if count < 2:
        found = problem("pair", found="one component", expected="two or more", fix="post.plot.marginals()")
        raise DoesNotApply(found)
    divergent = divergences(posterior)
    shown, marked = _rows(posterior, divergent)
    jittered = "whole numbers are spread a little" if any(c.whole for c in chosen.components) else ""
    resampled = "resampled by weight" if posterior.log_weights is not None else ""
    notes = [chosen.note, divergence_note(divergent, "orange points"), resampled, jittered]
    side = max(6.0, 2.0 * count)
    figure = style.picture(heading("Pairs", posterior), notes, side, 0.85 * side)
    grid = figure.add_gridspec(count, count)
    weights = None if posterior.weights is None else posterior.weights.numpy()
    views = [densities.view(c.values, weights) for c in chosen.components]
    for row, below in enumerate(chosen.components):
        for column, left in enumerate(chosen.components[: row + 1]):
            axes = style.neat(figure.add_subplot(grid[row, column]))
            if row == column:
                _diagonal(axes, below, views[row], weights)
            else:
                for rows, colour, size in ((shown, style.BLUE, 5.0), (marked, style.DIVERGENT, 24.0)):
                    _scatter(axes, left, below, rows, colour, size)
                _limit(axes.set_xlim, views[column], left.whole)
                _limit(axes.set_ylim, views[row], below.whole)
            style.ticks(axes, 3, 3 if row != column else None)
            _outer(axes, row, column, count, left, below)
    return figure


def _rows(posterior: Posterior, divergent: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which draws to show: those that did not diverge, thinned or resampled, and those that did."""
    total = posterior.num_chains * posterior.num_draws
    if posterior.log_weights is not None:
        flat = posterior.log_weights.reshape(-1).numpy()
        return systematic_resample(flat, min(_POINTS, total), generator(posterior.seed)), np.empty(0, dtype=np.int64)
    apart = np.zeros(total, dtype=bool) if divergent is None else divergent.reshape(-1)
    usual, marked = np.nonzero(~apart)[0], np.nonzero(apart)[0]
    return usual[:: max(1, usual.size // _POINTS)], marked[:: max(1, marked.size // _POINTS)]


def _scatter(axes: Axes, left: Component, below: Component, rows: NDArray[np.int64], colour: str, size: float) -> None:
    if not rows.size:
        return
    jitter = generator(0)
    x, y = (
        c.values.reshape(-1)[rows] + (jitter.uniform(-0.25, 0.25, rows.size) if c.whole else 0.0) for c in (left, below)
    )
    apart = colour == style.DIVERGENT  # few among many: to be seen, they need an edge
    alpha = float(np.clip(300.0 / rows.size, 0.25, 1.0 if apart else 0.8))
    axes.scatter(x, y, s=size, color=colour, alpha=alpha, edgecolors="white", linewidths=0.6 if apart else 0.0)


def _diagonal(axes: Axes, component: Component, interval: tuple[float, float], weights: Array | None) -> None:
    edges = densities.bins(component.values, *interval, weights)
    axes.stairs(densities.histogram(component.values, edges, weights), edges, fill=True, color=style.PALE)
    _limit(axes.set_xlim, interval, component.whole)
    style.bare_y(axes)


def _limit(setter: Any, interval: tuple[float, float], whole: bool) -> None:
    margin = 0.6 if whole else 0.03 * (interval[1] - interval[0])
    setter(interval[0] - margin, interval[1] + margin)


def _outer(axes: Axes, row: int, column: int, count: int, left: Component, below: Component) -> None:
    """Labels along the left and the bottom of the matrix only."""
    if row == count - 1:
        axes.set_xlabel(style.plain(left.label))
    else:
        axes.tick_params(labelbottom=False)
    if column == 0 and row > 0:
        axes.set_ylabel(style.plain(below.label))
    elif column > 0:
        axes.tick_params(labelleft=False)
