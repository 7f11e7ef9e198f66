"""A guide by name, fitted to the density on the unconstrained scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.inference.improper import refuse_improper
from phlogiston.inference.method import Result
from phlogiston.inference.particles.weighted import values_of, weighted
from phlogiston.inference.starts import first_point
from phlogiston.inference.variational.learned import PARTICLES
from phlogiston.inference.variational.results import explained, result_of, schedule_of
from phlogiston.model.model import Model
from phlogiston.training.bounds import bound_and_gradient
from phlogiston.training.guides import Guide, GuideStart, guide_for, is_flat
from phlogiston.training.maximise import Objective, maximise

if TYPE_CHECKING:
    from phlogiston.inference.methods.svi import SVI
Values = dict[str, torch.Tensor]
Tensors = tuple[torch.Tensor, ...]


def fit_flat(settings: SVI, model: Model, seed: int | None, progress: bool) -> Result:
    """Fit a guide by name to the density on the unconstrained scale."""
    target = model.target(settings.engine)
    starting, optimising, drawing, discrete = spawn(seed, 4)
    refuse_improper(model, target, starting)
    first = first_point(target, settings.initial, starting)
    assert is_flat(settings.guide)
    guide = guide_for(settings.guide, GuideStart(first, target.slots, settings.rank))
    found = maximise(
        _objective(settings, guide, target),
        settings.optim,
        schedule_of(settings),
        optimising,
        tier=settings.engine,
        progress=progress,
    )
    params = dict(zip(guide.initial, found.averaged, strict=True))
    found = explained(found, lambda: _bad_site(target, guide, params))
    noise = torch.from_numpy(generator(drawing).standard_normal((guide.width, settings.num_samples)))
    if guide.name == "delta":
        point = values_of(target, params["loc"][None], discrete)
        made: dict[str, Any] = {"draws": point, "figures": {}}
        return result_of(made, found, {"guide/loc": params["loc"]})
    with torch.no_grad():
        points, log_q = guide.drawn(params, noise)
    u = points.mT.contiguous()
    log_weights = target.log_density(u) - log_q
    made = weighted(target, values_of(target, u, discrete), log_weights, lenient=found.ending.bad_step is not None)
    return result_of(made, found, {f"guide/{k}": v for k, v in params.items()})


def _objective(settings: SVI, guide: Guide, target: Target) -> Objective:
    with_jacobian = guide.name != "delta"  # a mode is one of the density that the program writes
    evaluate, reason = target.columns(jacobian=with_jacobian)
    names, sticking = tuple(guide.initial), settings.gradient == "sticking"
    particles = settings.num_particles or PARTICLES

    def looped(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        read = target.value_and_grad if with_jacobian else target.joint_and_grad
        value, gradient = read(u.mT.contiguous())
        return value, gradient.mT

    def gradient(params: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors, torch.Tensor]:
        own = dict(zip(names, params, strict=True))
        bound, found = bound_and_gradient(guide, evaluate or looped, own, inputs[0], settings.order, sticking)
        return bound, tuple(found[name] for name in names), torch.zeros(0, dtype=bound.dtype)

    def inputs(seed: np.random.SeedSequence, first: int, count: int) -> Iterator[Tensors]:
        yield (torch.from_numpy(generator(seed).standard_normal((count, guide.width, particles))),)

    return Objective(names, tuple(guide.initial.values()), gradient, inputs, reason)


def _bad_site(target: Target, guide: Guide, params: Mapping[str, torch.Tensor]) -> str:
    """The first site without a finite density or gradient among draws of the guide."""
    noise = torch.from_numpy(generator(0).standard_normal((guide.width, 1000)))
    u = guide.draw(params, noise).mT.contiguous()
    value, gradient = target.value_and_grad(u)
    bad = ~(torch.isfinite(value) & torch.isfinite(gradient).all(-1))
    return target.explain_no_start(u[bad][0] if bad.any() else u[0])
