"""PyMC models sampled by nutpie's NUTS (numba): 4 chains of 1,000 + 1,000 on two cores."""

from __future__ import annotations

import numpy as np
import nutpie
import pymc as pm

from mcmc_peers.nutpie_programs import PROGRAMS
from mcmc_peers.run import Run, Sampler
from mcmc_peers.targets import TARGETS, Data


def prepare(target: str, setting: str, data: Data) -> Sampler:
    """One compiled model: later runs reuse it."""
    with pm.Model() as model:
        PROGRAMS[target](**data)
    compiled = nutpie.compile_pymc_model(model, backend="numba")

    def sample(seed: int) -> Run:
        trace = nutpie.sample(
            compiled, draws=1000, tune=1000, chains=int(setting), cores=2, seed=seed, progress_bar=False
        )
        return Run(
            draws={site: np.asarray(trace.posterior[site]) for site in TARGETS[target].parameters},
            divergences=int(trace.sample_stats["diverging"].sum()),
            gradients=int(trace.sample_stats["n_steps"].sum()),
        )

    return sample
