"""Judge a posterior: a table of diagnostics, each with its own rule for when it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.checks.chains import (
    PARTICLES,
    Remedies,
    acceptance,
    check_reach,
    checks_of_chains,
    checks_of_weights,
)
from phlogiston.diagnostics.checks.missed_modes import MOST_DIMENSIONS, check_missed_modes, mirrored
from phlogiston.diagnostics.checks.mixing import modes_between_chains, stuck
from phlogiston.diagnostics.checks.modes import check_modes
from phlogiston.diagnostics.checks.prior_conflict import check_conflict
from phlogiston.diagnostics.checks.propriety import check_proper
from phlogiston.diagnostics.checks.stein import check_draws
from phlogiston.diagnostics.checks.tails import check_tails
from phlogiston.diagnostics.checks.variational import check_ending, check_gap
from phlogiston.diagnostics.subject import MOST_NUMBERS, Diagnostic, Subject
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.locscale import centred_sites
from phlogiston.engine.program.sites import Site
from phlogiston.errors import ModelError, SettingError, problem
from phlogiston.inference.improper import ray_of
from phlogiston.inference.optimise.normal_approx import evaluated
from phlogiston.inference.starts import named
from phlogiston.model.model import Model
from phlogiston.model.registry import Registry
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.verdict import Check, Diagnosis, Finding, failed, skipped
from phlogiston.stats.moments import quantiles
from phlogiston.training.guides import can_correlate

Array = NDArray[Any]

PRIOR_DRAWS = 4_000
FEWEST_DRAWS = 100  # with fewer, neither identities nor the masses of modes are judged
_SEEN = 16  # components of a site by which a chain is seen to move


@dataclass(frozen=True)
class Rule:
    """A diagnostic that is made of two functions.

    Args:
        applies: whether the diagnostic has anything to say.
        checks: the outcomes.
    """

    applies: Callable[[Subject], bool]
    checks: Callable[[Subject], Sequence[Check]]


@np.errstate(over="ignore", invalid="ignore")  # the squares of diverged draws overflow; the checks expect that
def judge(posterior: Posterior, *, thorough: bool, extra: Iterable[str | Diagnostic] = ()) -> Diagnosis:
    """Run every diagnostic of ``STANDARD`` that applies, then those in ``extra``.

    Args:
        posterior: what is judged.
        thorough: whether diagnostics may evaluate the model.
        extra: further diagnostics, each a name in ``CHECKS`` or an object.

    Raises:
        UnknownName: no diagnostic has that name.
        SettingError: an object is not a ``Diagnostic``.
    """
    subject = Subject(posterior, thorough)
    chosen = [*STANDARD.values(), *map(_diagnostic, extra)]
    return Diagnosis(tuple(check for each in chosen if each.applies(subject) for check in each.checks(subject)))


def _diagnostic(given: str | Diagnostic) -> Diagnostic:
    """A diagnostic that was named, or given as an object or a class."""
    found: Any = CHECKS[given] if isinstance(given, str) else given
    if not is_diagnostic(found):
        expected = "the name of a check, or an object with applies(subject) and checks(subject)"
        raise SettingError(problem("diagnose(extra=...)", found=repr(given), expected=expected))
    made: Diagnostic = found() if isinstance(found, type) else found
    return made


def is_diagnostic(item: Any) -> bool:
    """Whether an object has the methods of ``Diagnostic``."""
    return all(callable(getattr(item, method, None)) for method in ("applies", "checks"))


def _chains(subject: Subject) -> list[Check]:
    """Whether chains move, accept, agree and mix."""
    posterior, draws, labels = subject.posterior, subject.draws, subject.labels
    stats = {name: value.numpy() for name, value in posterior.stats.items()}
    checks = [stuck(moving)] if (moving := _moving(subject)) else []
    target = _number(posterior.settings.get("target_accept_prob"))
    if target is not None and "acceptance_rate" in stats:
        checks.append(acceptance(stats["acceptance_rate"], target))
    of_chains = checks_of_chains(draws, stats, labels, _remedies(subject))
    if any(check.name == "R-hat" and check.state == "do not use" for check in of_chains):
        checks.append(modes_between_chains(draws, stats.get("lp"), labels))
    return [*checks, *of_chains]


def _remedies(subject: Subject) -> Remedies:
    """What can be done about chains of this method on this model."""
    if "num_particles" in subject.posterior.settings:  # independent groups of particles are laid out as chains
        return PARTICLES
    if subject.model is None:
        return Remedies()
    funnels = [str(site) for site in centred_sites(subject.model, subject.model.structure) if site.is_funnel]
    return Remedies(recentre=f"{'; '.join(funnels)}: write model = ph.reparam(model)" if funnels else "")


def _moving(subject: Subject) -> dict[str, Array]:
    """A few components of every continuous latent."""
    draws = subject.draws
    if subject.model is None:
        names = [name for name, value in draws.items() if value.dtype.kind == "f" and (value != np.round(value)).any()]
    else:
        names = [site.name for site in subject.model.structure.continuous if site.missing is None]
    flat = {name: draws[name].reshape(*draws[name].shape[:2], -1)[..., :_SEEN] for name in names if name in draws}
    return {name: value for name, value in flat.items() if value.shape[2]}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _weights(subject: Subject) -> list[Check]:
    """Whether importance weights are even, and the proposal reaches all of the prior."""
    figures = subject.posterior.figures
    count = int(figures.get("num_particles", subject.posterior.num_draws))
    checks = checks_of_weights(figures["pareto_k"], figures["ess"], count)
    outside = figures.get("outside_proposal")
    return [*checks, check_reach(outside)] if outside else checks


def _ending(subject: Subject) -> list[Check]:
    return [check_ending(bool(subject.posterior.converged), subject.posterior.stop_reason)]


def _gap(subject: Subject) -> list[Check]:
    gap = subject.posterior.gap
    rich = can_correlate(subject.posterior.settings.get("guide", "normal"))
    return [] if gap is None else [check_gap(gap, can_correlate=rich)]


def _is_enumerated(subject: Subject) -> bool:
    evidence = subject.posterior.log_evidence
    return evidence is not None and evidence.kind == "exact"


def _enumerated(subject: Subject) -> list[Check]:
    return [Check("enumeration", "every state was counted; only the draws have a Monte Carlo error")]


def _is_one_point(subject: Subject) -> bool:
    """Whether all draws are the same: the mode of a posterior has no spread."""
    if not subject.thorough:
        return False
    latents = subject.draws if subject.model is None else {s.name for s in subject.model.structure.of("latent")}
    found = [value.reshape(-1, *value.shape[2:]) for name, value in subject.draws.items() if name in latents]
    return any(value.size for value in found) and not any((value != value[:1]).any() for value in found)


def _one_point(subject: Subject) -> list[Check]:
    finding = Finding(
        "all draws are one point",
        "take a method that draws from the posterior, such as 'nuts', or 'laplace' around the point",
        number=1.0,
        threshold=2.0,
        meaning="A point does not say how certain it is: no interval, probability or prediction can be taken from it.",
    )
    return [failed("spread", finding)]


def _may_be_improper(subject: Subject) -> bool:
    """Thorough judgement looks at every flat prior; else chains that fail are reason enough to look."""
    model, posterior = subject.model, subject.posterior
    if model is None or not any(site.improper for site in model.structure.continuous):
        return False
    if subject.thorough or not posterior.is_chain:
        return subject.thorough
    return any(
        check.name in ("R-hat", "divergences") and check.finding is not None
        for check in subject.once("chains", _chains)
    )


def _proper(subject: Subject) -> list[Check]:
    """Whether flat priors leave the density without an end, looked at from the draw of the highest density."""
    if subject.why_not_evaluated or (found := subject.evaluated) is None:
        return []
    u = found.u.reshape(-1, found.target.dim)
    u = u[np.isfinite(u).all(1)]
    try:
        ray = ray_of(found.target, u[int(np.argmax(found.log_density(u)))])
    except ModelError:  # the density cannot be evaluated so far from the draws
        return []
    return [check_proper(ray, subject.coordinates(found.target))]


def _has_density(subject: Subject) -> bool:
    return subject.thorough and (subject.model is None or bool(subject.model.structure.continuous))


def _density(subject: Subject) -> list[Check]:
    """Whether the draws satisfy identities that hold for draws of the model's density."""
    if subject.why_not_evaluated or (found := subject.evaluated) is None:
        return [skipped("draws against the density", subject.why_not_evaluated)]
    return [
        check_draws(
            found.u,
            found.gradient,
            subject.coordinates(found.target),
            weights=found.weights,
            chains=subject.posterior.is_chain,
            inflation=_inflation(subject.posterior, found.u),
            log_density=found.log_density,
        )
    ]


