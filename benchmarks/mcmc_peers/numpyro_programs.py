"""The targets as NumPyro programs, which serve BlackJAX too (through their potential).

Where a program can be written in several ways, or four chains advanced in several ways, what was fastest is here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from mcmc_peers.targets import Data

Program = Callable[..., None]
_REAL, _POSITIVE = constraints.real, constraints.positive


def _flat(name: str, support: constraints.Constraint, size: int | None = None) -> Array:
    return numpyro.sample(name, dist.ImproperUniform(support, (), () if size is None else (size,)))


def eight_schools_noncentered(y: Array, sigma: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(y)):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * raw)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def sblrc_blr(X: Array, y: Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def kidiq_kidscore_momiq(X: Array, y: Array) -> None:
    beta = _flat("beta", _REAL, X.shape[1])
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def nes(X: Array, y: Array) -> None:
    beta = _flat("beta", _REAL, X.shape[1])
    sigma = _flat("sigma", _POSITIVE)
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def ar_k(X: Array, y: Array) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha + X @ beta, sigma), obs=y)


def garch11(y: Array, sigma1: Array) -> None:
    mu = _flat("mu", _REAL)
    alpha0 = _flat("alpha0", _POSITIVE)
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    beta1 = numpyro.deterministic("beta1", (1.0 - alpha1) * share)
    numpyro.factor("volume", jnp.log1p(-alpha1))  # flat in beta1, not in share

    def step(variance: Array, residual: Array) -> tuple[Array, Array]:
        following = alpha0 + alpha1 * residual**2 + beta1 * variance
        return following, following

    first = sigma1**2
    _, later = jax.lax.scan(step, first, y[:-1] - mu)
    numpyro.sample("y", dist.Normal(mu, jnp.sqrt(jnp.concatenate([first[None], later]))), obs=y)


def gp_regr(x: Array, y: Array) -> None:
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    covariance = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


def low_dim_gauss_mix(y: Array) -> None:
    mu = _flat("mu", constraints.ordered_vector, 2)
    numpyro.factor("prior of mu", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    first = jnp.log(theta) + dist.Normal(mu[0], sigma[0]).log_prob(y)
    second = jnp.log1p(-theta) + dist.Normal(mu[1], sigma[1]).log_prob(y)
    numpyro.factor("y", jnp.logaddexp(first, second).sum())


def hmm_example(y: Array) -> None:
    """By halves: what is fastest for few chains."""
    _hmm(y, forward_by_halves)


def hmm_example_many(y: Array) -> None:
    """Step by step: what is fastest where the chains fill the vector units."""
    _hmm(y, forward_by_steps)


def _hmm(y: Array, forward: Callable[[Array, Array], Array]) -> None:
    theta = [numpyro.sample(name, dist.Dirichlet(jnp.ones(2))) for name in ("theta1", "theta2")]
    mu = _flat("mu", constraints.positive_ordered_vector, 2)
    numpyro.factor("prior of mu", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    numpyro.factor("y", forward(jnp.stack(theta), dist.Normal(mu, 1.0).log_prob(y[:, None])))


def forward_by_steps(transition: Array, emission: Array) -> Array:
    """Log likelihood of a hidden Markov model whose first state has no prior weight: the scaled forward recursion.

    Args:
        transition: probabilities ``[from, to]``.
        emission: log densities ``[time, state]``.
    """
    largest = emission.max(1)
    density = jnp.exp(emission - largest[:, None])

    def step(alpha: Array, now: Array) -> tuple[Array, Array]:
        alpha = (alpha[:, None] * transition).sum(0) * now
        return alpha / alpha.sum(), alpha.sum()

    first = density[0].sum()
    _, sums = jax.lax.scan(step, density[0] / first, density[1:])
    return jnp.log(sums).sum() + jnp.log(first) + largest.sum()


def forward_by_halves(transition: Array, emission: Array) -> Array:
    """The same for two states: the product of ``transition * density``, neighbours first, in log2(time) rounds."""
    largest = emission.max(1)
    density = jnp.exp(emission - largest[:, None])
    product, total = transition[None] * density[1:, None, :], largest.sum()
    while len(product) > 1:
        pairs = len(product) // 2
        first, second = product[0 : 2 * pairs : 2], product[1 : 2 * pairs : 2]
        merged = first[:, :, 0, None] * second[:, None, 0, :] + first[:, :, 1, None] * second[:, None, 1, :]
        scale = merged.max((1, 2), keepdims=True)
        total += jnp.log(scale).sum()
        product = jnp.concatenate([merged / scale, product[2 * pairs :]])
    return total + jnp.log((density[0][:, None] * product[0]).sum())


def logistic(X: Array, y: Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)


def funnel(size: Array) -> None:
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    with numpyro.plate("dimension", int(size)):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(0.5 * v)))


PROGRAMS: dict[str, Program] = {
    "eight_schools_noncentered": eight_schools_noncentered,
    "sblrc_blr": sblrc_blr,
    "kidiq_kidscore_momiq": kidiq_kidscore_momiq,
    "arK": ar_k,
    "garch11": garch11,
    "gp_regr": gp_regr,
    "low_dim_gauss_mix": low_dim_gauss_mix,
    "hmm_example": hmm_example,
    "nes": nes,
    "logistic": logistic,
    "funnel": funnel,
}
MANY: dict[str, Program] = {"hmm_example": hmm_example_many}  # what is faster for 64 chains

# Four chains one after the other (``lax.map``) rather than in lockstep (``vmap``), where the longest tree costs more
# than vectorising gains.
SEQUENTIAL = frozenset({"kidiq_kidscore_momiq", "arK", "low_dim_gauss_mix", "nes"})


def bound(target: str, data: Data, chains: int) -> Callable[[], None]:
    """The target's program with its data, as it is fastest for so many chains."""
    program = PROGRAMS[target] if chains < 16 else MANY.get(target, PROGRAMS[target])
    return partial(program, **{name: jnp.asarray(value) for name, value in data.items()})
