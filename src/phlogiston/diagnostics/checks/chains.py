"""What a run's own numbers say: the sampler's statistics, R-hat, effective sample sizes, Pareto k-hat."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import WeightWarning
from phlogiston.posterior.labels import Labels, component
from phlogiston.posterior.verdict import Check, Finding, Severity, failed
from phlogiston.stats import arviz
from phlogiston.stats.convergence import ESS_PER_CHAIN, RHAT_LIMIT, SCREENED, convergence, screen
from phlogiston.stats.weights import khat_threshold

Array = NDArray[np.float64]

BFMI_LIMIT = 0.3
TREEDEPTH_SHARE = 0.05
WEIGHTED_ESS_LIMIT = 100.0
ACCEPTANCE_SHORTFALL = 0.25
DIVERGENT_SHARE = 0.01
_RHAT_HOPELESS = 1.05
_ESS_HOPELESS = 20
_LOCATED = 5  # fewer divergences say nothing about where they happen
_SEPARATED = 0.7


@dataclass(frozen=True)
class Remedies:
    """What can be done about chains that fail a check, in the settings of the method that ran them.

    Args:
        recentre: how to reparameterise the hierarchy of the model; "" where nothing is centred.
        settle: how to bring the chains closer to their stationary distribution.
        longer: how to get more draws.
    """

    recentre: str = "write the hierarchy non-centred"
    settle: str = "raise num_warmup and num_samples"
    longer: str = "raise num_samples"

    def recentre_or(self, other: str) -> str:
        """The reparameterisation, where there is one, or something else."""
        return f"{self.recentre}, or {other}" if self.recentre else other


PARTICLES = Remedies(settle="raise num_particles or num_steps", longer="raise num_particles or num_steps")


def checks_of_chains(
    draws: Mapping[str, Array], stats: Mapping[str, Array], labels: Labels, remedies: Remedies
) -> list[Check]:
    """Divergences, tree depth, energy, R-hat and effective sample sizes.

    Args:
        draws: site -> ``[chain, draw, ...]``.
        stats: ArviZ's ``sample_stats`` names -> ``[chain, draw]``.
        labels: site and shape -> what each position of each dimension is called.
        remedies: what to advise where a check fails.
    """
    return [*_of_stats(draws, stats, labels, remedies), *_of_draws(draws, labels, remedies)]


def _of_stats(
    draws: Mapping[str, Array], stats: Mapping[str, Array], labels: Labels, remedies: Remedies
) -> list[Check]:
    checks = []
    if "diverging" in stats:
        checks.append(_divergences(draws, stats["diverging"].astype(bool), labels, remedies))
    if "reached_max_treedepth" in stats:
        share = float(stats["reached_max_treedepth"].mean(axis=1).max())
        checks.append(Check("tree depth", f"{share:.0%} of trees are as large as allowed, limit {TREEDEPTH_SHARE:.0%}"))
        if share > TREEDEPTH_SHARE:
            finding = Finding(
                f"{share:.0%} of a chain's draws reached the largest tree (limit {TREEDEPTH_SHARE:.0%})",
                "raise max_tree_depth, or rescale the latents",
                number=share,
                threshold=TREEDEPTH_SHARE,
                meaning="Trajectories end before they turn round: the draws are right but slow to forget each other.",
            )
            checks[-1] = failed("tree depth", finding)
    if "energy" in stats and stats["energy"].shape[1] >= 10:
        checks.append(_energy(float(arviz.bfmi(stats["energy"]).min()), remedies))
    return checks


def _energy(lowest: float, remedies: Remedies) -> Check:
    if not lowest < BFMI_LIMIT:
        return Check("energy", f"E-BFMI {lowest:.2f}, limit {BFMI_LIMIT}")
    finding = Finding(
        f"E-BFMI is {lowest:.2f} (limit {BFMI_LIMIT})",
        remedies.recentre_or("reparameterise the latents that have heavy tails"),
        number=lowest,
        threshold=BFMI_LIMIT,
        meaning="The chain changes its energy too little from draw to draw to reach the tails of the posterior.",
    )
    return failed("energy", finding)


def _divergences(draws: Mapping[str, Array], diverging: NDArray[np.bool_], labels: Labels, remedies: Remedies) -> Check:
    count = int(diverging.sum())
    if not count:
        return Check("divergences", f"none of {diverging.size} draws")
    site, where = _region(draws, diverging, labels)
    severity: Severity = "do not use" if count > DIVERGENT_SHARE * diverging.size else "caution"
    finding = Finding(
        f"{count} of {diverging.size} draws diverged{where}",
        remedies.recentre_or("raise target_accept_prob"),
        number=float(count),
        threshold=0.0,
        site=site,
        meaning="The density bends more sharply there than the step size can follow, so the chains stay out of a part "
        "of the posterior and every expectation leaves that part out.",
        severity=severity,
    )
    return failed("divergences", finding)


def _region(draws: Mapping[str, Array], diverging: NDArray[np.bool_], labels: Labels) -> tuple[str, str]:
    """The component in which the divergent draws lie furthest apart from the others, and where in it they lie."""
    apart, rest = diverging.reshape(-1), ~diverging.reshape(-1)
    best = (0.0, "", "")
    if not _LOCATED <= apart.sum() <= rest.sum():
        return "", ""
    for site, values in draws.items():
        flat = values.reshape(apart.size, -1).astype(float)
        if not flat.shape[1] or not np.isfinite(flat).all():
            continue
        order = np.argsort(np.argsort(flat, axis=0), axis=0)  # the Mann-Whitney statistic: P(divergent < other)
        above = order[apart].mean(axis=0) - (apart.sum() - 1) / 2.0
        share = above / rest.sum()
        worst = int(np.argmax(np.abs(share - 0.5)))
        if abs(share[worst] - 0.5) > best[0]:
            inside, outside = np.median(flat[apart, worst]), np.median(flat[rest, worst])
            name = component(site, values.shape[2:], worst, labels)
            size = "small" if share[worst] < 0.5 else "large"
            text = f", most where {name} is {size} (median {inside:.2g} there, {outside:.2g} elsewhere)"
            best = (abs(share[worst] - 0.5), name, text)
    return (best[1], best[2]) if best[0] > _SEPARATED - 0.5 else ("", "")


def _of_draws(draws: Mapping[str, Array], labels: Labels, remedies: Remedies) -> list[Check]:
    num_chains, num_draws = next(iter(draws.values())).shape[:2]
    if num_draws < 4:
        finding = Finding(
            f"{num_draws} draws a chain are too few to judge",
            remedies.longer,
            number=float(num_draws),
            threshold=4.0,
            meaning="No statistic of convergence is defined for so few draws.",
            severity="do not use",
        )
        return [failed("length", finding)]
    judged = [*itertools.chain(*(_judged(s, values, labels) for s, values in draws.items() if values[0, 0].size))]
    checks = []
    if num_chains > 1:
        rhat, name = max(((value, label) for label, value, _ in judged), default=(0.0, ""))
        checks.append(_rhat(rhat, name, remedies))
    ess, name = min(((value, label) for label, _, value in judged), default=(np.inf, ""))
    return [*checks, _ess(ess, name, num_chains, remedies)]


def _rhat(rhat: float, name: str, remedies: Remedies) -> Check:
    if not rhat > RHAT_LIMIT:
        return Check("R-hat", f"at most {rhat:.3f}{f', of {name}' if name else ''}, limit {RHAT_LIMIT}")
    finding = Finding(
        f"R-hat of {name} is {f'{rhat:.3f}' if rhat < 100.0 else 'above 100'} (limit {RHAT_LIMIT})",
        remedies.settle,
        number=rhat,
        threshold=RHAT_LIMIT,
        site=name,
        meaning="The chains do not agree with each other: they have not all reached the same distribution yet, "
        "or each is caught in a part of it.",
        severity="do not use" if rhat > _RHAT_HOPELESS else "caution",
    )
    return failed("R-hat", finding)


def _ess(ess: float, name: str, num_chains: int, remedies: Remedies) -> Check:
    limit = ESS_PER_CHAIN * num_chains
    if not ess < limit:
        least = f"at least {ess:.0f}, of {name}, limit {limit}" if np.isfinite(ess) else "nothing varies"
        return Check("effective sample size", least)
    finding = Finding(
        f"effective sample size of {name} is {ess:.0f} (limit {limit})",
        remedies.longer,
        number=ess,
        threshold=float(limit),
        site=name,
        meaning=f"The draws are worth {ess:.0f} independent ones: too few for stable tails and for R-hat itself.",
        severity="do not use" if ess < _ESS_HOPELESS * num_chains else "caution",
    )
    return failed("effective sample size", finding)


def _judged(site: str, values: Array, labels: Labels) -> list[tuple[str, float, float]]:
    """Label, R-hat and ESS of a site's components: of all, or of the worst by a cheap score where there are many."""
    flat = values.reshape(*values.shape[:2], -1)
    chosen = np.arange(flat.shape[2])
    if chosen.size > SCREENED:
        chosen = np.sort(np.argsort(-screen(flat), kind="stable")[:SCREENED])
    rhat, ess = convergence(flat[..., chosen].astype(float))
    names = [component(site, values.shape[2:], int(i), labels) for i in chosen]
    return list(zip(names, np.nan_to_num(rhat, nan=0.0), np.nan_to_num(ess, nan=np.inf), strict=True))