def _inflation(posterior: Posterior, u: Array) -> float:
    """The factor by which errors exceed those of independent draws, where resampled draws repeat each other."""
    if posterior.is_chain or posterior.log_weights is not None:
        return 1.0
    count = u.shape[0] * u.shape[1]
    different = len(np.unique(u.reshape(count, -1), axis=0))
    effective = posterior.figures.get("ess", np.inf)
    return float(np.sqrt(max(count / different, 1.0) + count / effective))


def _has_modes(subject: Subject) -> bool:
    if not _has_density(subject) or subject.weights is not None or subject.why_not_evaluated:
        return False
    found = subject.evaluated
    return found is not None and found.u[..., 0].size >= FEWEST_DRAWS and bool(found.usable.any())


def _modes(subject: Subject) -> list[Check]:
    """Whether each mode has as many draws as the density puts there."""
    found = subject.evaluated
    if found is None:
        return []
    rng = generator(spawn(subject.posterior.seed or 0, 7)[6])
    label, chains = subject.coordinates(found.target), subject.posterior.is_chain
    return [check_modes(found.u[:, found.usable], found.log_density, label, rng, chains=chains)]


def _may_miss_modes(subject: Subject) -> bool:
    if not _has_density(subject) or subject.why_not_evaluated:
        return False
    found = subject.evaluated
    few = found is not None and 0 < found.target.dim <= MOST_DIMENSIONS
    return few and found is not None and int(found.usable.sum()) * found.u.shape[0] >= FEWEST_DRAWS


