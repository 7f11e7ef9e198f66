"""Draws of a posterior that count the same and hardly depend on each other."""

from __future__ import annotations

import numpy as np
import torch

from phlogiston.posterior.posterior import Posterior
from phlogiston.stats.effective_size import spread, worth
from phlogiston.stats.weights import systematic_resample


def worth_of(posterior: Posterior, *, weighted: bool) -> float:
    """How many independent draws a posterior's are worth, by their weights or as they are."""
    total = posterior.num_chains * posterior.num_draws
    if posterior.is_chain:
        shape = (posterior.num_chains, posterior.num_draws, -1)
        return worth(np.concatenate([v.double().reshape(shape).numpy() for v in posterior.draws.values()], axis=2))
    if posterior.weights is not None:
        return float(1.0 / posterior.weights.square().sum()) if weighted else float(total)
    return min(float(total), posterior.figures.get("ess", float(total)))


def rows_of(posterior: Posterior, count: int, rng: np.random.Generator, *, weighted: bool) -> torch.Tensor:
    """So many rows of the flattened draws: in proportion to their weights, or as far apart as can be."""
    if weighted and posterior.log_weights is not None:
        return torch.from_numpy(systematic_resample(posterior.log_weights.reshape(-1).numpy(), count, rng))
    return spread(posterior.num_chains * posterior.num_draws, count)
