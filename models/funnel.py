"""Neal's funnel in ten dimensions: a scale and nine numbers that shrink and grow with it.

    v   ~ Normal(0, 3)
    x_i ~ Normal(0, exp(v / 2))               i = 1, ..., 9

`centred` says exactly that, and defeats any sampler with one step size: the neck, where v is very negative,
needs steps thousands of times shorter than the mouth. A sampler that stays out of the neck reports an sd(v)
below 3.
`funnel` is the same density without the difficulty: x_i = exp(v / 2) * raw_i with raw_i ~ Normal(0, 1).

There is no data, so the "posterior" is the prior and its normaliser is 1.

Reference: by construction v has mean 0 and sd 3, and raw has mean 0 and sd 1. Also E x_i = 0 and
var x_i = E exp(v) = exp(9/2), so sd x_i = exp(9/4) = 9.487736; x is left out of `reference` because its tails
are so heavy that a sample's sd is no usable estimate of that number.
Neal (2003), Slice sampling, section 8. https://doi.org/10.1214/aos/1056562461
"""

import numpy as np
import pyro
import pyro.distributions as dist

import phlogiston as ph


def funnel(num_dimensions: int) -> None:
    """The non-centred program; ``num_dimensions`` counts the x_i."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("dimension", num_dimensions):
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
        pyro.deterministic("x", (v / 2.0).exp() * raw, event_dim=0)


def centred(num_dimensions: int) -> None:
    """The same density with x drawn directly."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("dimension", num_dimensions):
        pyro.sample("x", dist.Normal(0.0, (v / 2.0).exp()))


coords = {"dimension": list(range(1, 10))}
model = ph.Model(funnel, 9, coords=coords)
centred_model = ph.Model(centred, 9, coords=coords)

reference = ph.Reference(
    mean={"v": 0.0, "raw": np.zeros(9)},
    sd={"v": 3.0, "raw": np.ones(9)},
    log_evidence=0.0,
    source="by construction: the marginals of the prior",
)
