"""A mixture of two Gaussians with known centres and unknown weight.

    pi  ~ Uniform(0, 1)                       the weight of the right-hand component
    z_i ~ Categorical(1 - pi, pi)             which component, 0 or 1
    x_i ~ Normal(loc[z_i], 1),  loc = (-1, +1)

Data: four invented points.

Reference: for each of the 2^4 assignments z with m ones, pi integrates to a Beta function,
p(z, x) = B(1 + m, 1 + n - m) prod_i Normal(x_i; loc[z_i], 1), and pi | z ~ Beta(1 + m, 1 + n - m).
Lee, Marin, Mengersen and Robert (2008), Bayesian inference on mixtures of distributions.
https://arxiv.org/abs/0804.2413
"""

from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import beta
from torch import Tensor

import phlogiston as ph

loc = torch.tensor([-1.0, 1.0], dtype=torch.float64)
x = torch.tensor([-1.5, -0.5, 0.3, 2.0], dtype=torch.float64)


def mixture(loc: Tensor, num_points: int) -> None:
    """``loc`` holds the two centres, of shape [2]."""
    pi = pyro.sample("pi", dist.Uniform(0.0, 1.0))
    with pyro.plate("point", num_points):
        z = pyro.sample("z", dist.Categorical(torch.stack([1.0 - pi, pi], dim=-1)))
        pyro.sample("x", dist.Normal(loc[z], 1.0))


def _reference() -> ph.Reference:
    n = len(x)
    z = np.array(list(product((0, 1), repeat=n)))  # every assignment, of shape [2^n, n]
    density = np.exp(-0.5 * (x.numpy() - loc.numpy()[z]) ** 2) / np.sqrt(2.0 * np.pi)
    a, b = 1.0 + z.sum(1), 1.0 + n - z.sum(1)  # pi | z ~ Beta(a, b)
    weight = beta(a, b) * density.prod(1)
    evidence = weight.sum()
    weight = weight / evidence
    mean = weight @ (a / (n + 2.0))
    second = weight @ (a * (a + 1.0) / ((n + 2.0) * (n + 3.0)))
    right = weight @ z  # P(z_i = 1 | x)
    return ph.Reference(
        mean={"pi": mean, "z": right},
        sd={"pi": np.sqrt(second - mean**2), "z": np.sqrt(right * (1.0 - right))},
        log_evidence=float(np.log(evidence)),
        probabilities={"z": np.stack([1.0 - right, right], axis=-1)},
        source="enumeration of the 16 assignments, with pi integrated out in closed form",
        regenerate="models/mixture.py, _reference()",
    )


model = ph.Model(mixture, loc, len(x), coords={"point": list(range(len(x)))}).observe(x=x)
reference = _reference()
