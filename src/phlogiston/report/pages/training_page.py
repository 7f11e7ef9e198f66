"""The page of a trained program."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from phlogiston.errors import PhlogistonWarning, UnsupportedModel
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.predictive_checks import STATISTICS
from phlogiston.report.pages import images
from phlogiston.report.pages.film import sheet
from phlogiston.report.pages.page import Block, Section, Table, Text, dotted, page_of, picture, write
from phlogiston.report.pages.posterior_page import model_section
from phlogiston.report.pages.reproducibility import reproducibility
from phlogiston.report.plots import DoesNotApply, bounds
from phlogiston.training.evaluate.usage import Usage
from phlogiston.training.fitted import Fitted

if TYPE_CHECKING:
    pass

_SHOWN = 10
_DRAWS = 16
_ROWS = 20


def write_fitted(fitted: Fitted, path: str | Path, *, command: str = "") -> Path:
    """Judge, draw and write; see ``Fitted.report``."""
    count = sum(value.numel() for value in fitted.params.values())
    page = page_of(
        fitted.diagnose(),
        title=f"{fitted.model.name} trained by {fitted.method}",
        subtitle=f"{count:,} parameters, seed {fitted.seed}, {fitted.seconds:.1f} s: {fitted.stop_reason}.",
        sections=[section for section in _sections(fitted, command) if section.blocks],
    )
    return write(page, path)


def _sections(fitted: Fitted, command: str) -> Iterator[Section]:
    yield Section("Samples", [*_samples(fitted)])
    yield Section("Latents", [*_latents(fitted)])
    yield Section("Training", [*_training(fitted)])
    yield model_section(fitted.model)
    yield reproducibility(fitted, verb="train", command=command)


def _training(fitted: Fitted) -> Iterator[Block]:
    try:
        figure = bounds.curves(f"Training · {fitted.method} on {fitted.model.name}", fitted.history)
        yield picture(figure, "Curves that have come to rest, none of them running away.")
    except DoesNotApply:
        yield Text("No curves were recorded.")
    figures = [[name.replace("_", " "), f"{value:.5g}"] for name, value in fitted.figures.items()]
    if figures:
        yield Table(("figure", "value"), figures[:_ROWS], figures[_ROWS:])
    rows = [_parameter(name, value.detach().double()) for name, value in fitted.params.items()]
    if rows:
        yield Table(("parameter", "shape", "mean", "sd", "least", "largest"), rows[:_ROWS], rows[_ROWS:])


def _parameter(name: str, value: torch.Tensor) -> list[str]:
    sd = value.std(unbiased=False)
    numbers = (value.mean(), sd, value.min(), value.max())
    return [dotted(name), "×".join(map(str, value.shape)) or "scalar", *(f"{float(x):.4g}" for x in numbers)]


def _samples(fitted: Fitted) -> Iterator[Block]:
    """Data beside what the trained program draws."""
    pairs = _data_and_samples(fitted)
    rows = []
    for name, both in pairs.items():
        for statistic, function in STATISTICS.items():
            rows.append([f"{statistic} of {name}", *(f"{float(function(values)):.4g}" for values in both)])
    if rows:
        yield Table(("statistic", "data", "samples"), rows[:_ROWS], rows[_ROWS:])
    for name, both in pairs.items():
        pair = [images.as_images(values.double().numpy()) for values in both]
        if pair[0] is None or pair[1] is None:
            continue
        sheets = [("data", pair[0]), ("samples", pair[1]), ("more samples", pair[1][_SHOWN:])]
        yield picture(
            images.sheet(f"{name}: data and samples", [s for s in sheets if len(s[1]) >= _SHOWN]), vector=False
        )
    if fitted.state.get("frames"):
        over_time = sheet("Samples over time, of the same noise", fitted.state["frames"], fitted.state["data"])
        yield picture(over_time, "What the generator draws as it learns, beside the data.", vector=False)


def _data_and_samples(fitted: Fitted) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Data and draws by site; for adversarial training, those that were evaluated."""
    if "draws" in fitted.state:
        return {fitted.state["site"]: (fitted.state["data"], fitted.state["draws"])}
    observed = fitted.model.structure.observations
    drawn = fitted.simulate(1, seed=fitted.seed) if observed else {}
    return {name: (data, drawn[name][0]) for name, data in observed.items()}


def _latents(fitted: Fitted) -> Iterator[Block]:
    """What the latents carry, where an amortised guide knows them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhlogistonWarning)  # the verdict says it
            usage = fitted.usage()
            encoded = fitted.posterior(num_samples=_DRAWS, seed=fitted.seed)
    except UnsupportedModel:
        return
    used = f"{int(usage.active.sum())} of {len(usage.names)} coordinates move with the data."
    yield picture(
        images.bars("What each latent coordinate says of the data", usage.names, usage.kl, usage.active), used
    )
    yield from _plane(encoded, usage)
    yield from _reconstructions(fitted, encoded)


def _plane(encoded: Posterior, usage: Usage) -> Iterator[Block]:
    names = [name.split("[")[0] for name in usage.names]
    order = np.argsort(-np.nan_to_num(usage.kl), kind="stable")
    if order.size < 2 or names[order[0]] != names[order[1]] or names[order[0]] not in encoded.draws:
        return
    means = encoded.draws[names[order[0]]].double().mean((0, 1)).numpy()
    flat = means.reshape(len(means), -1)
    first = names.index(names[order[0]])
    x, y = int(order[0]) - first, int(order[1]) - first
    if max(x, y) >= flat.shape[1]:
        return
    labels = (usage.names[order[0]], usage.names[order[1]])
    yield picture(images.plane("Posterior means of the data", labels, flat[:, [x, y]]), vector=len(flat) <= 500)


def _reconstructions(fitted: Fitted, encoded: Posterior) -> Iterator[Block]:
    for name, data in fitted.model.structure.observations.items():
        seen = images.as_images(data.double().numpy())
        if seen is None or len(seen) < _SHOWN:
            continue
        again = encoded.predict(sites=(name,))[name].double().mean((0, 1)).numpy()
        made = images.as_images(again)
        if made is not None:
            rows = [("data", seen), ("mean of what their latents predict", made)]
            yield picture(images.sheet(f"{name}: reconstructions", rows), vector=False)
