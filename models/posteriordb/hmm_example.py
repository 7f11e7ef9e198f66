"""A hidden Markov model with two states and normal emissions.

    theta_k ~ Dirichlet(1, 1)                 from state k = 1, 2: flat on the simplex, up to a constant
    mu_1    ~ Normal(3, 1), mu_2 ~ Normal(10, 1), restricted to 0 < mu_1 < mu_2   (not normalised)
    z_t     ~ Categorical(theta[z_(t-1)])     t = 2, ..., 100; z_1 carries no prior weight, not even 1/2
    y_t     ~ Normal(mu[z_t], 1)

The states z are summed out by the forward algorithm, which enters as a factor; so there is no observed site, and no
pointwise likelihood. The site mu is flat on its support, and another factor brings its density. Both rows of the
transition matrix are one site, theta, of shape [from, to].
Source: posteriordb, hmm_example-hmm_example.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, vector
from ._forward import log_forward, pairing

posterior = "hmm_example-hmm_example"
parameters = {f"theta{i + 1}[{j + 1}]": ("theta", i, j) for i in range(2) for j in range(2)} | vector("mu", 2)


def hmm_example(y: Tensor) -> None:
    """``y`` has shape [times]."""
    with pyro.plate("state", 2):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    pyro.factor("mu_prior", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).log_prob(mu).sum())
    log_emission = dist.Normal(mu[:, None], 1.0).log_prob(y[pairing(len(y))])
    pyro.factor("y", log_forward(theta, log_emission))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    return ph.Model(hmm_example, data(posterior)["y"])