def acceptance(rates: Array, target: float) -> Check:
    """Whether every chain accepts about as many proposals as its step size was adapted to.

    Args:
        rates: ``[chain, draw]``, of each transition.
        target: what adaptation aimed at.
    """
    by_chain = rates.mean(axis=1)
    worst = int(np.argmin(by_chain))
    lowest, limit = float(by_chain[worst]), max(target - ACCEPTANCE_SHORTFALL, target / 3.0)
    if not lowest < limit:
        return Check("acceptance", f"at least {lowest:.2f} a chain, target {target:.2f}")
    finding = Finding(
        f"chain {worst} accepts {lowest:.2f} of its proposals (target {target:.2f}, limit {limit:.2f})",
        "raise num_warmup, or give a smaller step_size",
        number=lowest,
        threshold=limit,
        meaning="Its steps are too large for where it is: adaptation ended before the chain had arrived, or the scale "
        "of the posterior changes from place to place.",
    )
    return failed("acceptance", finding)


def check_reach(outside: float) -> Check:
    """Whether importance sampling could reach all of the prior."""
    finding = Finding(
        f"the proposal's support leaves out {100 * outside:.2g}% of the prior",
        "propose from a distribution with the support of the prior, such as dist.Normal for a real number",
        WeightWarning,
        number=outside,
        threshold=0.0,
        meaning="No draw can lie there, and neither k-hat nor the effective sample size can know of it: what posterior "
        "there is outside is missing from every mean, and from the evidence.",
        severity="do not use",
    )
    return failed("reach of the proposal", finding)


