"""Small programs that want one method each, with exact answers: what `method="auto"` is held to.

Every function here makes a ``Case``: a model with a ``Reference`` that is closed form, a finite sum, or quadrature on a
grid. The data are invented, or drawn with NumPy from a fixed seed.

    counted_rows      y_i ~ Normal(n_i, 1), n_i ~ Poisson(rate)      a count in every row: nothing to sum, no gradient
    with_a_count      a regression, and a Poisson latent beside it   the same model, another method
    spins             26 coins that all push each other              finite, but the table has 2^26 numbers
    spins_and_field   24 such coins in an unknown field              the same beside a continuous latent
    plated_spins      16 such coins in one plate                     a plate that is not independent
    long_chain        a hidden Markov model of 40 steps              2^40 paths, a table of 4 numbers
    signs             y_i ~ Normal(a_i^2, 1)                         2^4 modes, far apart
    exchangeable      a mixture whose components have no names       2 modes, mirrored
    many_counts       200,000 counts of 8 kinds                      much data, few latents
    many_rows         two factors for each of 3,000 rows             many latents, a pair a row
    groups            20 groups around an unknown mean and spread    a funnel
    field             60 numbers with a known covariance             correlated, and normal
    branching         `if mu > 0` in a program of one latent         cannot be traced
    branching_line    the same in a regression                       cannot be traced, sharp posterior
    rounded           a thermometer that shows whole degrees         no gradient
    outside_torch     a mean computed by NumPy                       no gradient, no trace
    gaps              two of six numbers missing                     missing entries are latents
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


def signs() -> Case:
    """Four numbers of which only the squares were measured."""
    y = np.array([4.0, 6.0, 9.0, 5.0])

    def program() -> None:
        with pyro.plate("i", 4):
            a = pyro.sample("a", dist.Normal(0.0, 3.0))
            pyro.sample("y", dist.Normal(a**2, 1.0))

    a = np.linspace(-8.0, 8.0, 20_001)[:, None]
    weight = norm.logpdf(a, 0.0, 3.0) + norm.logpdf(y, a**2, 1.0)
    weight = np.exp(weight - logsumexp(weight, 0))
    reference = ph.Reference(mean={"a": np.zeros(4)}, sd={"a": np.sqrt((weight * a**2).sum(0))}, source="quadrature")
    return Case(ph.Model(program).observe(y=y), reference)


def exchangeable() -> Case:
    """Two components of equal weight and unknown centres."""
    rng = np.random.default_rng(4)
    x = rng.normal(np.where(rng.random(60) < 0.5, -2.0, 2.0), 1.0)

    def program(size: int) -> None:
        with pyro.plate("component", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("point", size):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(mu[z], 1.0))

    grid = np.linspace(-4.0, 4.0, 401)
    each = norm.logpdf(x, grid[:, None], 1.0)
    weight = (np.logaddexp(each[:, None], each[None]) - np.log(2.0)).sum(-1)
    weight = weight + norm.logpdf(grid, 0.0, 5.0)[:, None] + norm.logpdf(grid, 0.0, 5.0)
    both = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    return Case(ph.Model(program, 60).observe(x=x), moments(weight, mu=both))


def many_counts() -> Case:
    """A rate for each of eight kinds."""
    rng, size = np.random.default_rng(5), 200_000
    kind = rng.integers(0, 8, size)
    y = rng.poisson(np.linspace(1.0, 5.0, 8)[kind])

    def program(kind: Tensor) -> None:
        with pyro.plate("kind", 8):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("event", len(kind)):
            pyro.sample("y", dist.Poisson(rate[kind]))

    shape = 2.0 + np.bincount(kind, weights=y, minlength=8)
    inverse = 1.0 + np.bincount(kind, minlength=8)
    reference = ph.Reference(
        mean={"rate": shape / inverse}, sd={"rate": np.sqrt(shape) / inverse}, source="closed form: gamma and Poisson"
    )
    return Case(ph.Model(program, torch.tensor(kind)).observe(y=y.astype(float)), reference)


def many_rows(size: int = 3000) -> Case:
    """Two factors that five numbers of each row tell of."""
    rng = np.random.default_rng(6)
    loadings = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0], [0.3, 0.2], [-0.4, 0.6]])
    x = rng.normal(size=(size, 2)) @ loadings.T + 0.5 * rng.normal(size=(size, 5))

    def program(loadings: Tensor, size: int) -> None:
        with pyro.plate("row", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T, 0.5).to_event(1))

    covariance = np.linalg.inv(np.eye(2) + loadings.T @ loadings / 0.25)
    reference = ph.Reference(
        mean={"z": x @ loadings @ covariance / 0.25},
        sd={"z": np.broadcast_to(np.sqrt(np.diag(covariance)), (size, 2)).copy()},
        source="closed form: normal",
    )
    return Case(ph.Model(program, torch.tensor(loadings), size).observe(x=x), reference)


def groups(centred: bool = True) -> Case:
    """Twenty groups of four, written centred or not."""
    rng, size = np.random.default_rng(7), 20
    y = rng.normal(rng.normal(1.0, 0.5, size)[:, None], 2.0, (size, 4)).mean(1)

    def program(size: int) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfNormal(2.0))
        with pyro.plate("group", size):
            if centred:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                theta = pyro.deterministic("theta", mu + tau * pyro.sample("raw", dist.Normal(0.0, 1.0)), event_dim=0)
            pyro.sample("y", dist.Normal(theta, 1.0))

    log_tau = np.linspace(-20.0, 3.0, 4001)
    tau = np.exp(log_tau)
    spread = 1.0 + tau[:, None] ** 2
    mu_var = 1.0 / (1.0 / 25.0 + size / spread[:, 0])
    mu_mean = mu_var * (y / spread).sum(1)
    weight = -0.5 * (np.log(spread) + y**2 / spread).sum(1) + 0.5 * np.log(mu_var) + 0.5 * mu_mean**2 / mu_var
    weight = weight - 0.5 * (tau / 2.0) ** 2 + log_tau
    own = tau[:, None] ** 2 / spread
    mean = own * y + (1.0 - own) * mu_mean[:, None]
    var = own + (1.0 - own) ** 2 * mu_var[:, None]
    first = moments(weight, mu=mu_mean, tau=tau, theta=mean, mu_2=mu_var + mu_mean**2, theta_2=var + mean**2)
    sd = {name: np.sqrt(first.mean[f"{name}_2"] - first.mean[name] ** 2) for name in ("mu", "theta")}
    reference = ph.Reference(
        mean={name: first.mean[name] for name in ("mu", "tau", "theta")},
        sd={**sd, "tau": first.sd["tau"]},
        source="quadrature over log tau, the rest in closed form",
    )
    return Case(ph.Model(program, size).observe(y=y), reference)


def field() -> Case:
    """A smooth curve at sixty places, measured at each."""
    place = np.linspace(0.0, 1.0, 60)
    prior = np.exp(-0.5 * (place[:, None] - place) ** 2 / 0.1**2) + 1e-4 * np.eye(60)
    y = np.sin(6.0 * place) + 0.3 * np.random.default_rng(8).normal(size=60)

    def program(factor: Tensor) -> None:
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(60), scale_tril=factor))
        with pyro.plate("place", 60):
            pyro.sample("y", dist.Normal(f, 0.3))

    gain = np.linalg.solve(prior + 0.09 * np.eye(60), prior).T
    reference = ph.Reference(
        mean={"f": gain @ y}, sd={"f": np.sqrt(np.diag(prior - gain @ prior))}, source="closed form: normal"
    )
    return Case(ph.Model(program, torch.tensor(np.linalg.cholesky(prior))).observe(y=y), reference)


def branching() -> Case:
    """A number that is measured better where it is positive."""
    y = np.array([0.4, -0.3, 0.9, 0.1, 0.6])

    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        scale = 1.0 if mu > 0.0 else 2.0
        with pyro.plate("i", 5):
            pyro.sample("y", dist.Normal(mu, scale))

    mu = np.linspace(-10.0, 10.0, 20_001)[:, None]
    weight = norm.logpdf(mu[:, 0], 0.0, 2.0) + norm.logpdf(y, mu, np.where(mu > 0.0, 1.0, 2.0)).sum(1)
    return Case(ph.Model(program).observe(y=y), moments(weight, mu=mu[:, 0]))


def branching_line() -> Case:
    """A straight line through fifty points, in a program that asks for a value."""
    rng = np.random.default_rng(9)
    X = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    y = X @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=50)

    def program(X: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 10.0).to_event(1))
        flip = -1.0 if float(beta[0]) > 1e6 else 1.0
        with pyro.plate("point", 50):
            pyro.sample("y", dist.Normal(flip * (X @ beta), 1.0))

    covariance = np.linalg.inv(np.eye(3) / 100.0 + X.T @ X)
    reference = ph.Reference(
        mean={"beta": covariance @ X.T @ y}, sd={"beta": np.sqrt(np.diag(covariance))}, source="closed form: normal"
    )
    return Case(ph.Model(program, torch.tensor(X)).observe(y=y), reference)


def rounded() -> Case:
    """A temperature and its drift from a thermometer without decimals."""
    time = np.linspace(-1.0, 1.0, 60)
    y = np.floor(20.3 + 3.0 * time) + 0.5 * np.random.default_rng(10).normal(size=60)

    def program(time: Tensor) -> None:
        start = pyro.sample("start", dist.Normal(20.0, 10.0))
        drift = pyro.sample("drift", dist.Normal(0.0, 5.0))
        with pyro.plate("reading", 60):
            pyro.sample("y", dist.Normal(torch.floor(start + drift * time), 0.5))

    start, drift = np.meshgrid(np.linspace(19.0, 22.0, 1001), np.linspace(1.5, 4.5, 1001), indexing="ij")
    weight = norm.logpdf(start, 20.0, 10.0) + norm.logpdf(drift, 0.0, 5.0)
    for t, seen in zip(time, y, strict=True):
        weight = weight + norm.logpdf(seen, np.floor(start + drift * t), 0.5)
    return Case(ph.Model(program, torch.tensor(time)).observe(y=y), moments(weight, start=start, drift=drift))


def outside_torch() -> Case:
    """A mean that NumPy computes, out of reach of any gradient."""
    y = np.array([0.7, 1.1, 0.2])

    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        mean = torch.as_tensor(np.sin(mu.detach().numpy()))
        with pyro.plate("i", 3):
            pyro.sample("y", dist.Normal(mean, 0.5))

    mu = np.linspace(-8.0, 8.0, 20_001)[:, None]
    weight = norm.logpdf(mu[:, 0]) + norm.logpdf(y, np.sin(mu), 0.5).sum(1)
    return Case(ph.Model(program).observe(y=y), moments(weight, mu=mu[:, 0]))


def gaps() -> Case:
    """Six numbers, of which two are missing."""
    y = np.array([1.2, np.nan, 0.8, 2.1, np.nan, 0.5])

    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("i", 6):
            pyro.sample("y", dist.Normal(mu, 1.0))

    known = y[np.isfinite(y)]
    var = 1.0 / (0.25 + known.size)
    mean = var * known.sum()
    filled, lost = np.where(np.isfinite(y), y, mean), np.isnan(y)
    reference = ph.Reference(
        mean={"mu": mean, "y": filled},
        sd={"mu": np.sqrt(var), "y": np.where(lost, np.sqrt(1.0 + var), 0.0)},
        source="closed form: normal",
    )
    return Case(ph.Model(program).observe(y=y, missing="latent"), reference)


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        counted_rows,
        with_a_count,
        spins,
        spins_and_field,
        plated_spins,
        long_chain,
        signs,
        exchangeable,
        many_counts,
        many_rows,
        groups,
        field,
        branching,
        branching_line,
        rounded,
        outside_torch,
        gaps,
    )
}
