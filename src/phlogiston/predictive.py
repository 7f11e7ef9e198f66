"""Prediction: run the program forward from posterior draws, with everything observed drawn afresh."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phlogiston.diagnostics import systematic_resample
from phlogiston.engine.isolate import generator, spawn
from phlogiston.errors import UnknownName, did_you_mean
from phlogiston.model import Model

Draws = dict[str, torch.Tensor]


def predict(
    draws: Mapping[str, torch.Tensor],
    log_weights: torch.Tensor | None,
    model: Model,
    shape: tuple[int, int],
    *,
    sites: tuple[str, ...],
    seed: int | None,
) -> Draws:
    """Draws ``[chain, draw, *site shape]`` of the sites named, with everything observed drawn afresh.

    Latents keep their posterior values, except those whose shape is another in ``model`` (a plate of another
    size): these are drawn from their conditional prior, as are all latents where ``draws`` is empty. Weighted
    draws are resampled first, so that every predictive draw counts the same.
    """
    known = {site.name for site in model.structure.of("latent", "observed", "deterministic")}
    for name in sites:
        if name not in known:
            raise UnknownName(f"predict: program {model.name!r} has no site {name!r}; {did_you_mean(name, known)}")
    rows = shape[0] * shape[1]
    resampling, shuffling, simulating = spawn(seed, 3)
    given: Draws = {}
    for site in model.structure.of("latent"):
        if site.missing is not None:  # observed in part: predicted, not kept
            continue
        if site.name in draws and tuple(draws[site.name].shape[2:]) == site.shape:
            given[site.name] = draws[site.name].reshape(rows, *site.shape)
    if given and log_weights is not None:
        picked = systematic_resample(log_weights.reshape(-1).numpy(), rows, generator(resampling))
        shuffled = torch.from_numpy(generator(shuffling).permutation(picked))
        given = {name: value[shuffled] for name, value in given.items()}
    simulated = model.target().simulate(given, rows, simulating)
    return {name: simulated[name].reshape(*shape, *simulated[name].shape[1:]) for name in sites}
