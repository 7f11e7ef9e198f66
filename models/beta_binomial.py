"""Beta-binomial: how often does a biased coin fall heads?

    theta ~ Beta(2, 3)
    k     ~ Binomial(10, theta)

Data: k = 7, invented.

Reference: the Beta prior is conjugate, so theta | k ~ Beta(a + k, b + n - k), and
p(k) = choose(n, k) B(a + k, b + n - k) / B(a, b).
Bayes (1763), An essay towards solving a problem in the doctrine of chances.
https://doi.org/10.1098/rstl.1763.0053
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import betaln, gammaln

import phlogiston as ph

n = 10
k = torch.tensor(7.0, dtype=torch.float64)


def beta_binomial(n: int) -> None:
    """``n`` is the number of tosses."""
    theta = pyro.sample("theta", dist.Beta(2.0, 3.0))
    pyro.sample("k", dist.Binomial(n, theta))


def _reference() -> ph.Reference:
    heads, tails = float(k), n - float(k)
    a, b = 2.0 + heads, 3.0 + tails
    mean = a / (a + b)
    log_choose = gammaln(n + 1.0) - gammaln(heads + 1.0) - gammaln(tails + 1.0)
    return ph.Reference(
        mean={"theta": mean},
        sd={"theta": np.sqrt(mean * (1.0 - mean) / (a + b + 1.0))},
        log_evidence=float(log_choose + betaln(a, b) - betaln(2.0, 3.0)),
        source="closed form: conjugate Beta posterior",
        regenerate="models/beta_binomial.py, _reference()",
    )


model = ph.Model(beta_binomial, n).observe(k=k)
reference = _reference()
