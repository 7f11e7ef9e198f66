"""Test scores of children by the IQ of their mothers.

    beta        flat on R^2
    sigma       ~ HalfCauchy(2.5)             normalised
    kid_score_n ~ Normal(beta_1 + beta_2 mom_iq_n, sigma),  n = 1, ..., 434

Source: posteriordb, kidiq-kidscore_momiq. Gelman and Hill (2006), Data Analysis Using Regression and
Multilevel/Hierarchical Models, chapter 3. https://doi.org/10.1017/CBO9780511790942
"""

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "kidiq-kidscore_momiq"
parameters = {**vector("beta", 2), **scalars("sigma")}


def kidscore_momiq(mom_iq: Tensor) -> None:
    """``mom_iq`` has shape [children]."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("child", len(mom_iq)):
        pyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(kidscore_momiq, given["mom_iq"]).observe(kid_score=given["kid_score"])