def checks_of_weights(khat: float, ess: float, num_draws: int) -> list[Check]:
    """Pareto k-hat and effective sample size of importance weights."""
    limit = khat_threshold(num_draws)
    checks = [
        Check("Pareto k-hat", f"{khat:.2f}, limit {limit:.2f}"),
        Check("effective sample size", f"{ess:.0f} of {num_draws}, limit {WEIGHTED_ESS_LIMIT:.0f}"),
    ]
    if khat > limit:
        finding = Finding(
            f"Pareto k-hat is {khat:.2f} (limit {limit:.2f}): a few weights carry the estimate",
            "propose from something closer to the posterior, such as an earlier posterior with Student-t tails",
            WeightWarning,
            number=khat,
            threshold=limit,
            meaning="What was proposed leaves out a part of the posterior; the stated errors are too small, and more "
            "draws of the same kind will not help.",
            severity="do not use" if khat > 0.7 else "caution",
        )
        checks[0] = failed("Pareto k-hat", finding)
    if not ess >= WEIGHTED_ESS_LIMIT:
        finding = Finding(
            f"the weights are worth {ess:.0f} draws of {num_draws} (limit {WEIGHTED_ESS_LIMIT:.0f})",
            "raise num_particles, or propose closer to the posterior",
            WeightWarning,
            number=ess,
            threshold=WEIGHTED_ESS_LIMIT,
            meaning="Nearly all draws count for nothing: means are rough and tails unknown.",
            severity="caution" if ess >= _ESS_HOPELESS else "do not use",
        )
        checks[1] = failed("effective sample size", finding)
    return checks
