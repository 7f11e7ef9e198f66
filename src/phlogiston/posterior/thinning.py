"""Draws of a posterior that count the same and hardly depend on each other."""

from __future__ import annotations

import numpy as np
import torch

from phlogiston.posterior.posterior import Posterior
from phlogiston.stats.effective_size import effective_size, evenly_spaced, weighted_size
from phlogiston.stats.weights import systematic_resample


def effective_size_of(posterior: Posterior, *, weighted: bool = True, tails: bool = False) -> float:
    """Effective number of a posterior's draws, at the worst component.

    Args:
        posterior: whose draws are counted.
        weighted: whether weighted draws are counted by their weights, or each as one.
        tails: whether the tails of chains count beside their bulk.
    """
    total = float(posterior.num_chains * posterior.num_draws)
    if posterior.is_chain:
        shape = (posterior.num_chains, posterior.num_draws, -1)
        values = [value.double().reshape(shape).numpy() for value in posterior.draws.values()]
        return effective_size(np.concatenate(values, axis=2), tails=tails)
    if posterior.weights is not None:
        return float(weighted_size(posterior.weights.numpy())) if weighted else total
    return min(total, posterior.figures.get("ess", total))


def rows_of(posterior: Posterior, count: int, rng: np.random.Generator, *, weighted: bool) -> torch.Tensor:
    """Indices of ``count`` of the flattened draws: in proportion to their weights, or as far apart as possible."""
    if weighted and posterior.log_weights is not None:
        return torch.from_numpy(systematic_resample(posterior.log_weights.reshape(-1).numpy(), count, rng))
    return evenly_spaced(posterior.num_chains * posterior.num_draws, count)
