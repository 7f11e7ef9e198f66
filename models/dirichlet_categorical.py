"""Dirichlet-categorical: the probabilities of three outcomes, from eight trials.

    p      ~ Dirichlet(1, 2, 3)
    face_i ~ Categorical(p)

Data: eight invented trials with counts (3, 0, 5).

Reference: the posterior is Dirichlet(alpha + counts), and the evidence of the sequence of outcomes is
Gamma(A) / Gamma(A + N) * prod_k Gamma(alpha_k + c_k) / Gamma(alpha_k) with A = sum(alpha). (The evidence of
the counts alone has the multinomial coefficient on top.)
Minka (2000), Estimating a Dirichlet distribution.
https://tminka.github.io/papers/dirichlet/minka-dirichlet.pdf
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import gammaln
from torch import Tensor

import phlogiston as ph

alpha = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
face = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2])


def dirichlet_categorical(alpha: Tensor, num_trials: int) -> None:
    """``alpha`` is the prior's concentration, of shape [outcomes]."""
    p = pyro.sample("p", dist.Dirichlet(alpha))
    with pyro.plate("trial", num_trials):
        pyro.sample("face", dist.Categorical(p))


def _reference() -> ph.Reference:
    prior = alpha.numpy()
    posterior = prior + np.bincount(face.numpy(), minlength=len(prior))
    total = posterior.sum()
    mean = posterior / total
    log_evidence = gammaln(prior.sum()) - gammaln(total) + (gammaln(posterior) - gammaln(prior)).sum()
    return ph.Reference(
        mean={"p": mean},
        sd={"p": np.sqrt(mean * (1.0 - mean) / (total + 1.0))},
        log_evidence=float(log_evidence),
        source="closed form: conjugate Dirichlet posterior",
        regenerate="models/dirichlet_categorical.py, _reference()",
    )


coords = {"trial": list(range(len(face)))}
model = ph.Model(dirichlet_categorical, alpha, len(face), coords=coords).observe(face=face)
reference = _reference()
