"""What SVI does with its settings: a guide by name on the flat density, or any guide on the terms of the ELBO."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from phlogiston.engine.densities.target import Target
from phlogiston.engine.learning.elbo_terms import Learning
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.plates import data_plate
from phlogiston.engine.program.sites import Plate
from phlogiston.errors import (
    ConvergenceWarning,
    DataFileError,
    ModelError,
    UnsupportedModel,
    problem,
    warn,
)
from phlogiston.inference.improper import refuse_improper
from phlogiston.inference.method import require
from phlogiston.inference.particles.weighted import values_of, weighted
from phlogiston.inference.starts import first_point
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.training.bounds import bound_and_gradient
from phlogiston.training.elbo import Batches, Weighting, guide_draws, learned_objective
from phlogiston.training.fitted import Fitted
from phlogiston.training.guides import Guide
from phlogiston.training.loop import Climb, Objective, Schedule, climb
from phlogiston.training.named_guides import named_guide

if TYPE_CHECKING:
    from phlogiston.inference.methods.svi import SVI

_PARTICLES = 8  # a step of a guide by name: on the flat density they cost next to nothing
Tensors = tuple[torch.Tensor, ...]
Values = dict[str, torch.Tensor]


@runtime_checkable
class GuideFamily(Protocol):
    """Settings that build a guide for a model."""

    def build(self, model: Model, *, seed: int = 0) -> Callable[..., Any]:
        """A Pyro guide for the model."""


def flat_posterior(settings: SVI, model: Model, seed: int | None, progress: bool) -> Posterior:
    """Fit a guide by name to the density on the unconstrained scale."""
    began = time.perf_counter()
    model = require(settings, model)
    target = model.target(settings.engine)
    starting, climbing, drawing, discrete = spawn(seed, 4)
    refuse_improper(model, target, starting)
    first = first_point(target, settings.initial, starting)
    guide = named_guide(str(settings.guide), target.slots, first, settings.rank)
    found = climb(
        _flat_objective(settings, guide, target),
        settings.optim,
        _schedule(settings),
        climbing,
        tier=settings.engine,
        progress=progress,
    )
    params = dict(zip(guide.initial, found.averaged, strict=True))
    found = _explained(found, lambda: _where(target, guide, params))
    noise = torch.from_numpy(generator(drawing).standard_normal((guide.width, settings.num_samples)))
    if guide.name == "delta":
        point = values_of(target, params["loc"][None], discrete)
        made: dict[str, Any] = {"draws": {name: value.unsqueeze(0) for name, value in point.items()}, "figures": {}}
        return _posterior(made, model, found, {"guide/loc": params["loc"]}, seed, began)
    with torch.no_grad():
        points, log_q = guide.drawn(params, noise)
    u = points.mT.contiguous()
    log_weights = target.log_density(u) - log_q
    made = weighted(target, values_of(target, u, discrete), log_weights, lenient=found.bad_step is not None)
    return _posterior(made, model, found, {f"guide/{k}": v for k, v in params.items()}, seed, began)


def _flat_objective(settings: SVI, guide: Guide, target: Target) -> Objective:
    with_jacobian = guide.name != "delta"  # a mode is one of the density that the program writes
    evaluate, reason = target.columns(jacobian=with_jacobian)
    names, sticking = tuple(guide.initial), settings.gradient == "sticking"
    particles = settings.num_particles or _PARTICLES

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


def _where(target: Target, guide: Guide, params: Mapping[str, torch.Tensor]) -> str:
    """The first site without a finite density or gradient among draws of the guide."""
    noise = torch.from_numpy(generator(0).standard_normal((guide.width, 1000)))
    u = guide.draw(params, noise).mT.contiguous()
    value, gradient = target.value_and_grad(u)
    bad = ~(torch.isfinite(value) & torch.isfinite(gradient).all(-1))
    return target.explain_no_start(u[bad][0] if bad.any() else u[0])


@dataclass(frozen=True)
class Learned:
    """A program and a guide, and what was learned of both."""

    learning: Learning
    guide: Callable[..., Any] | None
    rest: Guide | None
    plate: Plate | None
    found: Climb
    names: tuple[str, ...]

    @property
    def unconstrained(self) -> Values:
        """The learned parameters by name, those of the rest's guide too."""
        return dict(zip(self.names, self.found.averaged, strict=True))

    @property
    def params(self) -> Values:
        """Those of program and guide as ``pyro.param`` gives them."""
        own = self.unconstrained
        return self.learning.constrained({name: own[name] for name in self.learning.initial})


