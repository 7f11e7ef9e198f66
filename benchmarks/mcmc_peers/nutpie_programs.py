"""The targets as PyMC models.

Of the ways to write the two time series, those are here that gave nutpie the most: ``pytensor.scan`` for garch11 (a
triangular matrix of powers gave half as much, doubling did not compile in ten minutes), a product of matrices by halves
for hmm_example.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.transforms import Chain, log, ordered
from pytensor.tensor.variable import TensorVariable

from mcmc_peers.targets import Array

Program = Callable[..., None]


def eight_schools_noncentered(y: Array, sigma: Array) -> None:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    raw = pm.Normal("raw", 0.0, 1.0, shape=len(y))
    theta = pm.Deterministic("theta", mu + tau * raw)
    pm.Normal("y", theta, sigma, observed=y)


def sblrc_blr(X: Array, y: Array) -> None:
    beta = pm.Normal("beta", 0.0, 10.0, shape=X.shape[1])
    sigma = pm.HalfNormal("sigma", 10.0)
    pm.Normal("y", pt.dot(X, beta), sigma, observed=y)


def kidiq_kidscore_momiq(X: Array, y: Array) -> None:
    beta = pm.Flat("beta", shape=X.shape[1])
    sigma = pm.HalfCauchy("sigma", 2.5)
    pm.Normal("y", pt.dot(X, beta), sigma, observed=y)


def nes(X: Array, y: Array) -> None:
    beta = pm.Flat("beta", shape=X.shape[1])
    sigma = pm.HalfFlat("sigma")
    pm.Normal("y", pt.dot(X, beta), sigma, observed=y)


def ar_k(X: Array, y: Array) -> None:
    alpha = pm.Normal("alpha", 0.0, 10.0)
    beta = pm.Normal("beta", 0.0, 10.0, shape=X.shape[1])
    sigma = pm.HalfCauchy("sigma", 2.5)
    pm.Normal("y", alpha + pt.dot(X, beta), sigma, observed=y)


def garch11(y: Array, sigma1: Array) -> None:
    mu = pm.Flat("mu", initval=float(y.mean()))
    alpha0 = pm.HalfFlat("alpha0", initval=1.0)
    alpha1 = pm.Uniform("alpha1", 0.0, 1.0)
    share = pm.Uniform("share", 0.0, 1.0)
    beta1 = pm.Deterministic("beta1", (1.0 - alpha1) * share)
    pm.Potential("volume", pt.log1p(-alpha1))  # flat in beta1, not in share
    shocks = alpha0 + alpha1 * (y[:-1] - mu) ** 2
    later, _ = pytensor.scan(
        lambda shock, variance, beta1: shock + beta1 * variance,
        sequences=[shocks],
        outputs_info=[pt.constant(float(sigma1) ** 2)],
        non_sequences=[beta1],
        strict=True,
    )
    variance = pt.concatenate([[float(sigma1) ** 2], later])
    pm.Normal("y", mu, pt.sqrt(variance), observed=y)


def gp_regr(x: Array, y: Array) -> None:
    rho = pm.Gamma("rho", 25.0, 4.0)
    alpha = pm.HalfNormal("alpha", 2.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    squares = (x[:, None] - x) ** 2
    covariance = alpha**2 * pt.exp(-0.5 * squares / rho**2) + sigma * np.eye(len(x))
    pm.MvNormal("y", np.zeros(len(x)), cov=covariance, observed=y)


def low_dim_gauss_mix(y: Array) -> None:
    mu = pm.Flat("mu", shape=2, transform=ordered, initval=np.array([-1.0, 1.0]))
    pm.Potential("prior of mu", pm.logp(pm.Normal.dist(0.0, 2.0), mu).sum())
    sigma = pm.HalfNormal("sigma", 2.0, shape=2)
    theta = pm.Beta("theta", 5.0, 5.0)
    parts = pm.Normal.dist(mu, sigma, shape=2)
    pm.Mixture("y", pt.stack([theta, 1.0 - theta]), parts, observed=y)


def hmm_example(y: Array) -> None:
    theta = [pm.Dirichlet(name, np.ones(2)) for name in ("theta1", "theta2")]
    mu = pm.Flat("mu", shape=2, transform=Chain([log, ordered]), initval=np.array([3.0, 10.0]))
    pm.Potential("prior of mu", pm.logp(pm.Normal.dist(np.array([3.0, 10.0]), 1.0), mu).sum())
    emission = pm.logp(pm.Normal.dist(mu, 1.0), y[:, None])
    pm.Potential("y", forward(pt.stack(theta), emission, len(y)))


def forward(transition: TensorVariable, emission: TensorVariable, length: int) -> TensorVariable:
    """Log likelihood of a two-state hidden Markov model whose first state has no prior weight.

    The product of the matrices ``transition * density`` by halves, each product scaled by its largest element.

    Args:
        transition: probabilities ``[from, to]``.
        emission: log densities ``[time, state]``.
        length: of the series.
    """
    largest = emission.max(1)
    density = pt.exp(emission - largest[:, None])
    product, total, left = transition[None] * density[1:, None, :], largest.sum(), length - 1
    while left > 1:
        pairs = left // 2
        first, second = product[0 : 2 * pairs : 2], product[1 : 2 * pairs : 2]
        merged = first[:, :, 0, None] * second[:, None, 0, :] + first[:, :, 1, None] * second[:, None, 1, :]
        scale = merged.max((1, 2))
        total += pt.log(scale).sum()
        product = pt.concatenate([merged / scale[:, None, None], product[2 * pairs : left]])
        left = pairs + left % 2
    return total + pt.log((density[0][:, None] * product[0]).sum())


def logistic(X: Array, y: Array) -> None:
    beta = pm.Normal("beta", 0.0, 1.0, shape=X.shape[1])
    pm.Bernoulli("y", logit_p=pt.dot(X, beta), observed=y)


def funnel(size: Array) -> None:
    v = pm.Normal("v", 0.0, 3.0)
    pm.Normal("x", 0.0, pt.exp(0.5 * v), shape=int(size))


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
