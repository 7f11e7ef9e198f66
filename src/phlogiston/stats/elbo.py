"""The evidence taken apart: log p(x) = ELBO + KL[q, p], and both ways of writing the ELBO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Decomposition:
    r"""What an approximation :math:`q` of the posterior leaves of the evidence.

    :math:`\log p(x) = \mathcal L + \mathrm{KL}[q, p(z \mid x)]`, with
    :math:`\mathcal L = E_q[\log p(x, z)] + H[q] = E_q[\log p(x \mid z)] - \mathrm{KL}[q, p(z)]`.

    Args:
        elbo: :math:`\mathcal L`.
        log_evidence: :math:`\log p(x)`, importance-sampled from :math:`q`.
        gap: :math:`\mathrm{KL}[q, p(z \mid x)]`.
        expected_log_joint: :math:`E_q[\log p(x, z)]`.
        entropy: :math:`H[q]`.
        reconstruction: :math:`E_q[\log p(x \mid z)]`.
        kl: :math:`\mathrm{KL}[q, p(z)]`.
    """

    elbo: Estimate
    log_evidence: Estimate
    gap: Estimate
    expected_log_joint: Estimate
    entropy: Estimate
    reconstruction: Estimate
    kl: Estimate

    def __str__(self) -> str:
        rows = [
            f"log p(x)   {self.log_evidence}  =  ELBO + KL[q, p(z|x)]  =  {_short(self.elbo)} + {_short(self.gap)}",
            f"ELBO       {_plain(self.elbo)}  =  E[log p(x,z)] + entropy  =  "
            f"{_short(self.expected_log_joint)} + {_short(self.entropy)}",
            f"ELBO       {_plain(self.elbo)}  =  reconstruction - KL[q, p(z)]  =  "
            f"{_short(self.reconstruction)} - {_short(self.kl)}",
        ]
        return "\n".join(rows)


def _plain(estimate: Estimate) -> str:
    return f"{float(estimate.value):.4f} ± {float(estimate.se):.4f}"


def _short(estimate: Estimate) -> str:
    return f"{float(estimate.value):.4f}"


def figures_of(log_weights: Array, log_joint: Array, log_prior: Array) -> dict[str, float]:
    """The parts with their errors, as numbers by name, from draws of q.

    Args:
        log_weights: ``[N]``: log p(x, z) - log q(z).
        log_joint: ``[N]``: log p(x, z).
        log_prior: ``[N]``: log p(z).
    """
    relative = np.exp(log_weights - log_weights.max())
    relative = relative / relative.mean()
    evidence = float(log_weights.max() + math.log(np.exp(log_weights - log_weights.max()).mean()))
    parts = {
        "elbo": log_weights,
        "expected_log_joint": log_joint,
        "entropy": log_weights - log_joint,
        "reconstruction": log_joint - log_prior,
        "kl": log_joint - log_prior - log_weights,
    }
    figures: dict[str, float] = {}
    for name, values in parts.items():
        figures[name], figures[f"{name}_se"] = float(values.mean()), _error(values)
    # log mean w - mean log w by the delta method: both come from the same draws, so their errors go together.
    figures["gap"], figures["gap_se"] = evidence - figures["elbo"], _error(relative - log_weights)
    return figures


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.inf


def decomposition_of(figures: Mapping[str, float], log_evidence: Estimate) -> Decomposition:
    """The parts from the numbers of ``figures_of``."""

    def part(name: str) -> Estimate:
        return Estimate(figures[name], figures[f"{name}_se"])

    elbo = Estimate(figures["elbo"], figures["elbo_se"], "lower bound")
    names = ("expected_log_joint", "entropy", "reconstruction", "kl")
    return Decomposition(elbo, log_evidence, part("gap"), *(part(name) for name in names))
