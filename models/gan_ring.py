"""Eight Gaussians on a ring: the smallest data on which a generator can lose modes.

    z_n ~ Normal(0, I_4)
    x_n = 0.71 G(z_n)

G has three hidden layers of 128; the factor is the data's standard deviation. Data: 50,000 points of eight normals with
sd 0.01 around the corners of an octagon of radius 1, drawn here with a fixed seed.

Reference: a perfect sampler covers 8 modes and has 1 - exp(-9/2) = 98.889 % of its points within three standard
deviations of one. Metz, Poole, Pfau and Sohl-Dickstein (2017), https://arxiv.org/abs/1611.02163; the figures
to beat are those of Lin, Khetan, Fanti and Oh (2018), PacGAN, https://arxiv.org/abs/1712.04086
"""

import math
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import phlogiston as ph

n, latent_dim, sd, spread = 50_000, 4, 0.01, 0.71
angles = 2.0 * math.pi * torch.arange(8) / 8
centres = torch.stack([angles.cos(), angles.sin()], 1)


def draw(count: int, seed: int) -> torch.Tensor:
    """Points of the mixture itself, ``[count, 2]``."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.standard_normal((count, 2))).float()
    return centres[torch.from_numpy(rng.integers(0, len(centres), count))] + sd * noise


def network(seed: int = 0) -> nn.Module:
    """The generator: latents ``[..., 4]`` to points ``[..., 2]``, one unit a standard deviation of the data."""
    widths = (latent_dim, 128, 128, 128)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(128, 2))


def gan_ring(n: int, net: nn.Module) -> None:
    """``n`` points from a network."""
    pyro.module("generator", net)
    with pyro.plate("points", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim), 1.0).to_event(1))
        pyro.deterministic("x", spread * net(z), event_dim=1)


data = draw(n, seed=0)
model = ph.Model(gan_ring, n, network()).observe(x=data)
