"""Party identification in the American National Election Study of 1980.

    beta       flat on R^9
    sigma      flat on (0, inf)
    partyid7_n ~ Normal(x_n . beta, sigma),   n = 1, ..., 701
    x_n        = (1, real_ideo, race_adj, [age = 2], [age = 3], [age = 4], educ1, gender, income)

with age in four classes. Source: posteriordb, nes1980-nes. Gelman and Hill (2006), Data Analysis Using Regression and
Multilevel/Hierarchical Models, chapter 4. https://doi.org/10.1017/CBO9780511790942
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "nes1980-nes"
parameters = {**vector("beta", 9), **scalars("sigma")}


def nes(X: Tensor) -> None:
    """``X`` has shape [people, covariates]."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (X.shape[1],)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("person", len(X)):
        pyro.sample("partyid7", dist.Normal(X @ beta, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    age = given["age_discrete"]
    ages = [(age == group).double() for group in (2, 3, 4)]
    columns = [torch.ones_like(age), given["real_ideo"], given["race_adj"], *ages]
    columns += [given[name] for name in ("educ1", "gender", "income")]
    return ph.Model(nes, torch.stack(columns, -1)).observe(partyid7=given["partyid7"])
