"""BlackJAX on NumPyro's potentials: window-adapted NUTS, 4 chains, and ChEES-adapted HMC, 64 chains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.adaptation.base import get_filter_adapt_info_fn
from numpyro.infer.util import initialize_model

from mcmc_peers.numpyro_programs import SEQUENTIAL, bound
from mcmc_peers.run import Run, Sampler
from mcmc_peers.targets import TARGETS, Data

jax.config.update("jax_enable_x64", True)

_NOTHING = get_filter_adapt_info_fn()
Position = dict[str, jax.Array]
Density = Callable[[Position], jax.Array]
Kernel = Callable[[jax.Array, Any], tuple[Any, Any]]

# Of Adam, for ChEES: of 0.02, 0.1 and 0.5 the one that mixed with the fewest gradients; 0.1 but for these.
LEARNING_RATE = {"nes": 0.5}


def prepare(target: str, setting: str, data: Data) -> Sampler:
    """Warm-up and sampling compiled as one function, which later runs reuse."""
    chains = 4 if setting == "nuts" else 64
    program = bound(target, data, chains)
    starts = jax.jit(jax.vmap(lambda key: initialize_model(key, program).param_info.z))
    information = initialize_model(jax.random.PRNGKey(0), program)
    constrain = jax.vmap(jax.vmap(information.postprocess_fn))
    rate = LEARNING_RATE.get(target, 0.1)
    run = {
        "nuts": partial(_nuts, sequential=target in SEQUENTIAL),
        "chees": partial(_chees, rate=rate, metric=None),
        "chees-diagonal": partial(_chees, rate=rate, metric="diagonal"),
    }[setting]

    @jax.jit
    def whole(key: jax.Array) -> tuple[Position, jax.Array, jax.Array]:
        starting, sampling = jax.random.split(key)
        positions = starts(jax.random.split(starting, chains))
        position, steps, divergent = run(lambda z: -information.potential_fn(z), positions, sampling)
        values = constrain(position)
        return {site: values[site] for site in TARGETS[target].parameters}, steps.sum(), divergent.sum()

    def sample(seed: int) -> Run:
        values, steps, divergent = jax.block_until_ready(whole(jax.random.PRNGKey(seed)))
        return Run(
            draws={site: np.asarray(value) for site, value in values.items()},
            divergences=int(divergent),
            gradients=int(steps),
        )

    return sample


def _nuts(density: Density, positions: Position, key: jax.Array, *, sequential: bool) -> tuple[Any, ...]:
    """Each of 4 chains adapts by itself, 1,000 + 1,000."""

    def one_chain(key: jax.Array, position: Position) -> tuple[Any, ...]:
        warming, sampling = jax.random.split(key)
        warmup = blackjax.window_adaptation(blackjax.nuts, density, adaptation_info_fn=_NOTHING)
        (state, parameters), _ = warmup.run(warming, position, num_steps=1000)
        kernel = blackjax.nuts(density, **parameters).step
        return _advance(kernel, state, jax.random.split(sampling, 1000))

    inputs = jax.random.split(key, 4), positions
    return jax.lax.map(lambda of_chain: one_chain(*of_chain), inputs) if sequential else jax.vmap(one_chain)(*inputs)


def _chees(
    density: Density, positions: Position, key: jax.Array, *, rate: float, metric: str | None
) -> tuple[Any, ...]:
    """64 chains, 500 + 250, BlackJAX's defaults; ``metric`` is its opt-in diagonal metric."""
    warming, sampling = jax.random.split(key)
    warmup = blackjax.chees_adaptation(density, 64, adaptation_info_fn=_NOTHING, mass_matrix_estimation=metric)
    (states, parameters), _ = warmup.run(
        warming, positions, step_size=0.1, optim=optax.adam(rate), num_steps=500, max_sampling_steps=250
    )
    step = blackjax.dhmc(density, **parameters).step
    kernel = lambda key, states: jax.vmap(step)(jax.random.split(key, 64), states)  # noqa: E731
    kept = _advance(kernel, states, jax.random.split(sampling, 250))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), kept)


def _advance(kernel: Kernel, state: Any, keys: jax.Array) -> tuple[Any, ...]:
    """Positions, steps and divergences of one transition a key."""

    def step(state: Any, key: jax.Array) -> tuple[Any, tuple[Any, ...]]:
        state, info = kernel(key, state)
        return state, (state.position, info.num_integration_steps, info.is_divergent)

    return jax.lax.scan(step, state, keys)[1]
