"""The posterior of new data by a trained encoder, at the price of one pass."""

from __future__ import annotations

import time

import numpy as np
import torch

from phlogiston.engine.isolate import seed_sequence, spawn
from phlogiston.estimate import Estimate
from phlogiston.evaluation.bounds import likelihood
from phlogiston.evaluation.encoded import Encoded, insist_positive
from phlogiston.posterior import Posterior


def posterior(encoded: Encoded, num_samples: int, seed: int | None) -> Posterior:
    """Draws of every datum's latents from the guide, with the evidence that they bound.

    A single datum's draws carry their importance weights. Those of many are not weighted, as each datum would need
    weights of its own: then ``figures["pareto_k"]`` is that of the worst datum.
    """
    insist_positive(num_samples=num_samples)
    began, (for_draws, for_bound) = time.perf_counter(), spawn(seed_sequence(seed), 2)
    draws, weights = encoded.draws(num_samples, for_draws)
    found = likelihood(encoded, num_samples, repeats=1, seed=for_bound)
    figures = {"elbo": float(weights.mean(0).sum())}
    if found.pareto_k is not None:
        relative = torch.softmax(weights, 0)
        figures["pareto_k"] = float(np.nanmax(found.pareto_k))
        figures["ess"] = float((1.0 / (relative**2).sum(0)).min())
    return Posterior(
        draws={name: value.double().unsqueeze(0) for name, value in draws.items()},
        method="amortized",
        settings={"num_samples": num_samples},
        log_weights=weights.T.contiguous() if encoded.count == 1 else None,
        log_evidence=Estimate(found.total.value, found.total.se),
        figures=figures,
        model=encoded.model,
        seed=seed,
        seconds=time.perf_counter() - began,
        engine="graph",
    )
