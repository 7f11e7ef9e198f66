"""Posteriors on disk: one netCDF file of numbers and text, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from phlogiston.errors import DataFileError, problem
from phlogiston.posterior import arviz_groups, seal
from phlogiston.posterior.plan import Plan
from phlogiston.stats import arviz
from phlogiston.stats.estimate import Estimate

if TYPE_CHECKING:
    from phlogiston.posterior.posterior import Posterior


# The groups of a file that are read one by one; all others hold predictions.
_GROUPS = (
    "posterior",
    "weighted_posterior",
    "sample_stats",
    "marginals",
    "observed_data",
    "constant_data",
    "sampler_state",
    "history",
)


def save(posterior: Posterior, path: Path) -> Path:
    """Write all groups to ``path``, whole or not at all; folders are made.

    Raises:
        DataFileError: it cannot be written; a file that lies there is untouched.
    """
    return seal.write(path, arviz.to_netcdf(arviz_groups.datasets(posterior), {"file_format": seal.MARK}))


def read(path: Path) -> dict[str, Any]:
    """The fields of a posterior that ``save`` wrote, and the data ``observed``.

    Raises:
        DataFileError: there is no such file, it is damaged, of a later version, or not one of ours.
    """
    content = seal.read(path, "posterior.save")
    try:
        return _fields(arviz.from_netcdf(content))
    except DataFileError:
        raise
    except Exception as error:  # readers of HDF5 raise errors of many kinds for bytes that are none
        found = f"no phlogiston posterior ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
        raise DataFileError(problem(str(path), found=found, expected="posterior.save's file")) from error


def _fields(stored: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    attributes = stored["posterior"].attrs
    weighted = _tensors(stored["weighted_posterior"]) if "weighted_posterior" in stored else None
    return {
        "observed": _tensors(stored["observed_data"]) if "observed_data" in stored else {},
        "draws": _tensors(stored["posterior"]) if weighted is None else _without(weighted, "log_weight"),
        "log_weights": None if weighted is None else weighted["log_weight"],
        "stats": _tensors(stored["sample_stats"]) if "sample_stats" in stored else {},
        "marginals": _tensors(stored["marginals"]) if "marginals" in stored else {},
        "state": _state(stored.get("sampler_state")),
        "predictions": {name: _tensors(group) for name, group in stored.items() if name not in _GROUPS},
        "history": {str(name): np.array(values.values) for name, values in _variables(stored.get("history"))},
        "method": str(attributes["method"]),
        "settings": json.loads(attributes["settings"]),
        "is_chain": bool(attributes["is_chain"]),
        "figures": json.loads(attributes["figures"]),
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
    """The samplers' state, block by block of chains, or the parameters of a guide, or nothing.

    Raises:
        ValueError: a part of it is missing, as a file of version 1 may have it whose writer was killed.
    """
    if group is None:
        return {}
    fields: dict[str, set[str]] = {}
    for name in map(str, group.data_vars):
        block, _, field = name.partition(".")
        fields.setdefault(block, set()).add(field)
    blocks = [fields.get(str(number)) for number in range(len(fields))]
    of_chains = any(block.isdigit() for block in fields)
    if not fields or (of_chains and any(block is None or block != blocks[0] for block in blocks)):
        raise ValueError("a part of the samplers' state is missing")
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
