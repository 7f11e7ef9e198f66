"""A posterior from draws of an approximation: weights, evidence, k-hat, ELBO and gap, the same for every method."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from phlogiston.engine.densities.target import Target
from phlogiston.inference.particles.proposals import checked
from phlogiston.stats.elbo import figures_of
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.weights import effective_sample_size, log_mean_exp, pareto_smooth

Values = dict[str, torch.Tensor]


def values_of(target: Target, u: torch.Tensor, seed: np.random.SeedSequence) -> Values:
    """Points ``[N, D]`` -> every latent and deterministic ``[N, ...]``; discrete latents drawn back."""
    values = target.constrain(u)
    if not target.structure.discrete:
        return values
    return target.recover_discretes({site.name: values[site.name] for site in target.structure.continuous}, seed)


def weighted(target: Target, values: Values, log_weights: torch.Tensor, *, lenient: bool = False) -> dict[str, Any]:
    """Fields of a ``Posterior`` for weighted draws: draws, weights, evidence, and figures with ELBO and gap.

    Args:
        target: the model's densities.
        values: every latent and deterministic ``[N, ...]``, drawn from the approximation.
        log_weights: ``[N]``, log p(x, z) - log q(z).
        lenient: whether draws at which the density is no number are left out instead of refused: after a run that
            stopped there and said so.
    """
    if lenient:
        keep = torch.isfinite(log_weights)
        log_weights, values = log_weights[keep], {name: value[keep] for name, value in values.items()}
    latents = {site.name: values[site.name] for site in target.structure.of("latent")}
    list(checked(target, iter([{**latents, "log_weight": log_weights}])))
    log_prior, log_joint = target.log_prior(latents), target.log_joint(latents)
    flat = log_weights.double().numpy()
    _, khat = pareto_smooth(flat)
    evidence = log_mean_exp(flat)
    figures = {"pareto_k": khat, "ess": effective_sample_size(flat), "num_particles": float(flat.size)}
    figures |= figures_of(flat, log_joint.double().numpy(), log_prior.double().numpy())
    return {
        "draws": values,
        "log_weights": torch.from_numpy(flat),
        "log_evidence": Estimate(evidence.value, evidence.se),
        "figures": figures,
    }
