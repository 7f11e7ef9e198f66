"""The weight of mesquite bushes by volume, area and group, all on the log scale.

    beta         flat on R^4
    sigma        flat on (0, inf)
    log_weight_n ~ Normal(x_n . beta, sigma), n = 1, ..., 46
    x_n          = (1, log(diam1 diam2 canopy_height), log(diam1 diam2), group)

Source: posteriordb, mesquite-logmesquite_logva. Gelman and Hill (2006), Data Analysis Using Regression and
Multilevel/Hierarchical Models, chapter 4. https://doi.org/10.1017/CBO9780511790942
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "mesquite-logmesquite_logva"
parameters = {**vector("beta", 4), **scalars("sigma")}


def logmesquite_logva(X: Tensor) -> None:
    """``X`` has shape [bushes, covariates]."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (X.shape[1],)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("bush", len(X)):
        pyro.sample("log_weight", dist.Normal(X @ beta, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    area = (given["diam1"] * given["diam2"]).log()
    volume = area + given["canopy_height"].log()
    X = torch.stack([torch.ones_like(area), volume, area, given["group"]], -1)
    return ph.Model(logmesquite_logva, X).observe(log_weight=given["weight"].log())
