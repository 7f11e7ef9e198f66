"""Collect the facts: from the sites, from the graph, and from a few hundred draws with a seed that never changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.coupling import tied_latents
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.locscale import centred_sites
from phlogiston.engine.program.sites import Site, Structure
from phlogiston.errors import ModelError
from phlogiston.inference.auto.facts import Facts, Pilot, Rows
from phlogiston.inference.optimise.lbfgs import FAR, Evaluate, Paths, climb_paths
from phlogiston.inference.optimise.normal_approx import at_mode, evaluated
from phlogiston.inference.starts import proposal, spread_points
from phlogiston.model.model import Model
from phlogiston.stats.weights import effective_sample_size, pareto_smooth
from phlogiston.training.amortised.latents import split_of

Array = NDArray[np.float64]

LARGEST_TABLE = 10_000_000  # that is summed once; Exact's own limit
LARGEST_REPEATED = 300_000  # numbers in the largest table that is summed anew for every density
MANY = 1_000  # latents above which rows are looked for
_WIDEST_NORMAL = 200  # coordinates up to which the curvature is found by one difference per coordinate
_NUMBERS = 2e8  # that a pilot may make
_SEED = 20_240_229
_PRIOR_DRAWS, _NORMAL_DRAWS, _CLIMBS, _CLIMB_STEPS = 4096, 1000, 8, 200
_IN_A_LOOP = 256
_VALLEY, _DEPTH, _LOW = 15, 3.0, 10.0  # points between two tops; nats below both that part them, and below the best


def survey(model: Model) -> Facts:
    """The facts of a checked model, the cheap ones first; facts that cannot change the choice are left out."""
    structure, target = model.structure, model.target()
    facts = _of_sites(model, structure)
    if facts.discrete and not facts.uncountable:
        facts = _of_sums(facts, target)
    if facts.discrete and not facts.dim and not facts.unsummable and not facts.uncountable:
        return facts  # it is enumerated, and nothing else matters
    if facts.has_density:
        facts = _of_density(facts, target)
        facts = replace(facts, centred=centred_sites(model, structure))
    if facts.dim >= MANY:
        facts = replace(facts, rows=_rows(model, structure))
    if not facts.improper:
        facts = replace(facts, prior=_prior(facts, target))
    if facts.has_density and not facts.gradient and facts.dim <= _WIDEST_NORMAL:
        facts = _of_modes(facts, target)
    return facts


def _of_sites(model: Model, structure: Structure) -> Facts:
    latents = structure.of("latent")
    discrete = [site for site in latents if site.discrete]
    uncountable = tuple(f"{site.name} ({site.distribution})" for site in discrete if not site.enumerable)
    plates = {plate.name: plate.size for site in structure.sites for plate in site.plates}
    return Facts(
        model=model.name,
        dim=sum(math.prod(site.unconstrained_shape or ()) for site in structure.continuous),
        discrete=sum(_count(site) for site in discrete),
        log10_states=sum(_events(s) * math.log10(s.states) if s.states else math.inf for s in discrete),
        data=sum(_observed(site) for site in structure.observable),
        plates=tuple(plates.items()),
        uncountable=uncountable,
        improper=tuple(site.name for site in latents if site.improper),
    )


def _count(site: Site) -> int:
    return math.prod(site.shape) if site.missing is None else site.missing.count


def _events(site: Site) -> int:
    return math.prod(site.batch_shape) if site.missing is None else site.missing.count


def _observed(site: Site) -> int:
    return math.prod(site.shape) - (site.missing.count if site.missing is not None else 0)


def _of_sums(facts: Facts, target: Target) -> Facts:
    """Whether the discrete latents can be summed out, and in how large a table."""
    try:
        size = target.table_size()
        limit = LARGEST_REPEATED if facts.dim else LARGEST_TABLE
        if size > limit:
            first = target.structure.discrete[0].name
            reason = f"the table of {first} and the others would have {size:,} numbers, more than {limit:,}"
            return replace(facts, table=size, unsummable=reason)
        tied = target.tied_elements()
    except ModelError as error:  # the program asks for the value of a discrete latent
        return replace(facts, unsummable=str(error).partition(";")[0])
    if tied is not None:
        return replace(facts, table=size, unsummable=f"elements of {tied[0]} depend on each other through {tied[1]}")
    if unplated := [site.name for site in target.structure.discrete if site.unplated]:
        return replace(facts, table=size, unsummable=f"{unplated[0]} is a batch outside of any plate")
    return replace(facts, table=size)


def _of_density(facts: Facts, target: Target) -> Facts:
    work = target.work()
    facts = replace(facts, operations=work.operations, elements=work.elements, untraced=work.reason)
    return replace(facts, gradient=_gradient_problem(target))


def _points(target: Target, count: int, child: int) -> torch.Tensor:
    rng = generator(spawn(_SEED, child + 1)[child])
    return torch.from_numpy(rng.uniform(-2.0, 2.0, (count, target.dim))).to(target.dtype)


def _gradient_problem(target: Target) -> str:
    """Why the gradients cannot be used; "" where they can.

    They are compared with differences of the density along a random direction, and a site that moves the likelihood
    has to have a gradient of it somewhere: a staircase has none, though differences agree with that.
    """
    u = _points(target, 3, 0)
    value, grad = target.value_and_grad(u)
    usable = torch.isfinite(value) & torch.isfinite(grad).all(-1)
    if not usable.any():
        return ""
    u, grad = u[usable], grad[usable]
    direction = torch.nn.functional.normalize(_points(target, len(u), 1), dim=-1)
    size = 1e-5 * (1.0 + u.norm(dim=-1, keepdim=True))
    difference = (target.log_density(u + size * direction) - target.log_density(u - size * direction)) / (
        2.0 * size[:, 0]
    )
    slopes = (grad * direction).sum(-1)
    wrong = (difference - slopes).abs() > 1e-3 * (1.0 + slopes.abs()) * (1.0 + value[usable].abs() * 1e-6)
    if wrong.all():
        return f"contradicts differences of the density ({slopes[0]:.3g} against {difference[0]:.3g})"
    likelihood, slope = target.likelihood_and_grad(u)
    for slot in target.slots:
        if bool((slope[:, slot.start : slot.stop] == 0.0).all()):
            moved = u.clone()
            moved[:, slot.start : slot.stop] += 1.37
            if bool((target.likelihood_and_grad(moved)[0] != likelihood).any()):
                return f"zero for {slot.site.name}, though the likelihood changes with it: a staircase"
    return ""


def _rows(model: Model, structure: Structure) -> Rows | None:
    try:
        split = split_of(model)
        if tied_latents(model, structure, split.plate) is not None:
            return None
    except ModelError:
        return None
    return Rows(split.plate.name, split.plate.size, split.dim, len(split.inputs))


def _prior(facts: Facts, target: Target) -> Pilot | None:
    """Draws from the prior, weighted by the likelihood."""
    count = int(np.clip(_NUMBERS / max(facts.elements, facts.data, 1), _IN_A_LOOP, _PRIOR_DRAWS))
    if facts.untraced:
        count = _IN_A_LOOP
    try:
        drawn = [chunk["log_weight"] for chunk in target.propose(count, spawn(_SEED, 3)[2])]
    except ModelError:
        return None
    return _pilot_of(torch.cat(drawn).double().numpy())


def _pilot_of(log_weights: Array) -> Pilot | None:
    if np.isnan(log_weights).any() or np.isposinf(log_weights).any():
        return None
    if not np.isfinite(log_weights).any():
        return Pilot(log_weights.size, 0.0, math.inf)
    _, khat = pareto_smooth(log_weights)
    return Pilot(log_weights.size, effective_sample_size(log_weights), float(khat))


def _of_modes(facts: Facts, target: Target) -> Facts:
    """Climb from several points: separate modes, and the normal at the highest."""
    heavy = bool(facts.untraced) or facts.elements > _NUMBERS / (_CLIMBS * _CLIMB_STEPS)
    climbs = _CLIMBS // 2 if heavy else _CLIMBS
    starting, drawing = spawn(_SEED, 5)[3:]
    evaluate = evaluated(target)
    try:
        start = spread_points(target, proposal(target, "uniform", climbs), starting, climbs)
        paths = climb_paths(evaluate, start, max_steps=_CLIMB_STEPS // (2 if heavy else 1))
    except ModelError:
        return facts
    modes = _converged(paths)
    facts = replace(facts, modes=len(_separate(evaluate, modes)), climbs=climbs)
    if not modes:
        return facts
    normal, smallest = at_mode(evaluate, modes[0][1])
    if smallest <= 0.0:
        return facts
    count = int(np.clip(_NUMBERS / max(facts.elements, 1), 200, _NORMAL_DRAWS))
    points = normal.draw(generator(drawing).standard_normal((count, target.dim)))
    density = target.log_density(torch.from_numpy(points)).double().numpy()
    density = np.where(np.isnan(density), -np.inf, density)
    return replace(facts, normal=_pilot_of(density - normal.log_prob(points)))


def _converged(paths: Paths) -> list[tuple[float, Array]]:
    """The points at which climbs converged, the highest density first."""
    value, points = paths.values[-1], paths.points[-1]
    converged = paths.level & (np.abs(points).max(1) < FAR)
    order = [int(i) for i in np.argsort(-value) if converged[i]]
    return [(float(value[i]), points[i]) for i in order]


def _separate(evaluate: Evaluate, modes: Sequence[tuple[float, Array]]) -> list[tuple[float, Array]]:
    """The modes between which the density falls."""
    kept: list[tuple[float, Array]] = []
    for value, point in modes:
        if value < modes[0][0] - _LOW:
            break
        if all(_valley(evaluate, point, other) < min(value, height) - _DEPTH for height, other in kept):
            kept.append((value, point))
    return kept


def _valley(evaluate: Evaluate, one: Array, other: Array) -> float:
    """The lowest log density on the straight line between two points."""
    along = np.linspace(0.0, 1.0, _VALLEY + 2)[1:-1, None]
    values, _ = evaluate(one + along * (other - one))
    return float(np.min(np.where(np.isnan(values), -np.inf, values)))
