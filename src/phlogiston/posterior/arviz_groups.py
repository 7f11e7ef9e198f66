"""The groups of a posterior in ArviZ's schema: dims from plates, coords from the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from phlogiston import __version__
from phlogiston.engine.program.isolate import generator
from phlogiston.errors import UnknownName, did_you_mean
from phlogiston.stats import arviz
from phlogiston.stats.weights import systematic_resample

if TYPE_CHECKING:
    from phlogiston.posterior.posterior import Posterior


def container(posterior: Posterior) -> Any:
    """ArviZ's own container of all groups."""
    return arviz.container(datasets(posterior))


def datasets(posterior: Posterior) -> dict[str, xr.Dataset]:
    """All groups by name; ``posterior`` first.

    Weighted draws: ``posterior`` holds as many draws resampled in proportion to their weights, and
    ``weighted_posterior`` the draws as they are, with ``log_weight``.
    """
    coords = dict(posterior.model.coords) if posterior.model is not None else {}
    attrs = _attributes(posterior)

    def build(draws: Mapping[str, torch.Tensor], extra: Mapping[str, Any] | None = None) -> xr.Dataset:
        variables = {name: (_dims(posterior, name, value), value.numpy()) for name, value in draws.items()}
        return arviz.dataset(variables, coords, {**attrs, **(extra or {})})

    if posterior.log_weights is None:
        groups = {"posterior": build(posterior.draws)}
    else:
        shape = tuple(posterior.log_weights.shape)
        flat = posterior.log_weights.reshape(-1).numpy()
        picked = torch.from_numpy(systematic_resample(flat, flat.size, generator(posterior.seed)))
        resampled = {
            name: value.flatten(0, 1)[picked].reshape(*shape, *value.shape[2:])
            for name, value in posterior.draws.items()
        }
        groups = {
            "posterior": build(resampled, {"resampled_from_weighted_draws": flat.size}),
            "weighted_posterior": build({**posterior.draws, "log_weight": posterior.log_weights}),
        }
    if posterior.stats:
        groups["sample_stats"] = build(posterior.stats)
    if posterior.state:
        state = {name.replace("/", "."): (_numbered_array(name, a), a) for name, a in posterior.state.items()}
        groups["sampler_state"] = arviz.dataset(state, {}, {})
    if posterior.history:
        history = {name: (("record",), np.asarray(values)) for name, values in posterior.history.items()}
        groups["history"] = arviz.dataset(history, {}, {})
    if posterior.marginals:
        groups["marginals"] = build(posterior.marginals)
    for group, draws in posterior.predictions.items():
        groups[group] = build(draws)
    return {**groups, **_data_groups(posterior, coords)}


def _data_groups(posterior: Posterior, coords: Mapping[str, Sequence[Any]]) -> dict[str, xr.Dataset]:
    if posterior.model is None:
        return {}
    groups = {}
    structure = posterior.model.structure
    observed = {
        name: (
            structure[name].dims if value.ndim == len(structure[name].dims) else _numbered(name, value),
            value.numpy(),
        )
        for name, value in structure.observations.items()
    }
    inputs = {
        f"{name}_input" if name in structure.observations else name: (_numbered(name, value), value.detach().numpy())
        for name, value in posterior.model.inputs.items()
        if isinstance(value, torch.Tensor)
    }
    if observed:
        groups["observed_data"] = arviz.dataset(observed, coords, {})
    if inputs:
        groups["constant_data"] = arviz.dataset(inputs, coords, {})
    return groups


def _numbered(name: str, value: torch.Tensor) -> tuple[str, ...]:
    return tuple(f"{name}_dim_{i}" for i in range(value.ndim))


def _numbered_array(name: str, value: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{name.replace('/', '.')}_dim_{i}" for i in range(value.ndim))


def _dims(posterior: Posterior, name: str, value: torch.Tensor) -> tuple[str, ...]:
    sites = posterior.model.sites if posterior.model is not None else {}
    if name in posterior.marginals and value.ndim and value is posterior.marginals[name]:
        own = sites[name].dims[: value.ndim - 1] if name in sites else _numbered(name, value)[:-1]
        return (*own, f"{name}_state")
    inner = value.ndim - 2
    named = name in sites and len(sites[name].dims) == inner
    return ("chain", "draw", *(sites[name].dims if named else tuple(f"{name}_dim_{i}" for i in range(inner))))


def _attributes(posterior: Posterior) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "created_at": datetime.now(UTC).isoformat(),
        "inference_library": "phlogiston",
        "inference_library_version": __version__,
        "method": posterior.method,
        "settings": json.dumps({name: repr(value) for name, value in posterior.settings.items()}),
        "is_chain": int(posterior.is_chain),
        "figures": json.dumps(dict(posterior.figures)),
        "sampling_time": posterior.seconds,
        "engine": posterior.engine,
        "warnings": json.dumps(list(posterior.warnings)),
        "interrupted": int(posterior.interrupted),
        "stop_reason": posterior.stop_reason,
    }
    if posterior.model is not None:
        attributes["model"] = posterior.model.name
    if posterior.seed is not None:
        attributes["seed"] = posterior.seed
    if posterior.plan is not None:
        attributes["plan"] = posterior.plan.as_json()
    if posterior.log_evidence is not None:
        evidence = posterior.log_evidence
        attributes["log_evidence"] = [float(np.asarray(evidence.value)), float(np.asarray(evidence.se))]
        attributes["log_evidence_kind"] = evidence.kind
    return attributes


def unknown_site(verb: str, name: str, draws: Mapping[str, Any]) -> UnknownName:
    """The error for a site that a posterior has no draws of."""
    return UnknownName(f"{verb}: found no site {name!r}; {did_you_mean(name, draws)}")
