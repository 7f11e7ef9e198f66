"""Which checks a posterior gets, and what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.checks.chains import acceptance, check_reach, checks_of_chains, checks_of_weights
from phlogiston.diagnostics.checks.mixing import modes_between_chains, stuck
from phlogiston.diagnostics.checks.modes import check_modes
from phlogiston.diagnostics.checks.prior_conflict import check_conflict
from phlogiston.diagnostics.checks.propriety import check_proper
from phlogiston.diagnostics.checks.stein import check_draws
from phlogiston.diagnostics.checks.variational import check_ending, check_gap
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.locscale import centred_sites
from phlogiston.errors import ModelError
from phlogiston.inference.improper import coordinates, ray_of
from phlogiston.model.model import Model
from phlogiston.posterior.labels import numbered
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.verdict import Check, Diagnosis, Finding, failed, skipped
from phlogiston.stats.moments import quantiles

Array = NDArray[Any]

MOST_DRAWS = 2_000  # that are held against the density
MOST_DRAWS_IN_A_LOOP = 400
MOST_WEIGHTED_DRAWS = 20_000  # many count for little
MOST_NUMBERS = 2_000_000
PRIOR_DRAWS = 4_000
_SEEN = 16  # components of a site that tell whether a chain moves


@np.errstate(over="ignore", invalid="ignore")  # chains that ran away leave numbers whose squares are none
def judge(posterior: Posterior, *, thorough: bool) -> Diagnosis:
    """Every check that applies; those that evaluate the model only if ``thorough``."""
    checks: list[Check] = []
    if posterior.is_chain:
        checks += _of_chains(posterior)
    elif "pareto_k" in posterior.figures:
        draws = next(iter(posterior.draws.values())).shape[1]
        count = int(posterior.figures.get("num_particles", draws))
        checks += checks_of_weights(posterior.figures["pareto_k"], posterior.figures["ess"], count)
        if outside := posterior.figures.get("outside_proposal"):
            checks.append(check_reach(outside))
    checks += _of_guides(posterior)
    if posterior.log_evidence is not None and posterior.log_evidence.kind == "exact":
        checks.append(Check("enumeration", "every state was counted; only the draws have a Monte Carlo error"))
    if thorough or any(check.name in ("R-hat", "divergences") and check.finding is not None for check in checks):
        checks = _proper(posterior) + checks
    if thorough:
        checks += _one_point(posterior)
        checks += _against_the_model(posterior)
    return Diagnosis(tuple(checks))


def _of_guides(posterior: Posterior) -> list[Check]:
    """What is known of an approximation that was optimised."""
    checks = []
    if posterior.converged is not None:
        checks.append(check_ending(posterior.converged, posterior.stop_reason))
    if posterior.gap is not None:
        rich = posterior.settings.get("guide", "normal") not in ("normal", "structured")
        checks.append(check_gap(posterior.gap, rich=rich))
    return checks


def _one_point(posterior: Posterior) -> list[Check]:
    """Whether there is a spread at all: a posterior mode has none."""
    latents = posterior.draws if posterior.model is None else {s.name for s in posterior.model.structure.of("latent")}
    found = [value.flatten(0, 1) for name, value in posterior.draws.items() if name in latents and value.numel()]
    if not found or any(bool((value != value[:1]).any()) for value in found):
        return []
    finding = Finding(
        "all draws are one point",
        "take a method that draws from the posterior, such as 'nuts', or 'laplace' around the point",
        number=1.0,
        threshold=2.0,
        meaning="A point says nothing of how sure it is: no interval, no probability, no prediction from it is honest.",
    )
    return [failed("spread", finding)]


def _of_chains(posterior: Posterior) -> list[Check]:
    draws = {name: value.numpy() for name, value in posterior.draws.items()}
    stats = {name: value.numpy() for name, value in posterior.stats.items()}
    labels = labels_of(posterior)
    checks = [stuck(moving)] if (moving := _moving(posterior, draws)) else []
    target = _number(posterior.settings.get("target_accept_prob"))
    if target is not None and "acceptance_rate" in stats:
        checks.append(acceptance(stats["acceptance_rate"], target))
    of_chains = checks_of_chains(draws, stats, labels)
    doubtful = any(c.name == "R-hat" and c.state == "do not use" for c in of_chains)
    if doubtful:
        checks.append(modes_between_chains(draws, stats.get("lp"), labels))
    of_chains = _with_the_line(posterior, of_chains)
    if "num_particles" in posterior.settings:  # islands of particles are laid out as chains
        of_chains = [_of_particles(check) for check in of_chains]
    return [*checks, *of_chains]


def _with_the_line(posterior: Posterior, checks: list[Check]) -> list[Check]:
    """Advice to write a hierarchy otherwise, with the model's own sites and the line that does it, or left out."""
    general = "write the hierarchy non-centred"
    ailing = [check for check in checks if check.finding is not None and general in check.finding.action]
    if not ailing or posterior.model is None:
        return checks
    funnels = [str(s) for s in centred_sites(posterior.model, posterior.model.structure) if s.is_funnel]
    exact = f"{'; '.join(funnels)}: write model = ph.reparam(model)"
    if not funnels:  # nothing is centred, so that there is nothing to write otherwise
        general, exact = f"{general}, or ", ""
    return [
        replace(check, finding=replace(check.finding, action=check.finding.action.replace(general, exact)))
        if check in ailing and check.finding is not None
        else check
        for check in checks
    ]


