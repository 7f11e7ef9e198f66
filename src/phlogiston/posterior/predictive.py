"""Prediction: run the program forward from posterior draws, with everything observed drawn afresh."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.sites import Site
from phlogiston.errors import ModelError, UnknownName, did_you_mean, problem
from phlogiston.model.model import Model
from phlogiston.stats.weights import systematic_resample

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

    Raises:
        UnknownName: there is no such site.
        ModelError: a latent has another shape than its draws, and not along a plate.
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
        if site.name not in draws:
            continue
        found = tuple(draws[site.name].shape[2:])
        if found == site.shape:
            given[site.name] = draws[site.name].reshape(rows, *site.shape)
        elif not _plates_alone_differ(site, found):
            raise ModelError(
                problem(
                    f"predict, site {site.name!r}",
                    found=f"shape {site.shape} with these inputs, where the draws have {found}",
                    expected="the same: only along a plate of another size are values drawn anew",
                    fix="inputs of the width that the model was fitted with",
                )
            )
    if given and log_weights is not None:
        picked = systematic_resample(log_weights.reshape(-1).numpy(), rows, generator(resampling))
        shuffled = torch.from_numpy(generator(shuffling).permutation(picked))
        given = {name: value[shuffled] for name, value in given.items()}
    simulated = model.target().simulate(given, rows, simulating)
    return {name: simulated[name].reshape(*shape, *simulated[name].shape[1:]) for name in sites}


def _plates_alone_differ(site: Site, found: tuple[int, ...]) -> bool:
    """Whether draws of that shape differ from the site only where a plate has another size."""
    if len(found) != len(site.shape):
        return False
    plated = {len(site.batch_shape) + plate.dim for plate in site.plates}
    return all(a == b or i in plated for i, (a, b) in enumerate(zip(found, site.shape, strict=True)))
