"""Whether a posterior is one of a model, and whether two models have the same data."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior

_COMPARED = 4  # draws at which two models' densities must be the same


def mismatch(model: Model, posterior: Posterior, label: str) -> str:
    """What shows that a posterior is of other latents, other data or another program; "" where nothing does.

    Args:
        model: whose posterior it should be.
        posterior: with or without its own model.
        label: what the posterior is called in the message.
    """
    for site in model.structure.of("latent", "deterministic"):
        if site.name not in posterior.draws:
            return f"no site {site.name!r}"
        if (shape := tuple(posterior.draws[site.name].shape[2:])) != site.shape:
            return f"site {site.name!r} of shape {shape}, not {site.shape}"
    own = None if posterior.model is model else posterior.model
    if own is not None and (difference := different_data(model, own, "model", label)):
        return difference
    few = {site.name: posterior.samples()[site.name][:_COMPARED] for site in model.structure.of("latent")}
    ours = model.target("loop").log_joint(few)
    theirs = ours if own is None else own.target("loop").log_joint(few)
    possible = not posterior.is_chain or bool(torch.isfinite(ours).all())  # a particle may have no weight
    if not (possible and torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)):
        return "draws to which the model gives another density"
    return ""


def other_observations(model: Model, observed: Mapping[str, torch.Tensor]) -> str:
    """Which site of a model has other data than these; "" if none does. Sites that are not given are not compared."""
    ours = model.structure.observations
    differences = (
        _difference(name, ours[name], value, "model", "file") for name, value in observed.items() if name in ours
    )
    return next((difference for difference in differences if difference), "")


def different_data(one: Model, other: Model, first: str, second: str) -> str:
    """Which site of two models has other data, and how they differ; "" if none does."""
    known, given = (
        {site.name: model.structure.observations[site.name] for site in model.structure.observable}
        for model in (one, other)
    )
    sites = sorted(set(known) | set(given))
    differences = (_difference(site, known.get(site), given.get(site), first, second) for site in sites)
    return next((difference for difference in differences if difference), "")


def _difference(site: str, one: torch.Tensor | None, other: torch.Tensor | None, first: str, second: str) -> str:
    if one is None or other is None:
        return f"data {site!r} observed by {first if other is None else second!r} alone"
    if one.shape != other.shape:
        return f"data {site!r} of shape {tuple(one.shape)} in {first!r} and {tuple(other.shape)} in {second!r}"
    unequal = int((~torch.isclose(one.double(), other.double(), rtol=1e-6, atol=0.0, equal_nan=True)).sum())
    return f"data {site!r} that differ in {unequal} of {one.numel()} numbers ({first!r}, {second!r})" if unequal else ""
