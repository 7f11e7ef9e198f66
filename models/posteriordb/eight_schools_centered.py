"""Eight schools, centred: the funnel as it stands.

    mu      ~ Normal(0, 5)
    tau     ~ HalfCauchy(5)                   normalised
    theta_j ~ Normal(mu, tau)                 j = 1, ..., 8
    y_j     ~ Normal(theta_j, sigma_j)

Source: posteriordb, eight_schools-eight_schools_centered. Rubin (1981), https://doi.org/10.3102/10769986006004377
Its reference draws are those of the non-centred program: the posterior is the same.
"""

import pyro
import pyro.distributions as dist
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "eight_schools-eight_schools_centered"
parameters = {**scalars("mu", "tau"), **vector("theta", 8)}


def eight_schools_centered(sigma: Tensor) -> None:
    """``sigma`` holds the standard errors, of shape [schools]."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(eight_schools_centered, given["sigma"]).observe(y=given["y"])