def _of_particles(check: Check) -> Check:
    """The same advice in the settings that particles have."""
    if check.finding is None or not check.finding.action.startswith("raise num_"):
        return check
    return replace(check, finding=replace(check.finding, action="raise num_particles or num_steps"))


def labels_of(posterior: Posterior) -> Any:
    """What each position along each dimension of a site is called."""
    return posterior.model.labels if posterior.model is not None else numbered


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _moving(posterior: Posterior, draws: Mapping[str, Array]) -> dict[str, Array]:
    """A few components of every latent that lives on a continuum."""
    if posterior.model is None:
        names = [name for name, value in draws.items() if value.dtype.kind == "f" and (value != np.round(value)).any()]
    else:
        names = [site.name for site in posterior.model.structure.continuous if site.missing is None]
    flat = {name: draws[name].reshape(*draws[name].shape[:2], -1)[..., :_SEEN] for name in names if name in draws}
    return {name: value for name, value in flat.items() if value.shape[2]}


def _against_the_model(posterior: Posterior) -> list[Check]:
    name, density = "prior and data", "draws against the density"
    if posterior.model is None:
        return [skipped(title, "no model; ph.load(path, model=model)") for title in (density, name)]
    return [*_density_checks(posterior, posterior.model), _conflict(posterior, posterior.model)]


def _density_checks(posterior: Posterior, model: Model) -> list[Check]:
    names = "draws against the density", "weights of modes"
    continuous = model.structure.continuous
    if not continuous:
        return []
    if missing := [site.name for site in continuous if site.name not in posterior.draws]:
        return [skipped(names[0], f"no draws of {missing[0]}")]
    target = model.target()
    try:
        u, gradient, weights = _evaluated(posterior, target)
    except ModelError as error:  # discrete latents that cannot be summed out: there is no density to hold draws against
        return [skipped(names[0], str(error).partition(";")[0])]
    label = coordinates(target, labels_of(posterior))
    inflation = _inflation(posterior, u)
    checks = [check_draws(u, gradient, label, weights=weights, chains=posterior.is_chain, inflation=inflation)]
    if weights is not None:
        return checks
    keep = (np.isfinite(u).all(2) & np.isfinite(gradient).all(2)).all(0)
    if keep.any() and checks[0].state != "not judged":

        def log_density(rows: Array) -> Array:
            return target.log_density(torch.from_numpy(rows)).numpy()

        rng = generator(spawn(posterior.seed or 0, 7)[6])
        checks.append(check_modes(u[:, keep], log_density, label, rng, chains=posterior.is_chain))
    return checks


