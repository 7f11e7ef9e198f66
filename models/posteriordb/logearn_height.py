"""Log earnings by height.

    beta       flat on R^2
    sigma      flat on (0, inf)
    log_earn_n ~ Normal(beta_1 + beta_2 height_n, sigma),  n = 1, ..., 1192

Source: posteriordb, earnings-logearn_height. Gelman and Hill (2006), Data Analysis Using Regression and
Multilevel/Hierarchical Models, chapter 4. https://doi.org/10.1017/CBO9780511790942
"""

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "earnings-logearn_height"
parameters = {**vector("beta", 2), **scalars("sigma")}


def logearn_height(height: Tensor) -> None:
    """``height`` has shape [people]."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("person", len(height)):
        pyro.sample("log_earn", dist.Normal(beta[0] + beta[1] * height, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(logearn_height, given["height"]).observe(log_earn=given["earn"].log())
