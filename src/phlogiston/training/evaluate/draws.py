"""The posterior of new data by a trained encoder, at the price of one pass."""

from __future__ import annotations

import time

import numpy as np
import torch

from phlogiston.engine.program.isolate import seed_sequence, spawn
from phlogiston.errors import positive_int
from phlogiston.posterior.posterior import Posterior
from phlogiston.stats.effective_size import weighted_size
from phlogiston.stats.elbo import figures_of
from phlogiston.stats.estimate import Estimate
from phlogiston.training.evaluate.likelihood import likelihood
from phlogiston.training.evaluate.pairs import Encoded


def posterior(encoded: Encoded, num_samples: int, seed: int | None) -> Posterior:
    """Draws of every datum's latents from the guide, with the evidence that they bound.

    A single datum's draws carry their importance weights. Those of many are not weighted, as each datum would need
    weights of its own: then ``figures["pareto_k"]`` is that of the worst datum.
    """
    positive_int(num_samples=num_samples)
    began, (for_draws, for_bound) = time.perf_counter(), spawn(seed_sequence(seed), 2)
    draws = encoded.draws(num_samples, for_draws)
    weights = draws["log_joint"] - draws["log_q"]
    found = likelihood(encoded, num_samples, repeats=1, seed=for_bound)
    evidence = Estimate(found.total.value, found.total.se)
    joint, likely = (draws[name].sum(1).numpy() for name in ("log_joint", "log_likelihood"))
    figures = figures_of(weights.sum(1).numpy(), joint, joint - likely)
    figures["gap"] = float(evidence.value) - figures["elbo"]
    figures["gap_se"] = float(np.hypot(float(evidence.se), figures["elbo_se"]))
    if found.pareto_k is not None:
        figures["pareto_k"] = float(np.nanmax(found.pareto_k))
        figures["ess"] = float(weighted_size(torch.softmax(weights, 0).numpy(), 0).min())
    return Posterior(
        draws={name: draws[name].unsqueeze(0) for name in encoded.terms.local},
        method="amortized",
        settings={"num_samples": num_samples},
        log_weights=weights.T.contiguous() if encoded.count == 1 else None,
        log_evidence=evidence,
        figures=figures,
        model=encoded.model,
        seed=seed,
        seconds=time.perf_counter() - began,
        engine="graph",
    )


def generated(encoded: Encoded, count: int, seed: int | None) -> dict[str, torch.Tensor]:
    """New elements of the plate, every site in it drawn: ``[count, ...]``."""
    positive_int(num_elements=count)
    return encoded.terms.generate(count, seed_sequence(seed))
