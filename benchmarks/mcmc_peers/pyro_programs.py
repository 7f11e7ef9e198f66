"""The targets as Pyro programs; each returns the judged sites that it does not sample."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Program = Callable[..., dict[str, Tensor]]


def _flat(name: str, size: int | None = None, *, positive: bool = False) -> Tensor:
    scale = dist.HalfNormal(1.0) if positive else dist.Normal(0.0, 1.0)
    if size is not None:
        return pyro.sample(name, scale.expand([size]).to_event(1).mask(False))
    return pyro.sample(name, scale.mask(False))


def _observe(location: Tensor, scale: Tensor, y: Tensor) -> None:
    with pyro.plate("observation", len(y)):
        pyro.sample("y", dist.Normal(location, scale), obs=y)


def eight_schools_noncentered(y: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = mu + tau * pyro.sample("raw", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)
    return {"theta": theta}


def sblrc_blr(X: Tensor, y: Tensor) -> dict[str, Tensor]:
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    _observe(X @ beta, sigma, y)
    return {}


def kidiq_kidscore_momiq(X: Tensor, y: Tensor) -> dict[str, Tensor]:
    beta = _flat("beta", X.shape[1])
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    _observe(X @ beta, sigma, y)
    return {}


def nes(X: Tensor, y: Tensor) -> dict[str, Tensor]:
    beta = _flat("beta", X.shape[1])
    sigma = _flat("sigma", positive=True)
    _observe(X @ beta, sigma, y)
    return {}


def ar_k(X: Tensor, y: Tensor) -> dict[str, Tensor]:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    _observe(alpha + X @ beta, sigma, y)
    return {}


def garch11(y: Tensor, sigma1: Tensor) -> dict[str, Tensor]:
    mu = _flat("mu")
    alpha0 = _flat("alpha0", positive=True)
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = (1.0 - alpha1) * pyro.sample("share", dist.Uniform(0.0, 1.0))
    pyro.factor("volume", torch.log1p(-alpha1))  # flat in beta1, not in share
    variance = torch.cat([sigma1.reshape(1) ** 2, alpha0 + alpha1 * (y[:-1] - mu) ** 2])
    decay, reach = beta1, 1
    while reach < len(y):  # s_t = x_t + beta1 s_{t-1}, by doubling
        variance = torch.cat([variance[:reach], variance[reach:] + decay * variance[:-reach]])
        decay, reach = decay * decay, 2 * reach
    _observe(mu, variance.sqrt(), y)
    return {"beta1": beta1}


def gp_regr(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    covariance = alpha**2 * torch.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + sigma * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)
    return {}


def low_dim_gauss_mix(y: Tensor) -> dict[str, Tensor]:
    lower = _flat("lower")
    mu = torch.stack([lower, lower + _flat("gap", positive=True)])
    pyro.factor("prior of mu", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = torch.stack([theta, 1.0 - theta])
    with pyro.plate("observation", len(y)):
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, sigma))
        pyro.sample("y", mixture, obs=y)
    return {"mu": mu}


def hmm_example(y: Tensor) -> dict[str, Tensor]:
    theta = [pyro.sample(name, dist.Dirichlet(torch.ones(2))) for name in ("theta1", "theta2")]
    mu = torch.cumsum(torch.stack([_flat("lower", positive=True), _flat("gap", positive=True)]), 0)
    pyro.factor("prior of mu", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])
    steps = torch.stack(theta).log() + emission[1:, None, :]
    while len(steps) > 1:  # the product of all steps, neighbours first
        pairs = len(steps) // 2
        merged = torch.logsumexp(steps[0 : 2 * pairs : 2, :, :, None] + steps[1 : 2 * pairs : 2, None, :, :], 2)
        steps = torch.cat([merged, steps[2 * pairs :]])
    pyro.factor("y", torch.logsumexp(emission[0][:, None] + steps[0], (0, 1)))
    return {"mu": mu}


def logistic(X: Tensor, y: Tensor) -> dict[str, Tensor]:
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with pyro.plate("observation", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)
    return {}


def funnel(size: Tensor) -> dict[str, Tensor]:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("dimension", int(size)):
        pyro.sample("x", dist.Normal(0.0, torch.exp(0.5 * v)))
    return {}


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