def _learn(
    settings: SVI,
    model: Model,
    seed: int | None,
    *,
    progress: bool,
    dtype: torch.dtype,
    hold: bool,
    start: Climb | None = None,
    after_window: Callable[[Learned], None] | None = None,
) -> Learned:
    starting, climbing, ordering = spawn(seed, 3)
    guide, rest_name = _guide(settings, model, int(starting.generate_state(1)[0]))
    plate = _plate(settings, model, settings.guide)
    learning = Learning(
        model, model.structure, guide, plate=plate, dtype=dtype, analytic=settings.bound == "elbo", hold=hold
    )
    rest = _rest(settings, rest_name, learning, starting, dtype)
    if not learning.initial and rest is None:
        raise ModelError(
            problem(
                "guide", found="no parameter and no latent", expected="pyro.param, pyro.module, or a latent to guide"
            )
        )
    batches = None if plate is None else Batches(plate.size, settings.batch_size or plate.size, ordering)
    particles = settings.num_particles or (_PARTICLES if guide is None else 2 if learning.score_sites else 1)
    weighting = Weighting(
        alpha=settings.order, particles=particles, warmup=settings.kl_warmup, free_bits=settings.free_bits
    )
    objective = learned_objective(learning, batches, weighting, rest, climbing)

    def at(found: Climb) -> Learned:
        return Learned(learning, guide, rest, plate, found, objective.names)

    found = climb(
        objective,
        settings.optim,
        _schedule(settings),
        climbing,
        tier=settings.engine,
        progress=progress,
        start=start,
        after_window=None if after_window is None else lambda found: after_window(at(found)),
    )
    found = _explained(found, lambda: _term_without_number(objective, found, climbing))
    return at(found)


def _guide(settings: SVI, model: Model, seed: int) -> tuple[Callable[..., Any] | None, str]:
    """The guide as a program, and the name of the guide for latents that it lacks."""
    if isinstance(settings.guide, str):
        return None, settings.guide
    if isinstance(settings.guide, GuideFamily):
        rest = getattr(settings.guide, "rest", "normal")
        return settings.guide.build(model, seed=seed), rest
    return settings.guide, "normal"


def _plate(settings: SVI, model: Model, guide: Any) -> Plate | None:
    sites = model.structure.observable
    known = {plate.name for site in sites for plate in site.plates}
    by_row = settings.bound != "elbo" or settings.free_bits > 0.0  # row by row only where that makes a difference
    if settings.batch_size is None and settings.plate is None and not (by_row and known and not isinstance(guide, str)):
        return None
    if settings.plate is not None and settings.plate not in known:
        raise ModelError(
            problem("plate", found=repr(settings.plate), expected=" or ".join(sorted(known)) or "a pyro.plate")
        )
    plate = data_plate(sites, settings.plate)
    if plate is None:
        raise UnsupportedModel(
            problem(
                "batch_size",
                found="observations outside of any plate",
                expected="rows to take batches of",
                fix='with pyro.plate("data", len(x)):',
            )
        )
    if (settings.batch_size or 1) > plate.size:
        raise ModelError(
            problem(
                "batch_size",
                found=f"{settings.batch_size}",
                expected=f"at most the {plate.size} rows of plate {plate.name!r}",
            )
        )
    return plate


def _rest(
    settings: SVI, name: str, learning: Learning, seed: np.random.SeedSequence, dtype: torch.dtype
) -> Guide | None:
    if not learning.width:
        return None
    near = generator(seed).standard_normal(learning.width)
    loc = torch.from_numpy(0.3 * near).to(dtype)
    return named_guide(name, learning.slots, loc, settings.rank)


def learned_posterior(settings: SVI, model: Model, seed: int | None, progress: bool) -> Posterior:
    """Fit any guide by the terms of the ELBO, minibatch by minibatch; the program's parameters stay as they are."""
    began = time.perf_counter()
    model = require(settings, model)
    dtype = torch.float32 if settings.dtype == "float32" else torch.float64
    fitting, drawing, discrete = spawn(seed, 3)
    learned = _learn(settings, model, int(fitting.generate_state(1)[0]), progress=progress, dtype=dtype, hold=True)
    whole = Learning(model, model.structure, learned.guide, plate=learned.plate, dtype=dtype, analytic=False, hold=True)
    rows = 0 if learned.plate is None else learned.plate.size
    values, log_weights = guide_draws(whole, learned.unconstrained, learned.rest, settings.num_samples, rows, drawing)
    target = model.target()
    values = {name: value.to(target.dtype) if value.is_floating_point() else value for name, value in values.items()}
    if whole.summed:
        values = target.recover_discretes({s.name: values[s.name] for s in target.structure.continuous}, discrete)
    else:
        values = {**values, **target.deterministics(values)}
    made = weighted(target, values, log_weights.double(), lenient=learned.found.bad_step is not None)
    kept = {f"guide/{name}": value for name, value in {**learned.unconstrained, **learned.params}.items()}
    return _posterior(made, model, learned.found, kept, seed, began)


