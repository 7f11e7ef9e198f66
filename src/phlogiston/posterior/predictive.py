"""Prediction: run the program forward from posterior draws, with everything observed drawn afresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.sites import Plate, Site
from phlogiston.errors import ModelError, UnknownName, did_you_mean, problem
from phlogiston.model.model import Model
from phlogiston.stats.weights import systematic_resample

Draws = dict[str, torch.Tensor]
# Positions along a dimension of a site in the new model, and the positions of the same elements in the draws.
Pairs = tuple[list[int], list[int]]


def predict(
    draws: Mapping[str, torch.Tensor],
    log_weights: torch.Tensor | None,
    models: tuple[Model, Model],
    shape: tuple[int, int],
    *,
    sites: tuple[str, ...],
    seed: int | None,
) -> Draws:
    """Draws ``[chain, draw, *site shape]`` of the sites named, with everything observed drawn afresh.

    Latents keep their posterior values. Where a plate has another size, its elements that were there before keep
    theirs, and new ones are drawn from their prior given the other latents (the population); see ``_same_elements``.
    All latents are drawn where ``draws`` is empty. Weighted draws are resampled first, so that every predictive draw
    counts the same.

    Args:
        draws: site -> ``[chain, draw, *site shape]``, of the model that was fitted.
        log_weights: of the draws, ``[chain, draw]``, or None.
        models: the one that was fitted, and the one to predict from.
        shape: chains and draws.
        sites: what to return.
        seed: of the draws.

    Raises:
        UnknownName: there is no such site.
        ModelError: a latent has another shape than its draws, and not along a plate.
    """
    fitted, model = models
    _require_sites(model, sites)
    rows = shape[0] * shape[1]
    resampling, shuffling, simulating, populating = spawn(seed, 4)
    # Sites that are observed in part are predicted, not kept.
    latents = [site for site in model.structure.of("latent") if site.missing is None and site.name in draws]
    kept = {site.name: draws[site.name].reshape(rows, *draws[site.name].shape[2:]) for site in latents}
    if kept and log_weights is not None:
        picked = systematic_resample(log_weights.reshape(-1).numpy(), rows, generator(resampling))
        shuffled = torch.from_numpy(generator(shuffling).permutation(picked))
        kept = {name: value[shuffled] for name, value in kept.items()}
    same = {site.name: _same_elements(site, fitted, model) for site in latents}
    given = _completed(model, kept, same, populating)
    simulated = model.target().simulate(given, rows, simulating)
    return {name: simulated[name].reshape(*shape, *simulated[name].shape[1:]) for name in sites}


def _require_sites(model: Model, sites: tuple[str, ...]) -> None:
    known = {site.name for site in model.structure.of("latent", "observed", "deterministic")}
    for name in sites:
        if name not in known:
            raise UnknownName(f"predict: program {model.name!r} has no site {name!r}; {did_you_mean(name, known)}")


def _completed(
    model: Model, kept: Draws, same: Mapping[str, list[Pairs] | None], seed: np.random.SeedSequence
) -> Draws:
    """The latents to predict from: elements that were fitted keep their values, new ones are drawn from the prior."""
    given = {name: value for name, value in kept.items() if same[name] is None}
    if partly := {name: pairs for name, pairs in same.items() if pairs is not None and all(new for new, _ in pairs)}:
        # Elements of a plate are independent given everything outside the plate. Replacing some of the elements of a
        # prior draw by their fitted values therefore leaves the distribution of the other elements correct.
        population = model.target().simulate(given, len(next(iter(kept.values()))), seed)
        given |= {name: _replaced(population[name], kept[name], pairs) for name, pairs in partly.items()}
    return given


def _replaced(drawn: torch.Tensor, kept: torch.Tensor, pairs: Sequence[Pairs]) -> torch.Tensor:
    """Draws ``[rows, ...]`` of a site with the values of the elements that are known put in."""
    new, old = (np.ix_(range(len(drawn)), *(pair[which] for pair in pairs)) for which in (0, 1))
    values = drawn.clone()
    values[new] = kept[old].to(values.dtype)
    return values


def _same_elements(site: Site, fitted: Model, model: Model) -> list[Pairs] | None:
    """For each dimension of a latent, which positions hold elements that were there before; None if all are the same.

    Elements of a plate are known by their coordinate label where both models have labels for it, else by their index. A
    plate that holds observations is known by index only as far as the inputs that run along it are what they were:
    new rows of data are new elements.

    Raises:
        ModelError: the shapes differ elsewhere than along a plate.
    """
    before = fitted.structure[site.name]
    plated = {len(site.batch_shape) + plate.dim: plate for plate in site.plates}
    differing = [i for i, (a, b) in enumerate(zip(before.shape, site.shape, strict=False)) if a != b]
    if len(before.shape) != len(site.shape) or not set(differing) <= set(plated):
        raise ModelError(
            problem(
                f"predict, site {site.name!r}",
                found=f"shape {site.shape} with these inputs, where the draws have {before.shape}",
                expected="the same: only plates may have another size",
                fix="inputs of the width that the model was fitted with",
            )
        )
    labels = [(fitted.coords.get(plate.name), model.coords.get(plate.name)) for plate in plated.values()]
    if not differing and all(old is None or new is None or list(old) == list(new) for old, new in labels):
        return None
    everything = [(list(range(size)), list(range(size))) for size in site.shape]
    for i, plate in plated.items():
        everything[i] = _same_positions(plate, before.shape[i], fitted, model)
    return everything


def _same_positions(plate: Plate, size: int, fitted: Model, model: Model) -> Pairs:
    """Positions along a plate of the new model, and the positions of the same elements among ``size`` before."""
    old, new = fitted.coords.get(plate.name), model.coords.get(plate.name)
    if old is not None and new is not None:
        places = {label: place for place, label in enumerate(old)}
        pairs = [(i, places[label]) for i, label in enumerate(new) if label in places]
        return [i for i, _ in pairs], [place for _, place in pairs]
    shared = list(range(min(plate.size, size)))
    holds_data = any(plate.name in {p.name for p in site.plates} for site in fitted.structure.of("observed"))
    if holds_data and plate.size != size:
        shared = [i for i in shared if _has_same_inputs(i, (plate.size, size), fitted, model)]
    return shared, shared


def _has_same_inputs(i: int, sizes: tuple[int, int], fitted: Model, model: Model) -> bool:
    """Whether row ``i`` of every input that runs along a plate, of these new and old sizes, is what it was."""
    rows = ((_rows(fitted.inputs.get(name), sizes[1]), _rows(value, sizes[0])) for name, value in model.inputs.items())
    return all(torch.equal(old[i], new[i]) for old, new in rows if old is not None and new is not None)


def _rows(value: Any, size: int) -> torch.Tensor | None:
    """An input that has a row for each element of a plate; None for any other."""
    return value if isinstance(value, torch.Tensor) and value.ndim and len(value) == size else None
