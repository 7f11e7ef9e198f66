"""Pictures that only draws of chains have: traces, ranks, energies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.diagnostics.checks.chains import BFMI_LIMIT
from phlogiston.engine.program.isolate import generator
from phlogiston.errors import problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import densities, style
from phlogiston.report.plots.components import Array, Component, DoesNotApply, choose
from phlogiston.stats import arviz

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 20_000
_ROWS = 8
_MARKED = 15


@style.styled
def trace(posterior: Posterior, sites: Sequence[str] | str | None) -> Figure:
    """Densities by chain beside the draws in order; see ``Plots.trace``."""
    _require_chains(posterior, "trace")
    chosen = choose(posterior, sites)
    divergent = divergences(posterior)
    colours = style.chain_colours(posterior.num_chains)
    shades = "chains from dark to light" if posterior.num_chains > _ROWS else ""
    title, notes = heading("Trace", posterior), [chosen.note, divergence_note(divergent, "ticks"), shades]
    count = len(chosen.components)
    figure = style.picture(title, notes, 10.0, max(2.4, 1.25 * count))
    grid = figure.add_gridspec(count, 2, width_ratios=[1.0, 2.0])
    for row, component in enumerate(chosen.components):
        left = style.neat(figure.add_subplot(grid[row, 0]))
        right = style.neat(figure.add_subplot(grid[row, 1]))
        _marginal(left, component, colours, divergent)
        _draws(right, component, colours, divergent)
        if row < count - 1:
            right.tick_params(labelbottom=False)
    right.set_xlabel("draw")
    name_chains(figure, colours)
    return figure


def _marginal(axes: Axes, component: Component, colours: Sequence[Any], divergent: NDArray[np.bool_] | None) -> None:
    low, high = densities.view(component.values)
    for values, colour in zip(component.values, colours, strict=True):
        if component.whole:
            edges = densities.bins(component.values, low, high)
            share = densities.histogram(values, edges)
            marker = "o" if len(share) <= _MARKED else ""
            axes.plot((edges[:-1] + edges[1:]) / 2.0, share, marker=marker, color=colour, markersize=3, linewidth=0.8)
        else:
            axes.plot(*densities.curve(values, low, high), color=colour, linewidth=1.0)
    axes.set_title(style.plain(component.label))
    axes.set_ylim(bottom=0.0)
    if component.whole:
        densities.at_whole_numbers(axes, low, high)
    else:
        axes.set_xlim(low, high)
        style.ticks(axes, 5)
    style.bare_y(axes)
    if divergent is not None and divergent.any():
        _rug(axes, component.values[divergent])


def _draws(axes: Axes, component: Component, colours: Sequence[Any], divergent: NDArray[np.bool_] | None) -> None:
    chains, draws = component.values.shape
    step = max(1, chains * draws // _POINTS)
    for values, colour in zip(component.values, colours, strict=True):
        shown = np.arange(0, draws, step)
        axes.plot(shown, values[shown], color=colour, linewidth=0.6, alpha=0.8)
    low, high = densities.view(component.values)
    room = 0.12 * (high - low)
    axes.set_ylim(low - room, high + room / 2.0)
    axes.set_xlim(-0.5, max(draws - 0.5, 0.5))
    style.ticks(axes, 8, 3, whole_x=True)
    axes.set_title(component.verdict, fontsize=8.5, color=style.QUIET, loc="right")
    if divergent is not None and divergent.any():
        _rug(axes, np.nonzero(divergent)[1].astype(float))


def _rug(axes: Axes, places: Array) -> None:
    axes.plot(
        places,
        np.full(places.shape, 0.045),
        "|",
        transform=axes.get_xaxis_transform(),
        color=style.DIVERGENT,
        markersize=6,
        markeredgewidth=0.9,
        zorder=3,
    )


@style.styled
def rank(posterior: Posterior, sites: Sequence[str] | str | None) -> Figure:
    """Rank histograms by chain; see ``Plots.rank``."""
    _require_chains(posterior, "rank")
    if posterior.num_chains < 2:
        found = problem("rank", found="one chain", expected="several to compare", fix="num_chains=4")
        raise DoesNotApply(found)
    chosen = choose(posterior, sites)
    rows = min(_ROWS, posterior.num_chains)
    note = "" if rows == posterior.num_chains else f"the {rows} chains of each that are furthest from level"
    level = "a row a chain; dashed: level, as they are where chains agree"
    title = heading("Ranks of each chain's draws among all", posterior)
    count = len(chosen.components)
    figure, axes = style.panels(title, [chosen.note, level, note], count, (2.6, 0.9 + 0.3 * rows))
    for panel, component in zip(axes, chosen.components, strict=True):
        _ranks(panel, component, rows, style.chain_colours(posterior.num_chains))
    return figure


def _ranks(axes: Axes, component: Component, rows: int, colours: Sequence[Any]) -> None:
    chains, draws = component.values.shape
    total = chains * draws
    count = int(np.clip(draws // 10, 4, 20))
    tied = generator(0).permutation(total)  # equal values in random order, or discrete sites would never look level
    rank = np.empty(total)
    rank[np.lexsort((tied, component.values.reshape(-1)))] = np.arange(total)
    edges = np.linspace(0.0, total, count + 1)
    found = np.stack([np.histogram(row, edges)[0] for row in rank.reshape(chains, draws)]) * count / draws
    worst = np.sort(np.argsort(-np.square(found - 1.0).sum(1), kind="stable")[:rows])
    height = max(2.0, float(found[worst].max())) * 1.1
    for place, chain in enumerate(worst[::-1]):
        base = place * height
        axes.stairs(base + found[chain], edges, baseline=base, fill=True, color=colours[chain], alpha=0.75)
        axes.axhline(base + 1.0, color=style.INK, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.set_yticks([(place + 0.25) * height for place in range(rows)], [str(chain) for chain in worst[::-1]])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0.0, rows * height)
    axes.set_xlim(0.0, total)
    style.ticks(axes, 3)
    axes.set_title(style.plain(component.label))


@style.styled
def energy(posterior: Posterior) -> Figure:
    """The energy against its change from draw to draw; see ``Plots.energy``."""
    if "energy" not in posterior.stats or posterior.num_draws < 4:
        found = problem(
            f"energy ({posterior.method})",
            found="no energies" if "energy" not in posterior.stats else f"{posterior.num_draws} draws a chain",
            expected="those of a Hamiltonian method",
            fix='ph.infer(model, "nuts").plot.energy()',
        )
        raise DoesNotApply(found)
    energies = posterior.stats["energy"].double().numpy()
    bfmi = arviz.bfmi(energies)
    values = ", ".join(f"{value:.2f}" for value in bfmi[:_ROWS]) + (", …" if bfmi.size > _ROWS else "")
    low = f"lowest {bfmi.min():.2f}; " if bfmi.size > _ROWS else ""
    note = f"E-BFMI {low}by chain {values} (limit {BFMI_LIMIT})"
    figure = style.picture(heading("Energy", posterior), [note], 6.0, 3.4)
    axes = style.neat(figure.add_subplot())
    centred = energies - energies.mean(axis=1, keepdims=True)
    changes = np.diff(energies, axis=1)
    edges = densities.bins(centred, *densities.view(np.concatenate([centred, changes], axis=1)))
    for name, part, colour in (
        ("energy, centred", centred, style.BLUE),
        ("change between draws", changes, style.ORANGE),
    ):
        share = densities.histogram(part, edges)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(share, edges, color=colour, linewidth=1.2, label=name)
    axes.set_xlabel("nats")
    style.bare_y(axes)
    axes.set_ylim(0.0, axes.get_ylim()[1] * 1.15)
    axes.legend(loc="upper right")
    return figure


def _require_chains(posterior: Posterior, picture: str) -> None:
    if posterior.is_chain:
        return
    if posterior.log_weights is not None:
        what, instead = "weighted draws", "post.plot.weights()"
    else:
        what, instead = "independent draws", "post.plot.marginals()"
    found = f"{what}, which have no order to look at"
    expected = "the draws of chains, such as those of 'nuts'"
    raise DoesNotApply(problem(f"{picture} ({posterior.method})", found=found, expected=expected, fix=instead))


def heading(what: str, posterior: Posterior) -> str:
    """What a picture shows, and of which run."""
    model = f" on {posterior.model.name}" if posterior.model is not None else ""
    chains, draws = posterior.num_chains, posterior.num_draws
    size = f"{chains} chains × {draws:,} draws" if posterior.is_chain and chains > 1 else f"{chains * draws:,} draws"
    if posterior.log_weights is not None:
        size = f"{draws * chains:,} weighted draws"
    return style.plain(f"{what} · {posterior.method}{model} · {size}")


def divergences(posterior: Posterior) -> NDArray[np.bool_] | None:
    """Which draws diverged, ``[chain, draw]``; None where the method has no such thing."""
    if not posterior.is_chain or "diverging" not in posterior.stats:
        return None
    return posterior.stats["diverging"].bool().numpy()


def divergence_note(divergent: NDArray[np.bool_] | None, mark: str) -> str:
    """How many draws diverged, and how they are marked."""
    if divergent is None:
        return ""
    count = int(divergent.sum())
    return f"{count:,} divergences ({mark})" if count > 1 else f"{count or 'no'} divergence" + "s" * (not count)


def name_chains(figure: Figure, colours: Sequence[Any]) -> None:
    """A line that says which colour is which chain, where there are few enough."""
    if not 1 < len(colours) <= _ROWS:
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=f"chain {i}") for i, colour in enumerate(colours)]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(colours), handlelength=1.2)
