"""What every kind of variational fit shares: its schedule, its history, and the posterior that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.inference.method import Result
from phlogiston.training.maximise import OptimState, Schedule

if TYPE_CHECKING:
    from phlogiston.inference.methods.svi import SVI
Values = dict[str, torch.Tensor]


def schedule_of(settings: SVI) -> Schedule:
    """How long to climb, and when to stop."""
    return Schedule(
        num_steps=settings.num_steps,
        window=settings.window,
        tolerance=settings.tolerance,
        stop=settings.stop,
        average=settings.stop,
    )


def history_of(found: OptimState) -> dict[str, np.ndarray]:
    """The curves of the bound, the learning rate and each part of the bound, one number per step."""
    return {
        "step": np.arange(1, found.step + 1),
        "elbo": found.bounds,
        "learning_rate": found.rates,
        **{name: found.extras[:, i] for i, name in enumerate(found.names) if name != "elbo"},
    }


def explained(found: OptimState, where: Callable[[], str]) -> OptimState:
    """The climb with the site in its reason for stopping, where it met a number that is not finite."""
    if found.ending.bad_step is None:
        return found
    reason = f"{found.ending.reason}; the last finite parameters are kept. {where()}"
    return replace(found, ending=replace(found.ending, reason=reason))


def result_of(made: dict[str, Any], found: OptimState, params: Values) -> Result:
    """The draws, with what the fit says of itself."""
    made["figures"] |= {"converged": float(found.ending.converged), "steps": float(found.step)}
    return Result(
        **made,
        engine=found.engine,
        interrupted=found.ending.interrupted,
        history=history_of(found),
        stop_reason=found.ending.reason,
        state={name: value.numpy() for name, value in params.items() if value.numel()},
    )