def _evaluated(posterior: Posterior, target: Target) -> tuple[Array, Array, Array | None]:
    """Some of the draws on the unconstrained scale, the gradient there, ``[chain, draw, D]``, and their weights."""
    names = [site.name for site in target.structure.continuous]
    chains, draws = posterior.draws[names[0]].shape[:2]
    target.value_and_grad(torch.zeros(1, target.dim, dtype=target.dtype))
    slow = target.engine_of("density_and_grad").startswith("loop")
    wanted = MOST_DRAWS if posterior.weights is None else MOST_WEIGHTED_DRAWS
    most = MOST_DRAWS_IN_A_LOOP if slow else min(wanted, max(MOST_NUMBERS // max(target.dim, 1), 200))
    step = max(1, -(-chains * draws // most))
    values = {name: posterior.draws[name][:, ::step] for name in names}
    u = target.unconstrain(values)
    finite = torch.isfinite(u).all(-1)
    _, gradient = target.value_and_grad(torch.where(finite[..., None], u, 0.0))
    gradient = torch.where(finite[..., None], gradient, torch.nan)
    weights = None if posterior.weights is None else posterior.weights[:, ::step].numpy().astype(float)
    return u.numpy().astype(float), gradient.numpy().astype(float), weights


def _inflation(posterior: Posterior, u: Array) -> float:
    """How much larger the errors of independent draws are where draws were resampled and repeat each other."""
    if posterior.is_chain or posterior.log_weights is not None:
        return 1.0
    count = u.shape[0] * u.shape[1]
    different = len(np.unique(u.reshape(count, -1), axis=0))
    worth = posterior.figures.get("ess", np.inf)
    return float(np.sqrt(max(count / different, 1.0) + count / worth))


def _proper(posterior: Posterior) -> list[Check]:
    """Whether flat priors leave the posterior without an end; looked at from the draw of the highest density."""
    model = posterior.model
    if model is None or not any(site.improper for site in model.structure.continuous):
        return []
    target = model.target()
    try:
        u = _evaluated(posterior, target)[0].reshape(-1, target.dim)
        u = u[np.isfinite(u).all(1)]
        best = int(np.argmax(target.log_density(torch.from_numpy(u).to(target.dtype)).numpy()))
        ray = ray_of(target, u[best])
    except ModelError:  # discrete latents that cannot be summed out, or draws that lack a latent
        return []
    return [check_proper(ray, coordinates(target, labels_of(posterior)))]


def _conflict(posterior: Posterior, model: Model) -> Check:
    name = "prior and data"
    latents = model.structure.of("latent")
    improper = [site.name for site in latents if site.improper]
    judged = [site for site in latents if not site.discrete and site.missing is None and all(site.shape)]
    sites = [site for site in judged if site.name in posterior.draws]
    if improper:
        return skipped(name, f"the prior of {improper[0]} is improper")
    if not sites or not model.structure.observations:
        return skipped(name, "no continuous latent" if not sites else "nothing is observed")
    size = sum(int(np.prod(site.shape)) for site in model.structure.sites)
    count = int(np.clip(MOST_NUMBERS // max(size, 1), 200, PRIOR_DRAWS))
    prior = model.target().simulate({}, count, spawn(posterior.seed or 0, 8)[7])
    weights = None if posterior.weights is None else posterior.weights.numpy()
    medians = {site.name: quantiles(posterior.draws[site.name].double().numpy(), (0.5,), weights)[0] for site in sites}
    return check_conflict(
        {site.name: prior[site.name].double().numpy() for site in sites}, medians, labels_of(posterior)
    )
