"""Pyro's NUTS: 1 chain of 300 + 300, float64, no JIT.

Pyro's ``ImproperUniform`` cannot be initialised, so a flat prior is a distribution with the wanted support whose
density is masked out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS

from mcmc_peers.pyro_programs import PROGRAMS
from mcmc_peers.run import Run, Sampler
from mcmc_peers.targets import TARGETS, Data

torch.set_default_dtype(torch.float64)
_WARMUP = _DRAWS = 300


def prepare(target: str, setting: str, data: Data) -> Sampler:
    """Nothing is compiled; every gradient runs the program once, which is how gradients are counted."""
    inputs = {name: torch.as_tensor(value) for name, value in data.items()}
    calls = {"all": 0, "warm-up": 0}

    def program() -> dict[str, torch.Tensor]:
        calls["all"] += 1
        return PROGRAMS[target](**inputs)

    def count(kernel: NUTS, values: Any, stage: str, index: int) -> None:
        if stage != "Sample":
            calls["warm-up"] = calls["all"]

    def sample(seed: int) -> Run:
        pyro.set_rng_seed(seed)
        kernel = NUTS(program)
        mcmc = MCMC(kernel, _DRAWS, warmup_steps=_WARMUP, disable_progbar=True, hook_fn=count)
        mcmc.run()
        gradients = calls["all"] - calls["warm-up"]
        return Run(
            draws=_derived(target, mcmc.get_samples(), inputs),
            divergences=len(mcmc.diagnostics()["divergences"]["chain 0"]),
            gradients=gradients,
        )

    return sample


def _derived(target: str, draws: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The judged sites: what the program returns, given each draw, has those that are not sampled."""
    sites = TARGETS[target].parameters
    rows = []
    for i in range(_DRAWS):
        with torch.no_grad():
            conditioned = pyro.condition(PROGRAMS[target], data={name: value[i] for name, value in draws.items()})
            rows.append({name: draws[name][i] for name in sites if name in draws} | conditioned(**inputs))
    return {site: torch.stack([row[site] for row in rows]).numpy()[None] for site in sites}
