"""The page of a posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from phlogiston.engine.program.dependencies import parents_of
from phlogiston.errors import ModelError
from phlogiston.posterior import tables
from phlogiston.posterior.plan import Plan
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.predictive_checks import STATISTICS, compare
from phlogiston.report.pages.graph import MOST_SITES, draw
from phlogiston.report.pages.page import Block, Code, Markup, Section, Table, Text, dotted, page_of, picture, write
from phlogiston.report.pages.reproducibility import reproducibility
from phlogiston.report.plots import DoesNotApply

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.model.model import Model

_ROWS = 24
_MOST_ROWS = 400
_SITES = 4
_DATA_SETS = 1000
_MOST_POINTWISE = 20_000_000


def write_posterior(posterior: Posterior, path: str | Path, *, command: str = "") -> Path:
    """Judge, draw and write; see ``Posterior.report``."""
    name = posterior.model.name if posterior.model is not None else "Posterior"
    size = f"{posterior.num_chains * posterior.num_draws:,} draws"
    if posterior.is_chain:
        size = f"{posterior.num_chains} chains of {posterior.num_draws:,} draws"
    page = page_of(
        posterior.diagnose(),
        title=f"{name} by {posterior.method}",
        subtitle=f"{size}, seed {posterior.seed}, {posterior.seconds:.1f} s. Whether to believe it, and why.",
        sections=[section for section in _sections(posterior, command) if section.blocks],
    )
    return write(page, path)


def _sections(posterior: Posterior, command: str) -> Iterator[Section]:
    if posterior.model is not None:
        yield model_section(posterior.model)
    if posterior.plan is not None:
        yield Section("Choice of method", [*_plan(posterior.plan)])
    yield Section("Summary", [*_summary(posterior), *_drawn(posterior.plot.forest, "Where every component lies.")])
    yield Section("Draws", [*_draws(posterior)])
    yield Section("Pairs", [*_drawn(posterior.plot.pair, _PAIR, vector=False)])
    yield Section("Approximation", [*_approximation(posterior)])
    if posterior.log_weights is not None:
        yield Section("Weights", [*_drawn(posterior.plot.weights, _WEIGHTS)])
    if posterior.model is not None:
        yield Section("Predictive checks", [*_predictive(posterior, posterior.model)])
        yield Section("Leaving out each observation", [*_pointwise(posterior, posterior.model)])
    if posterior.log_evidence is not None:
        yield Section("Evidence", [*_evidence(posterior)])
    yield reproducibility(posterior, verb="infer", command=command)


_TRACE = "Each chain's density, and its draws in order: alike and without trend where the chains have settled."
_RANK = "How each chain's draws rank among all: level where the chains agree."
_ENERGY = "The change of energy from draw to draw should be about as wide as the energy itself."
_PAIR = "Divergences, in orange, gather where the sampler could not follow the posterior."
_WEIGHTS = "A few large weights that hold most of the sum mean that the proposal missed a part of the posterior."
_PREDICTED = "Data that look unlike what the posterior predicts are what the model cannot explain."
_PIT = "Within the shade where each observation is predicted by the others as well as the model claims."
_KHAT = "Observations above the line are so influential that leaving them out cannot be computed from these draws."


def _drawn(make: Callable[[], Figure], caption: str, *, vector: bool = True) -> Iterator[Block]:
    """A picture, where it applies."""
    try:
        figure = make()
    except DoesNotApply:
        return
    yield picture(figure, caption, vector=vector)


def model_section(model: Model) -> Section:
    """The graph and the table of sites."""
    blocks: list[Block] = []
    shown = [site for site in model.sites.values() if site.role != "parameter"]
    if len(shown) <= MOST_SITES:
        parents = parents_of(model)
        blocks.append(Markup(draw(shown, parents)))
        arrows = "" if parents is not None else " What feeds what could not be tracked through this program."
        blocks.append(Text(f"Grey: observed. Dashed: computed. Boxes: plates.{arrows}"))
    rows = [
        [
            dotted(site.name),
            site.role,
            site.distribution or "",
            "×".join(map(str, site.shape)) or "scalar",
            ", ".join(site.dims) if site.role != "parameter" else "",
        ]
        for site in model.sites.values()
    ]
    blocks.append(Table(("site", "role", "distribution", "shape", "dimensions"), rows[:12], rows[12:], numbers=False))
    return Section("Model", blocks)


def _plan(plan: Plan) -> Iterator[Block]:
    """What the choice was made from, what was tried, and what came of it."""
    yield Text(f"Chosen by the library. {plan.story}.")
    yield Table(("", "method", "why", "to write", "tried"), plan.rows(), numbers=False, sentences=True)
    yield Table(("fact", ""), [[name, text] for name, text in plan.facts.items()], numbers=False)
    if plan.advice:
        yield Text(plan.advice)


def _summary(posterior: Posterior) -> Iterator[Block]:
    table = posterior.summary()
    shown = tables.formatted(table.iloc[:_MOST_ROWS])
    rows = [[str(label), *values] for label, values in zip(shown.index, shown.to_numpy().tolist(), strict=True)]
    yield Table(("", *map(str, table.columns)), rows[:_ROWS], rows[_ROWS:])
    if len(table) > _MOST_ROWS:
        yield Text(f"{len(table) - _MOST_ROWS:,} more components are left out; post.summary() has them.")


def _draws(posterior: Posterior) -> Iterator[Block]:
    plot = posterior.plot
    if posterior.is_chain:
        yield from _drawn(plot.trace, _TRACE, vector=False)
        yield from _drawn(plot.rank, _RANK)
        yield from _drawn(plot.energy, _ENERGY)
    else:
        yield from _drawn(plot.marginals, "The marginal of each component.")


def _predictive(posterior: Posterior, model: Model) -> Iterator[Block]:
    sites = [site for site in model.structure.observable if all(site.shape)]
    if not sites:
        return
    prior = not any(site.improper for site in model.structure.of("latent"))
    sources = ("posterior", "prior") if prior else ("posterior",)
    complete = [site.name for site in sites[:_SITES] if site.missing is None]
    if rows := [row for name in complete for source in sources for row in _checks(posterior, model, name, source)]:
        head = ("statistic", "observed", "median predicted", "5 %", "95 %", "p")
        yield Text("p is the share of predicted data sets in which the statistic is larger than in the data.")
        yield Table(head, [row for row in rows if row])
    yield from _pictures_of_predictions(posterior, [site.name for site in sites[:_SITES]], prior)


def _pictures_of_predictions(posterior: Posterior, sites: list[str], prior: bool) -> Iterator[Block]:
    for name in sites if len(sites) > 1 else [None]:
        yield from _drawn(lambda name=name: posterior.plot.predictive(name), _PREDICTED)  # type: ignore[misc]
        if prior:
            show = "What the model expected before it saw the data."
            yield from _drawn(lambda name=name: posterior.plot.predictive(name, prior=True), show)  # type: ignore[misc]


def _checks(posterior: Posterior, model: Model, site: str, source: str) -> list[list[str]]:
    """A row of the table of checks for every statistic of one site."""
    predicted = posterior.predict(sites=(site,), prior=source == "prior")[site].flatten(0, 1)
    some = predicted[:: max(1, len(predicted) // _DATA_SETS)]
    observed = model.structure.observations[site]
    return [_checked(statistic, site, observed, some, source) for statistic in STATISTICS]


def _checked(statistic: str, site: str, observed: torch.Tensor, predicted: torch.Tensor, source: str) -> list[str]:
    """One row of the table of checks; none where the statistic says nothing, as for data of one number."""
    try:
        check = compare(statistic, site, observed, predicted, source)
    except ModelError:
        return []
    if check.replicated.std() == 0.0:
        return []
    low, middle, high = np.quantile(check.replicated, (0.05, 0.5, 0.95))
    numbers = [float(check.observed), middle, low, high]
    return [f"{statistic} of {site}, {source}", *(f"{x:.4g}" for x in numbers), f"{float(check.p_value.value):.3f}"]


def _pointwise(posterior: Posterior, model: Model) -> Iterator[Block]:
    draws = posterior.num_chains * posterior.num_draws
    for site in model.structure.observable[:_SITES]:
        count = int(np.prod(site.batch_shape))
        if count < 2 or count * draws > _MOST_POINTWISE:
            continue
        if count > 3 and not site.event_dim:
            pit = posterior.loo_pit(site.name)
            yield from _drawn(pit.plot, _PIT)
        yield from _drawn(lambda name=site.name: posterior.plot.khat(name), _KHAT)  # type: ignore[misc]


def _approximation(posterior: Posterior) -> Iterator[Block]:
    if posterior.decomposition is None and not posterior.history:
        return
    if posterior.stop_reason:
        yield Text(f"The optimisation ended as {posterior.stop_reason}.")
    if posterior.decomposition is not None:
        yield Code(str(posterior.decomposition))
    yield from _drawn(posterior.plot.gap, "The gap is what the guide cannot express.")
    yield from _drawn(posterior.plot.history, "The bound should have come to rest.")


def _evidence(posterior: Posterior) -> Iterator[Block]:
    yield Text(f"log p(observed) = {posterior.log_evidence} nats.")
    if posterior.log_weights is not None:
        yield from _drawn(posterior.plot.evidence, "The estimate as weights accumulate: it should have come to rest.")
