"""GARCH(1, 1): a variance that remembers the last deviation and itself.

    mu     flat on R
    alpha0 flat on (0, inf)
    alpha1 ~ Uniform(0, 1)
    beta1  flat on (0, 1 - alpha1)            with density 1, not 1 / (1 - alpha1)
    s_1    = sigma1,  s_t^2 = alpha0 + alpha1 (y_(t-1) - mu)^2 + beta1 s_(t-1)^2
    y_t    ~ Normal(mu, s_t)                  t = 1, ..., 200

The variances are a linear recurrence v_t = x_t + beta1 v_(t-1). `recurrence` cuts it into blocks and takes one step in
all of them at once, so the 200 steps become 8, and 5 doublings that carry over from one block to the next.
Source: posteriordb, garch-garch11. Bollerslev (1986), https://doi.org/10.1016/0304-4076(86)90063-1
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import phlogiston as ph

from . import data, scalars

posterior = "garch-garch11"
parameters = scalars("mu", "alpha0", "alpha1", "beta1")

STEPS = 8  # in a block; divides T


def recurrence(x: Tensor, b: Tensor) -> Tensor:
    """v of v_t = x_t + b v_(t-1), v_0 = x_0; ``x`` has shape [step, block], and v goes on from block to block."""
    steps, powers = list(x.unbind(0)), [b]
    for i in range(1, len(steps)):
        steps[i] = steps[i] + b * steps[i - 1]
        powers.append(b * powers[-1])
    carry, power, shift = steps[-1], powers[-1], 1
    while shift < len(carry):  # carry_j holds the last 1, 2, 4, ... blocks up to j
        carry = carry + power * torch.nn.functional.pad(carry[:-shift], (shift, 0))
        power, shift = power * power, 2 * shift
    return torch.stack(steps) + torch.stack(powers)[:, None] * torch.nn.functional.pad(carry[:-1], (1, 0))


def garch11(before: Tensor, sigma1: float) -> None:
    """``before`` holds y_(t-1) for t = 1, ..., T, the first of them unused; ``sigma1`` is the first s."""
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = pyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pyro.sample("beta1", dist.ImproperUniform(constraints.interval(0.0, 1.0 - alpha1), (), ()))
    is_first = (torch.arange(len(before)) == 0).reshape(-1, STEPS).T
    new = alpha0 + alpha1 * (before.reshape(-1, STEPS).T - mu) ** 2
    variance = recurrence(torch.where(is_first, sigma1**2, new), beta1)
    with pyro.plate("time", len(before)):
        pyro.sample("y", dist.Normal(mu, variance.T.reshape(-1).sqrt()))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(garch11, given["y"].roll(1), given["sigma1"]).observe(y=given["y"])
