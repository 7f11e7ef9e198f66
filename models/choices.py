"""Small programs that want one method each, with exact answers: what `method="auto"` is held to.

Every function here, and in models/choices_discrete.py, makes a ``Case``: a model with a ``Reference`` that is closed
form, a finite sum, or quadrature on a grid. The data are invented, or drawn with NumPy from a fixed seed.

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

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from models import choices_discrete
from models.choices_discrete import Case, moments
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

import phlogiston as ph


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


CASES: dict[str, Callable[[], Case]] = choices_discrete.CASES | {
    make.__name__: make
    for make in (
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
