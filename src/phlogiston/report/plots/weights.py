"""Importance weights, from the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phlogiston.errors import problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import style
from phlogiston.report.plots.chains import heading
from phlogiston.report.plots.components import Array, DoesNotApply
from phlogiston.stats.weights import effective_sample_size, khat_threshold, pareto_smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 2_000


@style.styled
def weights(posterior: Posterior) -> Figure:
    """Sorted weights and what share of the whole they hold; see ``Plots.weights``."""
    if posterior.log_weights is None:
        found = problem(
            f"weights ({posterior.method})",
            found="draws that count the same",
            expected="weighted draws, such as those of 'importance'",
            fix="post.plot.marginals()",
        )
        raise DoesNotApply(found)
    logs = posterior.log_weights.reshape(-1).double().numpy()
    smoothed, khat = pareto_smooth(logs.copy())
    raw = np.sort(np.exp(logs - np.logaddexp.reduce(logs)))[::-1]
    smooth = np.sort(np.exp(smoothed))[::-1]
    ess, limit = effective_sample_size(logs), khat_threshold(logs.size)
    verdict = "to be believed" if khat <= limit else "not to be believed"
    equal = " (the largest weights are equal)" if khat == -np.inf else ""
    khat_text = f"Pareto k-hat {khat:.2f}{equal}, limit {limit:.2f}: {verdict}"
    percent = 100.0 * ess / logs.size
    ess_text = f"ESS {ess:,.0f} of {logs.size:,} ({percent:.{0 if percent >= 1.0 else 2}f} %)"
    figure = style.picture(heading("Importance weights", posterior), [f"{khat_text}; {ess_text}"], 9.0, 3.5)
    grid = figure.add_gridspec(1, 2)
    _sorted(style.neat(figure.add_subplot(grid[0])), raw, smooth)
    _shares(style.neat(figure.add_subplot(grid[1])), smooth)
    return figure


def _sorted(axes: Axes, raw: Array, smooth: Array) -> None:
    places = _places(raw.size)
    axes.plot(places, raw[places - 1], "o", color=style.PALE, markersize=4, label="weights as they are")
    axes.plot(places, smooth[places - 1], color=style.BLUE, linewidth=1.2, label="Pareto-smoothed")
    axes.axhline(1.0 / raw.size, color=style.QUIET, linewidth=0.8, linestyle="--", label="if all were equal")
    axes.set_xscale("log")
    axes.set_yscale("log")
    top = max(float(raw[0]), float(smooth[0]))
    axes.set_ylim(max(float(smooth[smooth > 0.0][-1]), 1e-6 * top) / 2.0, 2.5 * top)
    axes.set_xlabel("rank, from the largest")
    axes.set_ylabel("normalised weight")
    axes.legend(loc="lower left")


def _shares(axes: Axes, smooth: Array) -> None:
    places = _places(smooth.size)
    share = np.cumsum(smooth)
    axes.plot(places, share[places - 1], color=style.BLUE)
    axes.plot(places, places / smooth.size, color=style.QUIET, linewidth=0.8, linestyle="--")
    half = int(np.searchsorted(share, 0.5)) + 1
    bottom = min(float(share[0]), 0.1) / 1.5
    axes.plot([half, half], [bottom, 0.5], color=style.QUIET, linewidth=0.8, linestyle=":")
    axes.set_title(f"half of the sum is in the largest {half:,}", fontsize=8.5, color=style.QUIET)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom, 1.3)
    axes.set_xlabel("so many of the largest weights")
    axes.set_ylabel("their share of the sum")


def _places(size: int) -> np.ndarray:
    """Ranks from 1 on, all of the first and evenly on a log scale after."""
    spaced = np.geomspace(1, size, min(size, _POINTS)).round().astype(int)
    return np.unique(np.concatenate([np.arange(1, min(size, 100) + 1), spaced]))
