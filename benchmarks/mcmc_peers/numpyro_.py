"""NumPyro's NUTS: 4 chains of 1,000 + 1,000, and 64 vectorised chains of 500 + 250.

``MCMC.run`` is called inside ``jax.jit``: a second call outside one takes seconds, as the start is not compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS

from mcmc_peers.numpyro_programs import SEQUENTIAL, bound
from mcmc_peers.run import Run, Sampler
from mcmc_peers.targets import TARGETS, Array, Data

jax.config.update("jax_enable_x64", True)

SIZES = {"4": (4, 1000, 1000), "64": (64, 500, 250)}  # chains, warm-up, draws
Mapped = Callable[[Any], Any]


def prepare(target: str, setting: str, data: Data) -> Sampler:
    """Warm-up and sampling compiled as one function, which later runs reuse."""
    chains, warmup, draws = SIZES[setting]
    sequential = chains == 4 and target in SEQUENTIAL
    program = bound(target, data, chains)

    @jax.jit
    def whole(key: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        mcmc = MCMC(
            NUTS(program),
            num_warmup=warmup,
            num_samples=draws,
            num_chains=chains,
            chain_method=_one_by_one if sequential else "vectorized",
            progress_bar=False,
        )
        mcmc.run(key, extra_fields=("num_steps", "diverging"))
        found = mcmc.get_samples(group_by_chain=True)
        return {site: found[site] for site in TARGETS[target].parameters}, mcmc.get_extra_fields(group_by_chain=True)

    def sample(seed: int) -> Run:
        found, extra = jax.device_get(whole(jax.random.PRNGKey(seed)))
        draws_of: dict[str, Array] = {site: np.asarray(value) for site, value in found.items()}
        return Run(
            draws=draws_of,
            divergences=int(extra["diverging"].sum()),
            gradients=int(extra["num_steps"].sum()),
            note="chains one by one" if sequential else "",
        )

    return sample


def _one_by_one(chain: Mapped) -> Mapped:
    return partial(jax.lax.map, chain)
