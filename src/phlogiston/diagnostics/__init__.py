"""Whether to believe the draws: weights, moments with their errors, convergence."""

from phlogiston.diagnostics.between import modes_between_chains, stuck
from phlogiston.diagnostics.bound import check_ending, check_gap, check_rest
from phlogiston.diagnostics.bridge import Bridged, bridge
from phlogiston.diagnostics.conflict import check_conflict
from phlogiston.diagnostics.coverage import check_coverage, check_precision, check_usage
from phlogiston.diagnostics.findings import acceptance, check_reach, checks_of_chains, checks_of_weights
from phlogiston.diagnostics.game import check_distance, check_game
from phlogiston.diagnostics.loo import Loo, loo
from phlogiston.diagnostics.modes import check_modes
from phlogiston.diagnostics.moments import Moments, moments, quantiles, standard_error
from phlogiston.diagnostics.propriety import check_proper, endless, improper, names_of
from phlogiston.diagnostics.stein import check_draws
from phlogiston.diagnostics.verdict import Check, Finding, Report, failed, skipped
from phlogiston.diagnostics.weights import (
    effective_sample_size,
    khat_threshold,
    log_mean_at_least,
    log_mean_exp,
    pareto_smooth,
    systematic_resample,
)

__all__ = [
    "Bridged",
    "Check",
    "Finding",
    "Loo",
    "Moments",
    "Report",
    "acceptance",
    "bridge",
    "check_conflict",
    "check_coverage",
    "check_distance",
    "check_draws",
    "check_ending",
    "check_game",
    "check_gap",
    "check_modes",
    "check_precision",
    "check_proper",
    "check_reach",
    "check_rest",
    "check_usage",
    "checks_of_chains",
    "checks_of_weights",
    "effective_sample_size",
    "endless",
    "failed",
    "improper",
    "khat_threshold",
    "log_mean_at_least",
    "log_mean_exp",
    "loo",
    "modes_between_chains",
    "moments",
    "names_of",
    "pareto_smooth",
    "quantiles",
    "skipped",
    "standard_error",
    "stuck",
    "systematic_resample",
]
