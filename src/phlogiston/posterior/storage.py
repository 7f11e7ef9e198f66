"""Posteriors on disk: one netCDF file of numbers and text, no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from phlogiston.errors import DataFileError, writing
from phlogiston.posterior import arviz_groups
from phlogiston.posterior.plan import Plan
from phlogiston.stats import arviz
from phlogiston.stats.estimate import Estimate

if TYPE_CHECKING:
    from phlogiston.posterior.posterior import Posterior


def save(posterior: Posterior, path: Path) -> Path:
    """Write all groups to ``path``; folders are made."""
    with writing(path):
        arviz.write_netcdf(arviz_groups.datasets(posterior), path)
    return path


def read(path: Path) -> dict[str, Any]:
    """The fields of a posterior that ``save`` wrote, and the data ``observed``.

    Raises:
        DataFileError: there is no such file, or it is not one of ours.
    """
    if not path.exists():
        raise DataFileError(f"{path}: found no such file; expected one written by posterior.save")
    try:
        stored = arviz.read_netcdf(path)
        attributes = stored["posterior"].attrs
        method, figures = str(attributes["method"]), json.loads(attributes["figures"])
    except (OSError, KeyError, ValueError) as error:
        raise DataFileError(
            f"{path}: found no phlogiston posterior ({error}); expected posterior.save's file"
        ) from error
    weighted = _tensors(stored["weighted_posterior"]) if "weighted_posterior" in stored else None
    known = {
        "posterior",
        "weighted_posterior",
        "sample_stats",
        "marginals",
        "observed_data",
        "constant_data",
        "sampler_state",
        "history",
    }
    return {
        "observed": _tensors(stored["observed_data"]) if "observed_data" in stored else {},
        "draws": _tensors(stored["posterior"]) if weighted is None else _without(weighted, "log_weight"),
        "log_weights": None if weighted is None else weighted["log_weight"],
        "stats": _tensors(stored["sample_stats"]) if "sample_stats" in stored else {},
        "marginals": _tensors(stored["marginals"]) if "marginals" in stored else {},
        "state": _state(stored.get("sampler_state")),
        "predictions": {name: _tensors(group) for name, group in stored.items() if name not in known},
        "history": {str(name): np.array(values.values) for name, values in _variables(stored.get("history"))},
        "method": method,
        "settings": json.loads(attributes["settings"]),
        "is_chain": bool(attributes["is_chain"]),
        "figures": figures,
        "seed": int(attributes["seed"]) if "seed" in attributes else None,
        "seconds": float(attributes["sampling_time"]),
        "engine": str(attributes["engine"]),
        "warnings": tuple(json.loads(attributes["warnings"])),
        "interrupted": bool(attributes["interrupted"]),
        "stop_reason": str(attributes.get("stop_reason", "")),
        "log_evidence": _evidence(attributes),
        "plan": Plan.from_json(str(attributes["plan"])) if "plan" in attributes else None,
    }


def _state(group: xr.Dataset | None) -> dict[str, np.ndarray]:
    if group is None:
        return {}
    return {str(name).replace(".", "/", 1): np.array(group[name].values) for name in group.data_vars}


def _variables(group: xr.Dataset | None) -> list[tuple[Any, Any]]:
    return [] if group is None else list(group.data_vars.items())


def _tensors(group: xr.Dataset) -> dict[str, torch.Tensor]:
    return {str(name): torch.from_numpy(np.array(group[name].values)) for name in group.data_vars}


def _without(draws: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in draws.items() if key != name}


def _evidence(attributes: dict[Any, Any]) -> Estimate | None:
    if "log_evidence" not in attributes:
        return None
    value, error = (float(x) for x in attributes["log_evidence"])
    return Estimate(value, error, attributes["log_evidence_kind"])
