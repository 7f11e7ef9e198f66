"""This library: the programs of ``models/posteriordb/``, each with its best documented setting or with the defaults."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import phlogiston as ph
import phlogiston.inference.infer
import phlogiston.inference.methods.nuts  # loaded when first used; here loading counts as importing, as for the others
from mcmc_peers.run import Run, Sampler
from mcmc_peers.targets import TARGETS, Data

DEFAULT: tuple[str, dict[str, Any]] = ("nuts", {})  # 4 chains of 1,000 + 1,000
# The best documented settings: a block of chains for each core.
MANY: tuple[str, dict[str, Any]] = (
    "nuts",
    {
        "num_chains": 128,
        "chains_per_block": 64,
        "num_warmup": 150,
        "num_samples": 500,
        "engine": "compiled",
    },
)
BEST: dict[str, tuple[str, dict[str, Any]]] = {
    "eight_schools_noncentered": (
        "hmc",
        {
            "num_chains": 512,
            "chains_per_block": 256,
            "num_warmup": 100,
            "num_samples": 1000,
            "target_accept_prob": 0.9,
            "engine": "compiled",
        },
    ),
    "garch11": ("nuts", {**MANY[1], "num_chains": 256, "chains_per_block": 128, "num_warmup": 120}),
    "logistic": (
        "nuts",
        {**MANY[1], "num_chains": 32, "chains_per_block": 16, "num_warmup": 150, "num_samples": 500},
    ),
    "funnel": DEFAULT,
}

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "sblrc_blr": "blr",
    "kidiq_kidscore_momiq": "kidscore_momiq",
    "arK": "ark",
}
_BOOLEAN, _STEPS = "diverging", "n_steps"


def prepare(target: str, setting: str, data: Data) -> Sampler:
    """One model object: later runs reuse what the first traced and compiled."""
    method, settings = BEST.get(target, MANY) if setting == "best" else DEFAULT
    model = _model(target, data)
    blocks = settings.get("num_chains", 0) // settings.get("chains_per_block", 1)
    executor = ProcessPoolExecutor(blocks, mp_context=multiprocessing.get_context("spawn")) if blocks > 1 else None

    def sample(seed: int) -> Run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table judges the draws
            posterior = ph.infer(model, method, seed=seed, progress=False, executor=executor, **settings)
        stats = {name: posterior.stats[name] for name in (_BOOLEAN, _STEPS) if name in posterior.stats}
        return Run(
            draws={name: np.asarray(_parameter(posterior.draws, name)) for name in TARGETS[target].parameters},
            divergences=int(stats[_BOOLEAN].sum()) if _BOOLEAN in stats else None,
            gradients=int(stats[_STEPS].sum()) if _STEPS in stats else None,
            seconds=posterior.seconds,
            note=", ".join(
                [*_shown(method, settings), f"{max(1, blocks)} process{'es' * (blocks > 1)}", posterior.engine]
            ),
        )

    return sample


def _shown(method: str, settings: Mapping[str, Any]) -> list[str]:
    return [method, *(f"{name}={value!r}" for name, value in settings.items() if name != "engine")]


def _model(target: str, data: Data) -> ph.Model:
    """The target as this library's users write it."""
    if target == "logistic":
        return ph.Model(_logistic, torch.as_tensor(data["X"])).observe(y=torch.as_tensor(data["y"]))
    sys.path.insert(0, str(ROOT))
    if target == "funnel":
        found: ph.Model = importlib.import_module("models.funnel").centred_model
        return found
    made: ph.Model = importlib.import_module(f"models.posteriordb.{PROGRAMS.get(target, target)}").model()
    return made


def _parameter(draws: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """A parameter as posteriordb names it: the rows of the HMM's transition matrix are one site here."""
    return draws[name] if name in draws else draws["theta"][..., int(name[-1]) - 1, :]


def _logistic(X: torch.Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with pyro.plate("observation", len(X)):
        pyro.sample("y", dist.Bernoulli(logits=X @ beta))
