"""GARCH(1, 1): a variance that remembers the last deviation and itself.

    mu     flat on R
    alpha0 flat on (0, inf)
    alpha1 ~ Uniform(0, 1)
    beta1  flat on (0, 1 - alpha1)            with density 1, not 1 / (1 - alpha1)
    s_1    = sigma1,  s_t^2 = alpha0 + alpha1 (y_(t-1) - mu)^2 + beta1 s_(t-1)^2
    y_t    ~ Normal(mu, s_t)                  t = 1, ..., 200

The variances are a linear recurrence v_t = x_t + beta1 v_(t-1), so a scan by doubling needs log2(200) = 8 steps rather
than 200: after k of them, each v_t holds its own last 2^k terms.
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


def recurrence(x: Tensor, b: Tensor) -> Tensor:
    """v of v_t = x_t + b v_(t-1), v_0 = x_0, along the last dimension."""
    shift = 1
    while shift < x.shape[-1]:
        x = x + b * torch.nn.functional.pad(x[..., :-shift], (shift, 0))
        b, shift = b * b, 2 * shift
    return x


def garch11(before: Tensor, sigma1: float) -> None:
    """``before`` holds y_(t-1) for t = 2, ..., T, of shape [T - 1]; ``sigma1`` is the first standard deviation."""
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = pyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pyro.sample("beta1", dist.ImproperUniform(constraints.interval(0.0, 1.0 - alpha1), (), ()))
    new = alpha0 + alpha1 * (before - mu) ** 2
    variance = recurrence(torch.nn.functional.pad(new, (1, 0), value=sigma1**2), beta1)
    with pyro.plate("time", len(before) + 1):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()))


def model() -> ph.Model:
    """The program with posteriordb's data."""
    given = data(posterior)
    return ph.Model(garch11, given["y"][:-1], given["sigma1"]).observe(y=given["y"])
