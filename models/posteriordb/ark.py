"""An autoregression of order K = 5.

    alpha  ~ Normal(0, 10)
    beta_k ~ Normal(0, 10)                    k = 1, ..., K
    sigma  ~ HalfCauchy(2.5)                  normalised
    y_t    ~ Normal(alpha + sum_k beta_k y_(t-k), sigma),   t = K+1, ..., 200

The first K values are not modelled. Source: posteriordb, arK-arK.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "arK-arK"
parameters = {**scalars("alpha", "sigma"), **vector("beta", 5)}


def ark(lags: Tensor) -> None:
    """``lags`` has shape [times, K]: y_(t-1), ..., y_(t-K) for each t that is modelled."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(lags.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("time", len(lags)):
        pyro.sample("y", dist.Normal(alpha + lags @ beta, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    y, K = given["y"], given["K"]
    lags = y[:-1].unfold(0, K, 1).flip(-1)
    return ph.Model(ark, lags).observe(y=y[K:])