def _missed_modes(subject: Subject) -> list[Check]:
    """Whether climbs from spread points end at a mode that no draw visits."""
    found = subject.evaluated
    if found is None:
        return []
    target, slow = found.target, found.is_slow
    u = found.u[:, found.usable].reshape(-1, found.target.dim)
    weights = np.ones(found.u.shape[:2]) if found.weights is None else found.weights
    weights = weights[:, found.usable].ravel() / weights[:, found.usable].sum()
    each, evaluate = 2 if slow else 8, evaluated(target)
    of_prior, of_rest = spawn(subject.posterior.seed or 0, 10)[8:]
    rng = generator(of_rest)
    own = u[rng.choice(len(u), each, p=weights)]
    shapes = [(slot.start, slot.stop, slot.shape) for slot in target.slots]
    starts = [own, mirrored(own, shapes, rng), rng.uniform(-2.0, 2.0, own.shape)]
    if not any(site.improper for site in target.structure.of("latent")):
        starts.append(named(target, "prior")(of_prior, each).double().numpy())
    points = np.concatenate(starts)
    value, gradient = evaluate(points)
    usable = np.isfinite(value) & np.isfinite(gradient).all(1)
    label = subject.coordinates(target)
    proposals = 200 if slow else 1000
    return [check_missed_modes(u, weights, points[usable], evaluate, label, rng, proposals=proposals)]


def _tails(subject: Subject) -> list[Check]:
    """Whether the means of the draws can exist."""
    sites = {} if subject.model is None else subject.model.sites
    data = {} if subject.model is None else subject.model.entries_observed
    # Latents with finitely many values have every moment, however rare some of them are.
    finite = {name for name, site in sites.items() if site.discrete and site.enumerable}
    draws = {name: values for name, values in subject.draws.items() if name not in finite}
    if not draws:
        return [skipped("tails of the draws", "all latents have finitely many values")]
    return [check_tails(draws, subject.weights, subject.labels, observed=data)]


def _conflict(subject: Subject) -> list[Check]:
    """Whether the data put a latent where its prior has next to no density."""
    name, model = "prior and data", subject.model
    if model is None:
        return [skipped(name, "no model; ph.load(path, model=model)")]
    latents = model.structure.of("latent")
    if improper := [site.name for site in latents if site.improper]:
        return [skipped(name, f"the prior of {improper[0]} is improper")]
    judged = [site for site in latents if not site.discrete and site.missing is None and all(site.shape)]
    sites = [site for site in judged if site.name in subject.draws]
    if not sites or not model.structure.observations:
        return [skipped(name, "no continuous latent" if not sites else "nothing is observed")]
    return [_prior_conflict(subject, model, sites)]


def _prior_conflict(subject: Subject, model: Model, sites: list[Site]) -> Check:
    size = sum(int(np.prod(site.shape)) for site in model.structure.sites)
    count = int(np.clip(MOST_NUMBERS // max(size, 1), 200, PRIOR_DRAWS))
    # Latents alone: some likelihoods have no sampler.
    drawn = list(model.target().propose(count, spawn(subject.posterior.seed or 0, 8)[7]))
    prior = {site.name: torch.cat([part[site.name] for part in drawn]) for site in sites}
    medians = {s.name: quantiles(subject.draws[s.name].astype(float), (0.5,), subject.weights)[0] for s in sites}
    simulated = {site.name: prior[site.name].to(torch.float64).numpy() for site in sites}
    return check_conflict(simulated, medians, subject.labels)


# What every posterior is judged by, in the order in which a diagnosis lists the outcomes.
STANDARD: dict[str, Diagnostic] = {
    "finite integral": Rule(_may_be_improper, _proper),
    "chains": Rule(lambda s: s.posterior.is_chain, lambda s: s.once("chains", _chains)),
    "weights": Rule(lambda s: not s.posterior.is_chain and "pareto_k" in s.posterior.figures, _weights),
    "optimisation": Rule(lambda s: s.posterior.converged is not None, _ending),
    "ELBO gap": Rule(lambda s: s.posterior.gap is not None, _gap),
    "enumeration": Rule(_is_enumerated, _enumerated),
    "spread": Rule(_is_one_point, _one_point),
    "tails": Rule(lambda s: s.thorough, _tails),
    "density": Rule(_has_density, _density),
    "modes": Rule(_has_modes, _modes),
    "missed modes": Rule(_may_miss_modes, _missed_modes),
    "prior and data": Rule(lambda s: s.thorough, _conflict),
}

# All that can be named: these, and those that users register.
CHECKS = Registry("check", STANDARD, accepts=is_diagnostic, expected="an object with applies and checks")
