"""Small programs with discrete latents that want one method each, with exact answers: part of models/choices.py.

counted_rows      y_i ~ Normal(n_i, 1), n_i ~ Poisson(rate)      a count in every row: nothing to sum, no gradient
with_a_count      a regression, and a Poisson latent beside it   the same model, another method
spins             26 coins that all push each other              finite, but the table has 2^26 numbers
spins_and_field   24 such coins in an unknown field              the same beside a continuous latent
plated_spins      16 such coins in one plate                     a plate that is not independent
long_chain        a hidden Markov model of 40 steps              2^40 paths, a table of 4 numbers
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from models import nig_regression
from scipy.special import gammaln, logsumexp
from scipy.stats import norm, poisson
from torch import Tensor

import phlogiston as ph


@dataclass(frozen=True)
class Case:
    """A model and its exact answer."""

    model: ph.Model
    reference: ph.Reference


def moments(log_weight: np.ndarray, **values: np.ndarray) -> ph.Reference:
    """The reference from log weights on a grid and each site's value there, ``[*grid, *site shape]``."""
    weight = np.exp(log_weight - logsumexp(log_weight))
    flat = weight.reshape(-1)
    rows = {name: value.reshape(flat.size, *value.shape[weight.ndim :]) for name, value in values.items()}
    mean = {name: np.tensordot(flat, value, 1) for name, value in rows.items()}
    sd = {name: np.sqrt(np.tensordot(flat, (value - mean[name]) ** 2, 1)) for name, value in rows.items()}
    return ph.Reference(mean=mean, sd=sd, log_evidence=float(logsumexp(log_weight)), source="a sum over a grid")


def counted_rows() -> Case:
    """Counts that were only seen through noise."""
    y = np.random.default_rng(1).poisson(4.0, 30) + np.random.default_rng(2).normal(size=30)

    def program(size: int) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        with pyro.plate("row", size):
            n = pyro.sample("n", dist.Poisson(rate))
            pyro.sample("y", dist.Normal(n, 1.0))

    log_rate, n = np.linspace(-3.0, 4.0, 3000), np.arange(60)
    rate = np.exp(log_rate)
    given = poisson.logpmf(n, rate[:, None])[:, None] + norm.logpdf(y[:, None], n)[None]  # [rate, row, n]
    total = logsumexp(given, 2)
    log_weight = 2.0 * np.log(0.5) + 2.0 * log_rate - 0.5 * rate + total.sum(1) + np.log(log_rate[1] - log_rate[0])
    inside, weight = np.exp(given - total[..., None]), np.exp(log_weight - logsumexp(log_weight))
    mean, second = (weight @ (inside @ (n.astype(float) ** power)) for power in (1, 2))
    of_rate = moments(log_weight, rate=rate)
    reference = ph.Reference(
        mean={"rate": of_rate.mean["rate"], "n": mean},
        sd={"rate": of_rate.sd["rate"], "n": np.sqrt(second - mean**2)},
        source="a sum over counts and quadrature over the rate",
    )
    return Case(ph.Model(program, 30).observe(y=y), reference)


def with_a_count() -> Case:
    """``nig_regression`` with a Poisson latent that a measurement tells of."""
    base = nig_regression

    def program(x: Tensor, prior_covariance: Tensor) -> None:
        base.nig_regression(x, prior_covariance)
        count = pyro.sample("count", dist.Poisson(2.0))
        pyro.sample("seen", dist.Normal(count, 0.5))

    n = np.arange(60)
    added = moments(poisson.logpmf(n, 2.0) + norm.logpdf(3.2, n, 0.5), count=n.astype(float))
    reference = ph.Reference(
        mean={**base.reference.mean, **added.mean}, sd={**base.reference.sd, **added.sd}, source="closed form and a sum"
    )
    return Case(ph.Model(program, *base.model.args).observe(y=base.y, seen=3.2), reference)


COUPLING, FIELD = 0.8, 0.3


def _of_spins(count: int) -> tuple[float, float]:
    """P(s_i = 1), and its standard deviation, of spins that all push each other."""
    up = np.arange(count + 1)
    total = 2.0 * up - count
    binomial = gammaln(count + 1) - gammaln(up + 1) - gammaln(count - up + 1)
    weight = binomial + COUPLING / (2 * count) * total**2 + FIELD * total
    p = float(np.exp(weight - logsumexp(weight)) @ (up / count))
    return p, float(np.sqrt(p * (1 - p)))


