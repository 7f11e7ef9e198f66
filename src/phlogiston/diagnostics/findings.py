"""What a run's diagnostics say, in a line each, with the next thing to do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston import arviz_edge
from phlogiston.diagnostics.convergence import ESS_PER_CHAIN, RHAT_LIMIT, SCREENED, convergence, screen
from phlogiston.diagnostics.weights import khat_threshold
from phlogiston.errors import ConvergenceWarning, PhlogistonWarning, WeightWarning

Array = NDArray[np.float64]

BFMI_LIMIT = 0.3
TREEDEPTH_SHARE = 0.05
WEIGHTED_ESS_LIMIT = 100.0


@dataclass(frozen=True)
class Finding:
    """One reason not to believe the draws yet, and what to do about it."""

    message: str
    action: str
    category: type[PhlogistonWarning] = ConvergenceWarning

    def __str__(self) -> str:
        return f"{self.message}; {self.action}"


def findings_of_chains(draws: Mapping[str, Array], stats: Mapping[str, Array]) -> list[Finding]:
    """Divergences, tree depth, energy, R-hat and effective sample sizes.

    Args:
        draws: site -> ``[chain, draw, ...]``.
        stats: ArviZ's ``sample_stats`` names -> ``[chain, draw]``.
    """
    return [*_of_stats(stats), *_of_draws(draws)]


def _of_stats(stats: Mapping[str, Array]) -> list[Finding]:
    found = []
    if "diverging" in stats and (count := int(stats["diverging"].sum())):
        found.append(
            Finding(
                f"{count} of {stats['diverging'].size} draws diverged",
                "write the hierarchy non-centred, or raise target_accept_prob",
            )
        )
    if "reached_max_treedepth" in stats:
        share = stats["reached_max_treedepth"].mean(axis=1).max()
        if share > TREEDEPTH_SHARE:
            found.append(
                Finding(
                    f"{share:.0%} of a chain's draws reached the largest tree",
                    "raise max_tree_depth, or rescale the latents",
                )
            )
    if "energy" in stats and stats["energy"].shape[1] >= 10:
        lowest = float(arviz_edge.bfmi(stats["energy"]).min())
        if lowest < BFMI_LIMIT:
            found.append(Finding(f"E-BFMI is {lowest:.2f} (limit {BFMI_LIMIT})", "write the hierarchy non-centred"))
    return found


def _of_draws(draws: Mapping[str, Array]) -> list[Finding]:
    num_chains, num_draws = next(iter(draws.values())).shape[:2]
    if num_draws < 4:
        return [Finding(f"{num_draws} draws a chain are too few to judge", "raise num_samples")]
    judged = [_judged(site, values) for site, values in draws.items() if values[0, 0].size]
    found = []
    rhat, name = max(((value, label) for label, value, _ in itertools.chain(*judged)), default=(0.0, ""))
    if rhat > RHAT_LIMIT:
        found.append(Finding(f"R-hat of {name} is {rhat:.3f} (limit {RHAT_LIMIT})", "raise num_warmup and num_samples"))
    ess, name = min(((value, label) for label, _, value in itertools.chain(*judged)), default=(np.inf, ""))
    limit = ESS_PER_CHAIN * num_chains
    if ess < limit:
        found.append(Finding(f"effective sample size of {name} is {ess:.0f} (limit {limit})", "raise num_samples"))
    return found


def _judged(site: str, values: Array) -> list[tuple[str, float, float]]:
    """Label, R-hat and ESS of a site's components: of all, or of the worst by a cheap score where there are many."""
    flat = values.reshape(*values.shape[:2], -1)
    chosen = np.arange(flat.shape[2])
    if chosen.size > SCREENED:
        chosen = np.sort(np.argsort(-screen(flat), kind="stable")[:SCREENED])
    rhat, ess = convergence(flat[..., chosen].astype(float))
    labels = []
    for i in chosen:
        index = np.unravel_index(int(i), values.shape[2:]) if values.ndim > 2 else ()
        labels.append(f"{site}[{', '.join(map(str, index))}]" if index else site)
    return list(zip(labels, np.nan_to_num(rhat, nan=0.0), np.nan_to_num(ess, nan=np.inf), strict=True))


def findings_of_weights(khat: float, ess: float, num_draws: int) -> list[Finding]:
    """Pareto k-hat and effective sample size of importance weights."""
    found = []
    if khat > khat_threshold(num_draws):
        found.append(
            Finding(
                f"Pareto k-hat is {khat:.2f} (limit {khat_threshold(num_draws):.2f}): a few weights carry the estimate",
                "propose from something closer to the posterior, such as an earlier posterior with Student-t tails",
                WeightWarning,
            )
        )
    if ess < WEIGHTED_ESS_LIMIT:
        found.append(
            Finding(
                f"the weights are worth {ess:.0f} draws of {num_draws} (limit {WEIGHTED_ESS_LIMIT:.0f})",
                "raise num_particles, or propose closer to the posterior",
                WeightWarning,
            )
        )
    return found
