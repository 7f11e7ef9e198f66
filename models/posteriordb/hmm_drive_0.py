"""Drives to the basket in a basketball game: a hidden Markov model with two states and two exponential emissions.

    theta_k  ~ Dirichlet(alpha_k)             from state k = 1, 2
    phi_1    ~ Normal(0, 1), phi_2    ~ Normal(3, 1), restricted to 0 < phi_1 < phi_2         (not normalised)
    lambda_1 ~ Normal(0, 1), lambda_2 ~ Normal(3, 1), restricted to 0 < lambda_1 < lambda_2   (not normalised)
    z_t      ~ Categorical(theta[z_(t-1)])    t = 2, ..., 416; z_1 carries no prior weight, not even 1/2
    u_t      ~ Exponential(phi[z_t])
    v_t      ~ Exponential(lambda[z_t])

The states z are summed out by the forward algorithm, which enters as a factor; so there is no observed site, and no
pointwise likelihood. The sites phi and lambda are flat on their support, and a factor brings their density. Both rows
of the transition matrix are one site, theta, of shape [from, to].
Source: posteriordb, bball_drive_event_0-hmm_drive_0.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, vector
from ._forward import log_forward, pairing

posterior = "bball_drive_event_0-hmm_drive_0"
parameters = {f"theta{i + 1}[{j + 1}]": ("theta", i, j) for i in range(2) for j in range(2)}
parameters |= vector("phi", 2) | vector("lambda", 2)


def hmm_drive_0(u: Tensor, v: Tensor, alpha: Tensor) -> None:
    """``u`` and ``v`` have shape [times], ``alpha`` [from, to]."""
    with pyro.plate("state", 2):
        theta = pyro.sample("theta", dist.Dirichlet(alpha))
    ordered = dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,))
    phi, rate = pyro.sample("phi", ordered), pyro.sample("lambda", ordered)
    prior = dist.Normal(torch.tensor([0.0, 3.0]), 1.0)
    pyro.factor("ordered_prior", (prior.log_prob(phi) + prior.log_prob(rate)).sum())
    order = pairing(len(u))
    log_emission = dist.Exponential(phi[:, None]).log_prob(u[order])
    log_emission = log_emission + dist.Exponential(rate[:, None]).log_prob(v[order])
    pyro.factor("uv", log_forward(theta, log_emission))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(hmm_drive_0, given["u"], given["v"], given["alpha"])
