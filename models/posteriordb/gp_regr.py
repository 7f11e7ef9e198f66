"""Gaussian-process regression of eleven points.

    rho   ~ Gamma(25, 4)                      4 is the rate
    alpha ~ HalfNormal(2)                     normalised
    sigma ~ HalfNormal(1)                     normalised
    y     ~ MultivariateNormal(0, K),  K_ij = alpha^2 exp(-(x_i - x_j)^2 / (2 rho^2)) + sigma [i = j]

sigma itself stands on the diagonal, not its square. Source: posteriordb, gp_pois_regr-gp_regr.

`cholesky_ex` is used because `cholesky` raises where K is not positive definite to rounding (sigma near 1e-16, which a
diverging trajectory may well try), and one such draw would stop all chains; here its density is not finite, and it is
rejected.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import phlogiston as ph

from . import data, scalars

posterior = "gp_pois_regr-gp_regr"
parameters = scalars("rho", "alpha", "sigma")


def gp_regr(x: Tensor) -> None:
    """``x`` has shape [points]."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    distance = (x[:, None] - x) ** 2
    covariance = alpha**2 * torch.exp(-0.5 * distance / rho**2) + sigma * torch.eye(len(x))
    scale_tril = torch.linalg.cholesky_ex(covariance).L
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=scale_tril))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(gp_regr, given["x"]).observe(y=given["y"])
