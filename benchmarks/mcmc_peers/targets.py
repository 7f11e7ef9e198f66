"""The targets: their data as arrays that every peer's program takes, and reference means where there are any.

Data and reference draws are posteriordb's (Magnusson et al. 2024, https://github.com/stan-dev/posteriordb), read from
the ``posterior_database`` folder that ``POSTERIORDB`` names. Regressions come with their design matrix, so a program
does not choose how to index; everything else is as posteriordb has it. Two targets need no file: a simulated logistic
regression and Neal's funnel.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Data = dict[str, Array]
Moments = dict[str, tuple[float, float]]  # scalar -> mean and its standard error

LOGISTIC_SHAPE = (10_000, 50)


@dataclass(frozen=True)
class Target:
    """A posterior to sample.

    Args:
        title: as the table calls it.
        parameters: the sites that are judged, in posteriordb's parametrisation.
        build: the arrays that programs take, from posteriordb's.
        dataset: posteriordb's name of the data, or None.
        reference: posteriordb's name of the reference draws, or None.
    """

    title: str
    parameters: tuple[str, ...]
    build: Callable[[dict[str, Any]], Data]
    dataset: str | None = None
    reference: str | None = None


def database() -> Path:
    """The ``posterior_database`` folder."""
    folder = os.environ.get("POSTERIORDB")
    if not folder or not (Path(folder) / "data").is_dir():
        raise SystemExit(
            f"POSTERIORDB: found {folder!r}; expected posteriordb's posterior_database folder; write: "
            "git clone https://github.com/stan-dev/posteriordb; export POSTERIORDB=$PWD/posteriordb/posterior_database"
        )
    return Path(folder)


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def data_of(name: str) -> Data:
    """A target's data."""
    target = TARGETS[name]
    if target.dataset is None:
        return target.build({})
    return target.build(_read(database() / "data" / "data" / f"{target.dataset}.json.zip"))


def reference_draws(name: str) -> dict[str, Array] | None:
    """Scalar -> reference draws ``[chain, draw]``; None for a target without any."""
    target = TARGETS[name]
    if target.reference is None:
        return None
    chains = _read(database() / "reference_posteriors" / "draws" / "draws" / f"{target.reference}.json.zip")
    return {scalar: np.array([chain[scalar] for chain in chains]) for scalar in chains[0]}


def _arrays(*names: str) -> Callable[[dict[str, Any]], Data]:
    return lambda raw: {name: np.asarray(raw[name], dtype=float) for name in names}


def _kidiq(raw: dict[str, Any]) -> Data:
    iq = np.asarray(raw["mom_iq"], dtype=float)
    return {"X": np.stack([np.ones_like(iq), iq], 1), "y": np.asarray(raw["kid_score"], dtype=float)}


def _nes(raw: dict[str, Any]) -> Data:
    column = {name: np.asarray(raw[name], dtype=float) for name in raw if isinstance(raw[name], list)}
    ages = [(column["age_discrete"] == age).astype(float) for age in (2, 3, 4)]
    rest = [column[name] for name in ("educ1", "gender", "income")]
    ones = np.ones_like(column["income"])
    return {"X": np.stack([ones, column["real_ideo"], column["race_adj"], *ages, *rest], 1), "y": column["partyid7"]}


def _autoregression(raw: dict[str, Any]) -> Data:
    y, lags = np.asarray(raw["y"], dtype=float), int(raw["K"])
    return {"X": np.stack([y[lags - k : len(y) - k] for k in range(1, lags + 1)], 1), "y": y[lags:]}


def _logistic(_: dict[str, Any]) -> Data:
    rows, columns = LOGISTIC_SHAPE
    rng = np.random.default_rng(20240501)
    X = rng.standard_normal((rows, columns))
    beta = 0.3 * rng.standard_normal(columns)  # of the prior's own scale, nine in ten outcomes would be certain
    return {"X": X, "y": (rng.random(rows) < 1.0 / (1.0 + np.exp(-X @ beta))).astype(float)}


TARGETS: dict[str, Target] = {
    "eight_schools_noncentered": Target(
        "eight schools, non-centred",
        ("mu", "tau", "theta"),
        _arrays("y", "sigma"),
        "eight_schools",
        "eight_schools-eight_schools_noncentered",
    ),
    "sblrc_blr": Target("sblrc-blr", ("beta", "sigma"), _arrays("X", "y"), "sblrc", "sblrc-blr"),
    "kidiq_kidscore_momiq": Target("kidiq-kidscore_momiq", ("beta", "sigma"), _kidiq, "kidiq", "kidiq-kidscore_momiq"),
    "arK": Target("arK", ("alpha", "beta", "sigma"), _autoregression, "arK", "arK-arK"),
    "garch11": Target("garch11", ("mu", "alpha0", "alpha1", "beta1"), _arrays("y", "sigma1"), "garch", "garch-garch11"),
    "gp_regr": Target("gp_regr", ("rho", "alpha", "sigma"), _arrays("x", "y"), "gp_pois_regr", "gp_pois_regr-gp_regr"),
    "low_dim_gauss_mix": Target(
        "low_dim_gauss_mix",
        ("mu", "sigma", "theta"),
        _arrays("y"),
        "low_dim_gauss_mix",
        "low_dim_gauss_mix-low_dim_gauss_mix",
    ),
    "hmm_example": Target(
        "hmm_example", ("theta1", "theta2", "mu"), _arrays("y"), "hmm_example", "hmm_example-hmm_example"
    ),
    "nes": Target("nes1980", ("beta", "sigma"), _nes, "nes1980", "nes1980-nes"),
    "logistic": Target("logistic regression, 10,000 x 50, simulated", ("beta",), _logistic),
    "funnel": Target("Neal's funnel, centred, D = 10", ("v", "x"), lambda _: {"size": np.array(9.0)}),
}

# By construction; the mean of x is known too, but no sample estimates it: its tails are too heavy.
EXACT: dict[str, Moments] = {"funnel": {"v": (0.0, 0.0)}}


def scalars(name: str, draws: dict[str, Array]) -> dict[str, Array]:
    """Every judged scalar ``[chain, draw]``, named as posteriordb does: ``beta[1]``."""
    found: dict[str, Array] = {}
    for site in TARGETS[name].parameters:
        value = np.asarray(draws[site], dtype=float)
        if value.ndim == 2:
            found[site] = value
            continue
        flat = value.reshape(*value.shape[:2], math.prod(value.shape[2:]))
        found |= {f"{site}[{i + 1}]": flat[..., i] for i in range(flat.shape[-1])}
    return found