def spins() -> Case:
    """Twenty-six coins, each a site of its own."""
    size = 26

    def program() -> None:
        states = [pyro.sample(f"s_{i}", dist.Bernoulli(torch.tensor(0.5))) for i in range(size)]
        total = sum(2.0 * s - 1.0 for s in states)
        pyro.factor("coupling", COUPLING / (2 * size) * total**2 + FIELD * total)

    p, sd = _of_spins(size)
    names = [f"s_{i}" for i in range(size)]
    return Case(
        ph.Model(program), ph.Reference(mean=dict.fromkeys(names, p), sd=dict.fromkeys(names, sd), source="a sum")
    )


def plated_spins() -> Case:
    """Sixteen of them in a plate, which the coupling makes dependent."""
    size = 16

    def program() -> None:
        with pyro.plate("coin", size):
            states = pyro.sample("s", dist.Bernoulli(torch.tensor(0.5)))
        total = (2.0 * states - 1.0).sum(-1)
        pyro.factor("coupling", COUPLING / (2 * size) * total**2 + FIELD * total)

    p, sd = _of_spins(size)
    return Case(
        ph.Model(program), ph.Reference(mean={"s": np.full(size, p)}, sd={"s": np.full(size, sd)}, source="a sum")
    )


def spins_and_field() -> Case:
    """Twenty-four of them in a field that is unknown too."""
    size = 24

    def program() -> None:
        h = pyro.sample("h", dist.Normal(0.0, 0.5))
        states = [pyro.sample(f"s_{i}", dist.Bernoulli(torch.tensor(0.5))) for i in range(size)]
        total = sum(2.0 * s - 1.0 for s in states)
        pyro.factor("coupling", COUPLING / (2 * size) * total**2 + h * total / 8.0)
        pyro.sample("seen", dist.Normal(h, 0.3), obs=torch.tensor(0.4))

    h, up = np.linspace(-4.0, 4.0, 2001)[:, None], np.arange(size + 1)
    total = 2.0 * up - size
    weight = norm.logpdf(h, 0.0, 0.5) + norm.logpdf(0.4, h, 0.3) + COUPLING / (2 * size) * total**2 + h * total / 8.0
    weight = weight + gammaln(size + 1) - gammaln(up + 1) - gammaln(size - up + 1)
    found = moments(weight, h=np.broadcast_to(h, weight.shape), p=np.broadcast_to(up / size, weight.shape))
    p, names = float(found.mean["p"]), [f"s_{i}" for i in range(size)]
    return Case(
        ph.Model(program),
        ph.Reference(
            mean={"h": found.mean["h"], **dict.fromkeys(names, p)},
            sd={"h": found.sd["h"], **dict.fromkeys(names, float(np.sqrt(p * (1 - p))))},
            source="a sum over counts and quadrature over the field",
        ),
    )


def long_chain() -> Case:
    """Forty steps of two states seen through normal noise."""
    steps, stay = 40, np.array([[0.9, 0.1], [0.2, 0.8]])
    y = np.random.default_rng(3).normal(np.repeat([0.0, 2.0, 0.0, 2.0], 10), 1.0)

    def program(stay: Tensor) -> None:
        probabilities = torch.tensor([0.5, 0.5])
        for t in pyro.markov(range(steps)):
            z = pyro.sample(f"z_{t}", dist.Categorical(probabilities))
            pyro.sample(f"y_{t}", dist.Normal(2.0 * z, 1.0))
            probabilities = stay[z]

    likelihood = norm.pdf(y[:, None], [0.0, 2.0])
    forward, backward = np.ones((steps, 2)), np.ones((steps, 2))
    forward[0] = 0.5 * likelihood[0]
    for t in range(1, steps):
        forward[t] = (forward[t - 1] / forward[t - 1].sum() @ stay) * likelihood[t]
    for t in reversed(range(steps - 1)):
        backward[t] = stay @ (likelihood[t + 1] * backward[t + 1])
        backward[t] /= backward[t].sum()
    p = forward * backward
    p = (p / p.sum(1, keepdims=True))[:, 1]
    mean = {f"z_{t}": value for t, value in enumerate(p)}
    sd = {f"z_{t}": np.sqrt(value * (1 - value)) for t, value in enumerate(p)}
    model = ph.Model(program, torch.tensor(stay)).observe(**{f"y_{t}": value for t, value in enumerate(y)})
    return Case(model, ph.Reference(mean=mean, sd=sd, source="forward and backward recursions"))


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make for make in (counted_rows, with_a_count, spins, spins_and_field, plated_spins, long_chain)
}
