"""Any guide and a program, learned together from the terms of the ELBO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from phlogiston.engine.learning.elbo_terms import Learning
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.program.plates import data_plate
from phlogiston.engine.program.sites import Plate
from phlogiston.errors import (
    ModelError,
    UnsupportedModel,
    problem,
)
from phlogiston.inference.variational.results import explained, schedule_of
from phlogiston.model.model import Model
from phlogiston.training.batches import Batches
from phlogiston.training.elbo import Weighting, learned_objective
from phlogiston.training.guides import FlatFamily, Guide, GuideStart, guide_for, is_flat
from phlogiston.training.maximise import Objective, OptimState, maximise

if TYPE_CHECKING:
    from phlogiston.inference.methods.svi import SVI

PARTICLES = 8  # per step of a guide by name: on the flat density they cost next to nothing
Values = dict[str, torch.Tensor]


@runtime_checkable
class GuideFamily(Protocol):
    """Settings that build a guide for a model."""

    def build(self, model: Model, *, seed: int = 0) -> Callable[..., Any]:
        """A Pyro guide for the model."""


@dataclass(frozen=True)
class Learned:
    """A program and a guide, and what was learned of both."""

    learning: Learning
    guide: Callable[..., Any] | None
    rest: Guide | None
    plate: Plate | None
    found: OptimState
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


def learn(
    settings: SVI,
    model: Model,
    seed: int | None,
    *,
    progress: bool,
    dtype: torch.dtype,
    hold: bool,
    start: OptimState | None = None,
    after_window: Callable[[Learned], None] | None = None,
) -> Learned:
    """Learn the parameters of a guide, and of the program unless they are held, by climbing the bound."""
    starting, optimising, ordering = spawn(seed, 3)
    guide, rest_name = _guide_program(settings, model, int(starting.generate_state(1)[0]))
    plate = _row_plate(settings, model, settings.guide)
    learning = Learning(
        model, model.structure, guide, plate=plate, dtype=dtype, analytic=settings.bound == "elbo", hold=hold
    )
    rest = _guide_of_rest(settings, rest_name, learning, starting, dtype)
    if not learning.initial and rest is None:
        raise ModelError(
            problem(
                "guide", found="no parameter and no latent", expected="pyro.param, pyro.module, or a latent to guide"
            )
        )
    batches = None if plate is None else Batches(plate.size, settings.batch_size or plate.size, ordering, key=(0,))
    particles = settings.num_particles or (PARTICLES if guide is None else 2 if learning.score_sites else 1)
    weighting = Weighting(
        alpha=settings.order, particles=particles, warmup=settings.kl_warmup, free_bits=settings.free_bits
    )
    objective = learned_objective(learning, batches, weighting, rest, optimising)

    def at(found: OptimState) -> Learned:
        return Learned(learning, guide, rest, plate, found, objective.names)

    found = maximise(
        objective,
        settings.optim,
        schedule_of(settings),
        optimising,
        tier=settings.engine,
        progress=progress,
        start=start,
        after_window=None if after_window is None else lambda found: after_window(at(found)),
    )
    found = explained(found, lambda: _term_without_number(objective, found, optimising))
    return at(found)


def _guide_program(settings: SVI, model: Model, seed: int) -> tuple[Callable[..., Any] | None, str | FlatFamily]:
    """The guide as a program, and the name or family of the guide for latents that it lacks."""
    if isinstance(settings.guide, (str, FlatFamily)):
        return None, settings.guide
    if isinstance(settings.guide, GuideFamily):
        rest = getattr(settings.guide, "rest", "normal")
        return settings.guide.build(model, seed=seed), rest
    return settings.guide, "normal"


def _row_plate(settings: SVI, model: Model, guide: Any) -> Plate | None:
    sites = model.structure.observable
    known = {plate.name for site in sites for plate in site.plates}
    by_row = settings.bound != "elbo" or settings.free_bits > 0.0  # row by row only where that makes a difference
    if settings.batch_size is None and settings.plate is None and not (by_row and known and not is_flat(guide)):
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


def _guide_of_rest(
    settings: SVI, family: str | FlatFamily, learning: Learning, seed: np.random.SeedSequence, dtype: torch.dtype
) -> Guide | None:
    if not learning.width:
        return None
    near = generator(seed).standard_normal(learning.width)
    loc = torch.from_numpy(0.3 * near).to(dtype)
    return guide_for(family, GuideStart(loc, learning.slots, settings.rank))


def _term_without_number(objective: Objective, found: OptimState, seed: np.random.SeedSequence) -> str:
    """The first term of the bound that is no number, at the step that met it."""
    inputs = next(objective.inputs(seed, int(found.ending.bad_step or 0), 1))
    params = found.tensors[: len(objective.initial)]
    with torch.no_grad():
        terms, _ = objective.gradient.terms(params, tuple(value[0] for value in inputs))  # type: ignore[attr-defined]
    for name, value in terms.items():
        if not torch.isfinite(value).all():
            return f"The first is site {name.partition('/')[2]!r}, with {value[~torch.isfinite(value)][0].item()}."
    return "Every site's term is a number there: it is their gradient."
