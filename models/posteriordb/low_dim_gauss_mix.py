"""A mixture of two normals, told apart by the order of their means.

    mu      ~ Normal(0, 2) each, restricted to mu_1 < mu_2   (not normalised)
    sigma_k ~ HalfNormal(2)                   k = 1, 2; normalised
    theta   ~ Beta(5, 5)
    y_n     ~ theta Normal(mu_1, sigma_1) + (1 - theta) Normal(mu_2, sigma_2),  n = 1, ..., 1000

The site mu is flat on ordered pairs, and a factor brings the normal density. Which component a datum comes from is
summed out. `TwoNormals` is `dist.MixtureSameFamily` for two components, written with few operations a datum.
Source: posteriordb, low_dim_gauss_mix-low_dim_gauss_mix.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

import phlogiston as ph

from . import data, scalars, vector

posterior = "low_dim_gauss_mix-low_dim_gauss_mix"
parameters = {**vector("mu", 2), **vector("sigma", 2), **scalars("theta")}


class TwoNormals(TorchDistribution):
    """theta Normal(mu[0], sigma[0]) + (1 - theta) Normal(mu[1], sigma[1])."""

    support = constraints.real
    arg_constraints = {}  # noqa: RUF012  # as every torch distribution has it

    def __init__(self, theta: Tensor, mu: Tensor, sigma: Tensor) -> None:
        self.theta, self.mu, self.sigma = theta, mu, sigma
        super().__init__(validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        precision, log_weight = 1.0 / self.sigma, torch.stack([self.theta, 1.0 - self.theta]).log()
        constant = log_weight - self.sigma.log() - 0.5 * math.log(2.0 * math.pi)
        first = constant[0] - 0.5 * ((value - self.mu[0]) * precision[0]) ** 2
        second = constant[1] - 0.5 * ((value - self.mu[1]) * precision[1]) ** 2
        larger = torch.maximum(first, second).detach()  # needs no gradient, as it cancels
        return larger + ((first - larger).exp() + (second - larger).exp()).log()

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> TorchDistribution:
        return dist.torch_distribution.ExpandedDistribution(self, batch_shape)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        is_first = dist.Bernoulli(self.theta).sample(sample_shape) > 0.0
        noise = torch.randn(sample_shape)
        return torch.where(is_first, self.mu[0] + self.sigma[0] * noise, self.mu[1] + self.sigma[1] * noise)


def low_dim_gauss_mix(size: int) -> None:
    """``size`` is the number of data."""
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    pyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = pyro.sample("sigma", dist.HalfNormal(torch.full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    with pyro.plate("datum", size):
        pyro.sample("y", TwoNormals(theta, mu, sigma))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(low_dim_gauss_mix, given["N"]).observe(y=given["y"])
