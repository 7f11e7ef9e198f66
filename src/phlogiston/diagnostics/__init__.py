"""Whether to believe the draws: weights, moments with their errors, convergence."""

from phlogiston.diagnostics.findings import Finding, findings_of_chains, findings_of_weights
from phlogiston.diagnostics.loo import Loo, loo
from phlogiston.diagnostics.moments import Moments, moments, quantiles, standard_error
from phlogiston.diagnostics.weights import (
    effective_sample_size,
    khat_threshold,
    log_mean_exp,
    pareto_smooth,
    systematic_resample,
)

__all__ = [
    "Finding",
    "Loo",
    "Moments",
    "effective_sample_size",
    "findings_of_chains",
    "findings_of_weights",
    "khat_threshold",
    "log_mean_exp",
    "loo",
    "moments",
    "pareto_smooth",
    "quantiles",
    "standard_error",
    "systematic_resample",
]
