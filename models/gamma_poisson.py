"""Gamma-Poisson: the rate of a process, from four counts.

    rate ~ Gamma(2, 1)                        shape and rate
    y_i  ~ Poisson(rate)

Data: four invented counts.

Reference: rate | y ~ Gamma(2 + sum(y), 1 + n), and with S = sum(y)
p(y) = Gamma(2 + S) / Gamma(2) * (1 + n)^-(2 + S) / prod_i y_i!, a negative binomial product.
Greenwood and Yule (1920), An inquiry into the nature of frequency distributions.
https://doi.org/10.2307/2341080
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import gammaln

import phlogiston as ph

y = torch.tensor([3.0, 1.0, 4.0, 2.0], dtype=torch.float64)


def gamma_poisson(num_counts: int) -> None:
    """``num_counts`` is the number of counts."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("observation", num_counts):
        pyro.sample("y", dist.Poisson(rate))


def _reference() -> ph.Reference:
    counts = y.numpy()
    shape, rate = 2.0 + counts.sum(), 1.0 + len(counts)
    log_evidence = gammaln(shape) - gammaln(2.0) - shape * np.log(rate) - gammaln(counts + 1.0).sum()
    return ph.Reference(
        mean={"rate": shape / rate},
        sd={"rate": np.sqrt(shape) / rate},
        log_evidence=float(log_evidence),
        source="closed form: conjugate Gamma posterior",
        regenerate="models/gamma_poisson.py, _reference()",
    )


model = ph.Model(gamma_poisson, len(y), coords={"observation": list(range(len(y)))}).observe(y=y)
reference = _reference()
