"""Which observations the posterior hangs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phlogiston.errors import problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import style
from phlogiston.report.plots.chains import heading
from phlogiston.report.plots.components import DoesNotApply, labels_of
from phlogiston.report.plots.predictive import observed_sites

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 8


@style.styled
def khat(posterior: Posterior, site: str | None) -> Figure:
    """k-hat of leaving each observation out; see ``Plots.khat``."""
    names = observed_sites(posterior, site, "khat")
    if len(names) > 1:
        found = problem("khat", found=f"{len(names)} observed sites", expected="a choice", fix=f'khat("{names[0]}")')
        raise DoesNotApply(found)
    result = posterior.loo(names[0])
    values, limit = np.asarray(result.khat, dtype=float), result.limit
    above = values > limit
    finite = values[np.isfinite(values)]
    top = max(float(finite.max()) if finite.size else limit, limit) + 0.2
    values = np.nan_to_num(values, nan=top, posinf=top, neginf=0.0)  # too few draws to say; weights that are all equal
    figure = style.picture(
        heading(f"Leaving out each {names[0]}", posterior), [str(result), f"dashed: the limit {limit:.2f}"], 8.0, 3.0
    )
    axes = style.neat(figure.add_subplot())
    places = np.arange(values.size)
    size = float(np.clip(300.0 / values.size, 1.5, 5.0))
    axes.plot(places[~above], values[~above], "o", color=style.BLUE, markersize=size)
    axes.plot(places[above], values[above], "o", color=style.DIVERGENT, markersize=size)
    axes.axhline(limit, color=style.DIVERGENT, linewidth=1.0, linestyle="--")
    axes.set_ylim(min(float(values.min()) - 0.05, 0.0), top + 0.1)
    texts = _labels(posterior, names[0], values.size)
    for place in np.argsort(-values)[:_NAMED]:
        if above[place]:
            axes.annotate(style.plain(texts[place]), (place, values[place]), (4, 2), textcoords="offset points", size=8)
    axes.set_xlabel("observation")
    axes.set_ylabel("Pareto k-hat")
    style.ticks(axes, 10, whole_x=True)
    return figure


def _labels(posterior: Posterior, site: str, count: int) -> list[str]:
    """What the observations are called: labels where there is one for each, else numbers."""
    names = labels_of(posterior, site)
    texts = [
        ", ".join(str(part[i]) for part, i in zip(names, index, strict=True)) for index in np.ndindex(*map(len, names))
    ]
    return texts if len(texts) == count else [str(i) for i in range(count)]
