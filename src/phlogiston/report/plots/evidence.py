"""The log evidence, and how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phlogiston.errors import problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import style
from phlogiston.report.plots.chains import heading
from phlogiston.report.plots.components import Array, DoesNotApply
from phlogiston.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 200


@style.styled
def evidence(posterior: Posterior) -> Figure:
    """The estimate, or how it settles; see ``Plots.evidence``."""
    found = posterior.log_evidence
    if found is None:
        text = problem(
            f"evidence ({posterior.method})",
            found="no estimate of the evidence",
            expected="that of a method that makes one, such as 'importance' or 'exact'",
            fix='ph.infer(model, "importance").plot.evidence()',
        )
        raise DoesNotApply(text)
    figure = style.picture(heading("Log evidence", posterior), [f"log p(observed) = {found}"], 7.0, 2.8)
    axes = style.neat(figure.add_subplot())
    if posterior.log_weights is None:
        _alone(axes, found)
    else:
        _settling(axes, posterior.log_weights.reshape(-1).double().numpy(), found)
    return figure


def _alone(axes: Axes, found: Estimate) -> None:
    value, error = float(found.value), float(found.se)
    axes.errorbar([value], [0.0], xerr=[[1.96 * error], [1.96 * error]], fmt="o", color=style.BLUE, capsize=3)
    width = max(4.0 * error, 0.02 * abs(value), 0.1)
    axes.set_xlim(value - width, value + width)
    axes.set_ylim(-1.0, 1.0)
    style.bare_y(axes)
    axes.set_xlabel("nats; bar: 95 %" if error else "nats")


def _settling(axes: Axes, logs: Array, found: Estimate) -> None:
    """The estimate from the first n weights, with its 95 % interval, in the order in which they were drawn."""
    top = logs.max()
    weights = np.exp(logs - top)
    places = np.unique(np.geomspace(min(20, logs.size), logs.size, _POINTS).astype(int))
    mean = np.cumsum(weights)[places - 1] / places
    variance = np.maximum(np.cumsum(np.square(weights))[places - 1] / places - np.square(mean), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, error = top + np.log(mean), np.sqrt(variance / places) / mean
    axes.fill_between(places, centre - 1.96 * error, centre + 1.96 * error, color=style.PALE, alpha=0.6, linewidth=0.0)
    axes.plot(places, centre, color=style.BLUE)
    axes.axhline(float(found.value), color=style.QUIET, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("weights, in the order drawn; shade: 95 %")
    axes.set_ylabel("nats")
    shown = centre[np.isfinite(centre)][-max(1, 3 * _POINTS // 4) :]
    room = max(float(np.nanmax(1.96 * error[-3 * _POINTS // 4 :])), 1e-3)
    axes.set_ylim(float(shown.min()) - room, float(shown.max()) + room)