def fitted(
    settings: SVI,
    model: Model,
    *,
    seed: int,
    progress: bool,
    resume_from: Fitted | None,
    checkpoint: Path | None,
) -> Fitted:
    """Learn the program's parameters together with the guide."""
    began = time.perf_counter()
    model = model.validated()
    seed = seed if resume_from is None or resume_from.seed is None else resume_from.seed
    before = 0.0 if resume_from is None else resume_from.seconds

    def result(learned: Learned) -> Fitted:
        found, params = learned.found, learned.params
        own = {name: params[name] for name in learned.learning.of_program}
        return Fitted(
            model=model.with_parameters(own),
            method="svi",
            guide=_with_weights(learned, model),
            history=_history(found),
            converged=found.converged,
            stop_reason=found.stop_reason or f"at step {found.steps}",
            figures={"elbo": float(found.bounds[-settings.window :].mean()) if found.steps else float("nan")},
            state=_state_of(found),
            seed=seed,
            seconds=before + time.perf_counter() - began,
            engine=found.engine,
            interrupted=found.interrupted,
        )

    learned = _learn(
        settings,
        model,
        seed,
        progress=progress,
        dtype=torch.float64 if settings.dtype == "float64" else torch.float32,
        hold=False,
        start=None if resume_from is None else _climb_of(resume_from),
        after_window=None if checkpoint is None else lambda learned: _write(result(learned), checkpoint),
    )
    if learned.found.bad_step is not None:
        warn(f"svi: {learned.found.stop_reason}", ConvergenceWarning)
    made = result(learned)
    if checkpoint is not None:
        made.save(checkpoint)
    return made


def _write(made: Fitted, path: Path) -> None:
    made.save(path)


def _with_weights(learned: Learned, model: Model) -> Any:
    """The guide with what it learned: a copy of a module, or a program with its parameters held."""
    if learned.guide is None:
        return None
    own = {name: value for name, value in learned.params.items() if name not in learned.learning.of_program}
    if not isinstance(learned.guide, torch.nn.Module):
        program = model.with_program(learned.guide)
        known = {site.name for site in program.structure.of("parameter")}
        return program.with_parameters({name: value for name, value in learned.params.items() if name in known})
    guide = copy.deepcopy(learned.guide)
    places = {id(value): place for place, value in learned.guide.named_parameters()}
    with torch.no_grad():
        for name, value in own.items():
            path = f"{name.partition('.')[2]}_unconstrained"  # where a PyroModule keeps a parameter of its own
            if name in learned.learning.modules:
                guide.get_parameter(places[id(learned.learning.modules[name])]).copy_(value)
            elif path in places.values():
                guide.get_parameter(path).copy_(learned.unconstrained[name])
    return guide


def _schedule(settings: SVI) -> Schedule:
    return Schedule(
        num_steps=settings.num_steps,
        window=settings.window,
        tolerance=settings.tolerance,
        stop=settings.stop,
        average=settings.stop,
    )


def _history(found: Climb) -> dict[str, np.ndarray]:
    return {
        "step": np.arange(1, found.steps + 1),
        "elbo": found.bounds,
        "learning_rate": found.rates,
        **{name: found.extras[:, i] for i, name in enumerate(found.names) if name != "elbo"},
    }


def _posterior(
    made: dict[str, Any], model: Model, found: Climb, params: Values, seed: int | None, began: float
) -> Posterior:
    made["figures"] |= {"converged": float(found.converged), "steps": float(found.steps)}
    return Posterior(
        **made,
        method="svi",
        model=model,
        seed=seed,
        seconds=time.perf_counter() - began,
        engine=found.engine,
        interrupted=found.interrupted,
        history=_history(found),
        stop_reason=found.stop_reason,
        state={name: value.numpy() for name, value in params.items() if value.numel()},
    )


def _state_of(found: Climb) -> dict[str, Any]:
    return {
        "tensors": list(found.state),
        "averaged": list(found.averaged),
        "bounds": found.bounds,
        "rates": found.rates,
        "extras": found.extras,
        "names": list(found.names),
        "level": found.level,
        "windows": [list(pair) for pair in found.windows],
        "engine": found.engine,
    }


def _climb_of(before: Fitted) -> Climb:
    kept = before.state
    if before.method != "svi" or "tensors" not in kept:
        raise DataFileError(f"resume_from: found {before!r}; expected a training by ph.SVI")
    return Climb(
        tuple(kept["tensors"]),
        np.asarray(kept["bounds"]),
        level=int(kept["level"]),
        windows=tuple((float(a), float(b)) for a, b in kept["windows"]),
        averaged=tuple(kept["averaged"]),
        engine=str(kept["engine"]),
        rates=np.asarray(kept["rates"]),
        extras=np.asarray(kept["extras"]),
        names=tuple(kept["names"]),
    )


def _term_without_number(objective: Objective, found: Climb, seed: np.random.SeedSequence) -> str:
    """The first term of the bound that is no number, at the step that met it."""
    inputs = next(objective.inputs(seed, int(found.bad_step or 0), 1))
    params = found.state[: len(objective.initial)]
    with torch.no_grad():
        terms, _ = objective.gradient.terms(params, tuple(value[0] for value in inputs))  # type: ignore[attr-defined]
    for name, value in terms.items():
        if not torch.isfinite(value).all():
            return f"The first is site {name.partition('/')[2]!r}, with {value[~torch.isfinite(value)][0].item()}."
    return "Every site's term is a number there: it is their gradient."


def _explained(found: Climb, where: Callable[[], str]) -> Climb:
    """The climb with the site in its reason for stopping, where it met a number that is not finite."""
    if found.bad_step is None:
        return found
    return replace(found, stop_reason=f"{found.stop_reason}; the last finite parameters are kept. {where()}")
