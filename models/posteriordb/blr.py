"""Bayesian linear regression on five correlated covariates.

    beta_d ~ Normal(0, 10)                    d = 1, ..., 5
    sigma  ~ HalfNormal(10)                   normalised
    y_n    ~ Normal(x_n . beta, sigma)        n = 1, ..., 100

Source: posteriordb, sblrc-blr.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "sblrc-blr"
parameters = {**vector("beta", 5), **scalars("sigma")}


def blr(X: Tensor) -> None:
    """``X`` has shape [data, covariates]."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(X.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("datum", len(X)):
        pyro.sample("y", dist.Normal(X @ beta, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(blr, given["X"]).observe(y=given["y"])
