"""Eight schools, non-centred: theta is derived, and the funnel is gone.

    mu          ~ Normal(0, 5)
    tau         ~ HalfCauchy(5)               normalised
    theta_raw_j ~ Normal(0, 1)                j = 1, ..., 8
    theta_j     = mu + tau * theta_raw_j
    y_j         ~ Normal(theta_j, sigma_j)

Source: posteriordb, eight_schools-eight_schools_noncentered.
Papaspiliopoulos, Roberts and Skold (2007), https://doi.org/10.1214/088342307000000014
"""

import pyro
import pyro.distributions as dist
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "eight_schools-eight_schools_noncentered"
parameters = {**scalars("mu", "tau"), **vector("theta", 8)}


def eight_schools_noncentered(sigma: Tensor) -> None:
    """``sigma`` holds the standard errors, of shape [schools]."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta_raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_raw, event_dim=0)
        pyro.sample("y", dist.Normal(theta, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(eight_schools_noncentered, given["sigma"]).observe(y=given["y"])
