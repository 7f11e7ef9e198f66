"""Where importance sampling draws from: the prior, another program, or a density fitted to a posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.sites import Site
from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import ModelError, UnsupportedModel, did_you_mean, problem
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior

Values = dict[str, torch.Tensor]
_CHUNK = 16_384
_PRIOR_DRAWS = 1000


@dataclass(frozen=True)
class Proposal:
    """A source of weighted particles.

    Args:
        draw: number of particles and seed -> chunks of values with ``log_weight``, log p(x, z) - log q(z).
        engine: the tier that evaluated the last chunk.
        target: the densities of the model that weighs them.
        outside: fraction of the prior that it cannot reach, as its support is narrower.
    """

    draw: Callable[[int, np.random.SeedSequence], Iterator[Values]]
    engine: Callable[[], str]
    target: Target
    outside: float = 0.0


def checked(target: Target, chunks: Iterator[Values]) -> Iterator[Values]:
    """Yield the chunks unchanged until a ``log_weight`` is NaN or +inf; -inf is a legal weight.

    Raises:
        ModelError: there is such a weight; its draw and the site that it came from are in the message.
    """
    latents = [site.name for site in target.structure.of("latent")]
    for chunk in chunks:
        log_weight = chunk["log_weight"]
        bad = torch.isnan(log_weight) | torch.isposinf(log_weight)
        if bad.any():
            first = int(bad.nonzero()[0])
            draw = {name: chunk[name][first] for name in latents}
            raise ModelError(
                problem(
                    "weights",
                    found=f"{float(log_weight[first])} as a log weight, in {int(bad.sum())} of {bad.numel()} draws; "
                    f"the first of them is {target.explain(draw)}",
                    expected="numbers, or -inf for what cannot happen: a program that is defined at every draw",
                )
            )
        yield chunk


def from_prior(model: Model, tier: Tier) -> Proposal:
    """Ancestral draws; the weight is the likelihood."""
    target = model.target(tier)
    return Proposal(target.propose, lambda: target.engine_of("propose"), target)


def from_program(model: Model, guide: Model, tier: Tier) -> Proposal:
    """Draws from another program; latents that it lacks are drawn from the model's prior.

    Raises:
        ModelError: the guide observes something, or draws a site that the model has not, or of another kind or shape.
    """
    _require_same_latents(model, guide)
    names = [site.name for site in guide.structure.of("latent")]
    target, source = model.target(tier), guide.target(tier)

    def draw_chunk(rows: int, seed: np.random.SeedSequence) -> Values:
        from_guide, from_model = spawn(seed, 2)
        proposed = source.complete({}, rows, from_guide)
        full = target.complete({name: proposed[name] for name in names}, rows, from_model)
        log_q = proposed["log_joint"] + full.pop("log_drawn")
        full["log_weight"] = full.pop("log_joint") - log_q
        return full

    engine = f"complete:{','.join(sorted(names))}"
    return Proposal(_in_chunks(draw_chunk), lambda: target.engine_of(engine), target, _outside(model, guide))


def _in_chunks(
    draw_chunk: Callable[[int, np.random.SeedSequence], Values],
) -> Callable[[int, np.random.SeedSequence], Iterator[Values]]:
    """Draw any number of particles in chunks of bounded size, each with a seed of its own."""

    def draw(count: int, seed: np.random.SeedSequence) -> Iterator[Values]:
        starts = range(0, count, _CHUNK)
        for start, child in zip(starts, spawn(seed, len(starts)), strict=True):
            yield draw_chunk(min(_CHUNK, count - start), child)

    return draw


def _require_same_latents(model: Model, guide: Model) -> None:
    """Refuse a guide that conditions on something, or that draws a site which the model does not have."""
    for site in guide.structure.of("observed", "factor"):
        found = "an observation" if site.role == "observed" else "a factor"
        expected = "latents alone, drawn from densities that are known"
        fix = "a program of the latents, or proposal=a posterior of that model"
        raise ModelError(
            problem(f"proposal {guide.name!r}, site {site.name!r}", found=found, expected=expected, fix=fix)
        )
    latents = {site.name: site for site in model.structure.of("latent")}
    for site in guide.structure.of("latent"):
        if site.name not in latents:
            hint = did_you_mean(site.name, latents)
            raise ModelError(f"proposal {guide.name!r}: site {site.name!r} is no latent of {model.name!r}; {hint}")
        if site.shape != latents[site.name].shape:
            expected = f"shape {latents[site.name].shape}, as in {model.name!r}"
            raise ModelError(
                problem(f"proposal {guide.name!r}, site {site.name!r}", found=f"shape {site.shape}", expected=expected)
            )
        if site.discrete != latents[site.name].discrete:
            kinds = ("discrete" if other.discrete else "continuous" for other in (site, latents[site.name]))
            found, expected = next(kinds), next(kinds)
            raise ModelError(
                problem(
                    f"proposal {guide.name!r}, site {site.name!r}",
                    found=f"{found} values ({site.distribution})",
                    expected=f"{expected} ones, as in {model.name!r} ({latents[site.name].distribution})",
                )
            )


def _outside(model: Model, guide: Model) -> float:
    """The fraction of prior draws that have a site outside the support from which the guide draws it."""
    pairs = [(latent.name, latent.support, guide.sites[latent.name].support) for latent in _shared(model, guide)]
    pairs = [(name, ours, theirs) for name, ours, theirs in pairs if str(ours) != str(theirs)]
    if not pairs:
        return 0.0
    drawn, outside = model.simulate(_PRIOR_DRAWS, seed=0), torch.zeros(_PRIOR_DRAWS, dtype=torch.bool)
    for name, ours, theirs in pairs:
        inside, reached = (s.check(drawn[name]).reshape(_PRIOR_DRAWS, -1).all(1) for s in (ours, theirs))
        if bool(inside.all()):  # else the support changes with other latents, and one run does not tell it
            outside |= ~reached
    return float(outside.double().mean())


def _shared(model: Model, guide: Model) -> list[Site]:
    return [site for site in model.structure.of("latent") if site.name in guide.sites]


def from_posterior(model: Model, posterior: Posterior, degrees: float | None, tier: Tier) -> Proposal:
    """Draws from a normal (``degrees=None``) or Student-t density with the posterior's moments, unconstrained.

    Discrete latents are summed out of the weight and drawn back from their exact conditional.

    Raises:
        UnsupportedModel: the posterior lacks a continuous latent of the model, or a discrete one is infinite.
    """
    target = model.target(tier)
    _require_draws(target, posterior)
    mean, scale = _moments(target, posterior)

    def draw_chunk(rows: int, seed: np.random.SeedSequence) -> Values:
        noise, discrete = spawn(seed, 2)
        points, log_q = _draw_density(mean, scale, degrees, rows, generator(noise))
        log_weight = target.log_density(points) - log_q
        values = target.constrain(points)
        if target.structure.discrete:
            values = target.recover_discretes({s.name: values[s.name] for s in target.structure.continuous}, discrete)
        return {**values, "log_weight": log_weight}

    return Proposal(_in_chunks(draw_chunk), lambda: target.engine_of("density"), target)


def _require_draws(target: Target, posterior: Posterior) -> None:
    """Refuse a posterior without draws of every continuous latent, and discrete latents without a finite support."""
    structure = target.structure
    for site in structure.of("latent"):
        if site.discrete and not site.enumerable:
            raise UnsupportedModel(
                problem(f"site {site.name!r}", found="infinitely many values", expected="proposal='prior' or a program")
            )
        if not site.discrete and site.name not in posterior.draws:
            raise UnsupportedModel(
                problem(f"site {site.name!r}", found="no draws in the proposal", expected="a posterior of this model")
            )
    for site in structure.continuous:
        if (shape := tuple(posterior.draws[site.name].shape[2:])) != site.shape:
            found, expected = (
                f"draws of shape {shape} in the proposal",
                f"shape {site.shape}, of this model's posterior",
            )
            raise UnsupportedModel(problem(f"site {site.name!r}", found=found, expected=expected))
    if not target.dim:
        raise UnsupportedModel(
            problem("proposal", found="no continuous latent to fit a density to", expected="proposal='prior'")
        )


def _moments(target: Target, posterior: Posterior) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean ``[D]`` of the unconstrained draws and a Cholesky factor ``[D, D]`` of their covariance."""
    continuous = target.structure.continuous
    flat = {site.name: posterior.draws[site.name].flatten(0, 1).to(target.dtype) for site in continuous}
    u = target.unconstrain(flat)
    weights = torch.full((u.shape[0],), 1.0 / u.shape[0], dtype=u.dtype)
    if posterior.weights is not None:
        weights = posterior.weights.reshape(-1).to(u.dtype)
    mean = weights @ u
    centred = u - mean
    covariance = (weights[:, None] * centred).mT @ centred
    # The small multiple of the identity keeps the factor defined where draws are collinear.
    ridge = 1e-10 * covariance.diagonal().mean() * torch.eye(target.dim, dtype=u.dtype)
    return mean, torch.linalg.cholesky(covariance + ridge)


def _draw_density(
    mean: torch.Tensor, scale: torch.Tensor, degrees: float | None, rows: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points ``[rows, D]`` of the fitted density, and its log density at them."""
    dim = mean.shape[0]
    normal = torch.from_numpy(rng.standard_normal((rows, dim))).to(mean.dtype)
    half_log_det = scale.diagonal().log().sum()
    squares = normal.square().sum(-1)
    if degrees is None:
        log_q = -0.5 * squares - half_log_det - 0.5 * dim * math.log(2.0 * math.pi)
        return mean + normal @ scale.mT, log_q
    stretch = torch.from_numpy(degrees / rng.chisquare(degrees, rows)).to(mean.dtype)
    log_q = (
        math.lgamma(0.5 * (degrees + dim))
        - math.lgamma(0.5 * degrees)
        - 0.5 * dim * math.log(degrees * math.pi)
        - half_log_det
        - 0.5 * (degrees + dim) * torch.log1p(stretch * squares / degrees)
    )
    return mean + (normal * stretch.sqrt()[:, None]) @ scale.mT, log_q
