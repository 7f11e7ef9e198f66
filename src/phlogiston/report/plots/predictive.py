"""What was observed against what the posterior predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phlogiston.errors import UnknownName, did_you_mean, problem
from phlogiston.posterior.posterior import Posterior
from phlogiston.report.plots import densities, style
from phlogiston.report.plots.chains import heading
from phlogiston.report.plots.components import Array, DoesNotApply, is_whole, labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ONE_BY_ONE = 40
_COLUMNS = 9
_STATES = 10
_CURVES = 50
_PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class _Data:
    """Observed values ``[n]``, predicted ones ``[draw, n]``, and what to call them."""

    name: str
    observed: Array
    predicted: Array
    labels: list[str] | None
    axis: str

    @property
    def whole(self) -> bool:
        return is_whole(self.observed) and is_whole(self.predicted)

    @property
    def limits(self) -> tuple[float, float]:
        low, high = densities.view(self.predicted)
        return min(low, float(self.observed.min())), max(high, float(self.observed.max()))

    @property
    def few_states(self) -> bool:
        return self.whole and self.limits[1] - self.limits[0] < _STATES


@style.styled
def predictive(posterior: Posterior, site: str | None, *, prior: bool = False) -> Figure:
    """A panel a column of the data; see ``Plots.predictive``."""
    data = _data(posterior, observed_sites(posterior, site), prior)
    count = data[0].observed.size
    names = data[0].name if len(data) == 1 else f"{len(data)} columns"
    title, notes = (
        heading(f"{'Prior predictions' if prior else 'Predictions'} of {names}", posterior),
        [_legend(data[0])],
    )
    if len(data) == 1:
        width = float(np.clip(0.3 * count, 6.0, 10.0)) if count <= _ONE_BY_ONE else 6.5
        figure = style.picture(title, notes, width, 3.6)
        panels = [style.neat(figure.add_subplot())]
    else:
        width = 3.2
        figure, panels = style.panels(title, notes, len(data), (width, 2.4))
    for axes, part in zip(panels, data, strict=True):
        _draw(axes, part, width)
    return figure


def separate_sites(posterior: Posterior) -> list[str]:
    """The observed sites where each needs a picture of its own; none where one picture holds all."""
    if posterior.model is None:
        return []
    observed = posterior.model.structure.observable
    together = len(observed) < 2 or all(not site.shape for site in observed)
    return [] if together else [site.name for site in observed]


def observed_sites(posterior: Posterior, site: str | None, picture: str = "predictive") -> list[str]:
    """The observed sites to show: the one named, the only one, or all where all are single values."""
    where = f"{picture} ({posterior.method})"
    if posterior.model is None:
        found = problem(where, found="a posterior without its model", expected="one", fix="ph.load(path, model=model)")
        raise DoesNotApply(found)
    observed = [s.name for s in posterior.model.structure.observable]
    if site is not None and site not in observed:
        raise UnknownName(f"{where}: found no observed site {site!r}; {did_you_mean(site, observed)}")
    if not observed:
        found = problem(where, found="no observed site", expected="one to compare", fix="model.observe(...)")
        raise DoesNotApply(found)
    if site is None and separate_sites(posterior):
        found = f"{len(observed)} observed sites ({', '.join(observed)})"
        raise DoesNotApply(
            problem(where, found=found, expected="a choice", fix=f'post.plot.{picture}("{observed[0]}")')
        )
    return [site] if site is not None else observed


def _data(posterior: Posterior, names: list[str], prior: bool) -> list[_Data]:
    assert posterior.model is not None  # observed_sites has said so
    kept = posterior.predictions.get("prior_predictive" if prior else "posterior_predictive", {})
    missing = tuple(name for name in names if name not in kept)
    predicted = {**kept, **(posterior.predict(sites=missing, prior=prior) if missing else {})}
    observed = posterior.model.structure.observations
    flat = {name: predicted[name].detach().double().flatten(0, 1).numpy() for name in names}
    if len(names) > 1:
        seen = np.array([float(observed[name]) for name in names])
        values = np.stack([flat[name] for name in names], axis=-1)
        return [_Data(f"{len(names)} values", seen, values, names, "")]
    name = names[0]
    seen = np.broadcast_to(observed[name].detach().double().numpy(), flat[name].shape[1:])
    return _columns(posterior, name, seen, flat[name])


def _columns(posterior: Posterior, name: str, seen: Array, predicted: Array) -> list[_Data]:
    """One part for each of a few columns (the last event dimension), else all in one."""
    assert posterior.model is not None
    site = posterior.model.sites[name]
    labels = labels_of(posterior, name)
    if site.event_dim and seen.ndim > 1 and seen.shape[-1] <= _COLUMNS:
        parts = [(f"{name}[{labels[-1][i]}]", seen[..., i], predicted[..., i]) for i in range(seen.shape[-1])]
        labels, dims = labels[:-1], site.dims[:-1]
    else:
        parts, dims = [(name, seen, predicted)], site.dims
    named = any(dim in posterior.model.coords for dim in dims) or len(dims) > 1
    texts = [
        ", ".join(str(part[i]) for part, i in zip(labels, index, strict=True))
        for index in np.ndindex(*seen.shape[: len(dims)])
    ]
    axis = ", ".join(dim for dim in dims if not dim.startswith(f"{name}_dim_")) or "position"
    return [
        _Data(part, s.reshape(-1), p.reshape(p.shape[0], -1), texts if named else None, axis) for part, s, p in parts
    ]


def _legend(data: _Data) -> str:
    count = data.observed.size
    if count == 1:
        return "bars: predicted; line: observed"
    if count <= _ONE_BY_ONE:
        shades = (
            "shade: predicted probability" if data.few_states else "lines: central 50 % and 90 % of what is predicted"
        )
        return f"{shades}; dots: observed"
    if data.few_states:
        return "bars: observed; lines: central 90 % of predicted data sets"
    return f"black: observed; blue: {min(_CURVES, len(data.predicted))} predicted data sets"


def _draw(axes: Axes, data: _Data, width: float) -> None:
    count = data.observed.size
    if count == 1:
        _single(axes, data)
    elif count <= _ONE_BY_ONE:
        (_shades if data.few_states else _intervals)(axes, data)
        _label_elements(axes, data, width)
    elif data.few_states:
        _frequencies(axes, data)
    else:
        _overlay(axes, data)


def _single(axes: Axes, data: _Data) -> None:
    low, high = data.limits
    edges = densities.bins(data.predicted, low, high)
    axes.stairs(densities.histogram(data.predicted, edges), edges, fill=True, color=style.PALE)
    axes.axvline(float(data.observed[0]), color=style.INK, linewidth=1.6)
    above = float((data.predicted >= data.observed[0]).mean())
    axes.set_title(f"{100.0 * above:.1f} % of predictions are as large", fontsize=8.5, color=style.QUIET, loc="right")
    axes.set_xlabel(style.plain(data.name))
    style.bare_y(axes)


def _intervals(axes: Axes, data: _Data) -> None:
    places = np.arange(data.observed.size)
    lowest, low, middle, high, highest = np.quantile(data.predicted, _PROBABILITIES, axis=0)
    axes.vlines(places, lowest, highest, color=style.PALE, linewidth=2.0)
    axes.vlines(places, low, high, color=style.BLUE, linewidth=4.5)
    axes.plot(places, middle, "_", color="white", markersize=5, markeredgewidth=1.2)
    axes.plot(places, data.observed, "o", color=style.INK, markersize=4.5, markeredgecolor="white", markeredgewidth=0.6)
    inside = int(((data.observed >= lowest) & (data.observed <= highest)).sum())
    text = f"{inside} of {data.observed.size} observed within 90 %"
    axes.set_title(text, fontsize=8.5, color=style.QUIET, loc="right")
    axes.set_ylabel(style.plain(data.name))


def _shades(axes: Axes, data: _Data) -> None:
    from matplotlib.ticker import MaxNLocator

    states = np.arange(data.limits[0], data.limits[1] + 0.5)
    share = (data.predicted[:, None, :] == states[:, None]).mean(axis=0)
    places = np.arange(data.observed.size)
    axes.pcolormesh(places, states, share, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.0)
    for state, row in zip(states, share, strict=True):
        for place, value in zip(places, row, strict=True):
            if data.observed.size <= 20:
                colour = "white" if value > 0.6 else style.INK
                axes.text(place + 0.12, state, f"{value:.2f}", va="center", fontsize=8, color=colour)
    axes.plot(places - 0.15, data.observed, "o", color=style.INK, markersize=6, markeredgecolor="white")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(style.plain(data.name) if data.axis else "value")


def _frequencies(axes: Axes, data: _Data) -> None:
    low, high = data.limits
    states = np.arange(low, high + 0.5)
    observed = (data.observed == states[:, None]).sum(axis=1)
    predicted = np.stack([(data.predicted == state).sum(axis=1) for state in states])
    lowest, middle, highest = np.quantile(predicted, (0.05, 0.5, 0.95), axis=1)
    axes.bar(states, observed, 0.8, color=style.PALE)
    axes.vlines(states, lowest, highest, color=style.INK, linewidth=1.6)
    axes.plot(states, middle, "o", color=style.INK, markersize=4)
    densities.at_whole_numbers(axes, low, high)
    axes.set_xlabel(style.plain(data.name))
    axes.set_ylabel("count")


def _overlay(axes: Axes, data: _Data) -> None:
    some = data.predicted[:: max(1, len(data.predicted) // _CURVES)][:_CURVES]
    low, high = data.limits
    if data.whole:
        edges = densities.bins(data.predicted, low, high)
        for values in some:
            axes.stairs(densities.histogram(values, edges), edges, color=style.BLUE, linewidth=0.6, alpha=0.3)
        axes.stairs(densities.histogram(data.observed, edges), edges, color=style.INK, linewidth=1.8)
    else:
        for values in some:
            axes.plot(*densities.curve(values, low, high), color=style.BLUE, linewidth=0.6, alpha=0.3)
        axes.plot(*densities.curve(data.observed, low, high), color=style.INK, linewidth=1.8)
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(low, high)
    style.ticks(axes, 6)
    style.bare_y(axes)
    axes.set_xlabel(style.plain(data.name))


def _label_elements(axes: Axes, data: _Data, width: float) -> None:
    from matplotlib.ticker import MaxNLocator

    count = data.observed.size
    axes.set_xlim(-0.6, count - 0.4)
    axes.set_xlabel(style.plain(data.axis))
    if data.labels is None:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        return
    texts = [style.plain(text if len(text) <= 18 else text[:17] + "…") for text in data.labels]
    turned = max(map(len, texts)) + 1 > 12.0 * width / count
    axes.set_xticks(range(count), texts)
    if turned and count <= 12:
        axes.set_xticks(range(count), texts, rotation=30, ha="right", rotation_mode="anchor")
    elif turned:
        axes.set_xticks(range(count), texts, rotation=90)
