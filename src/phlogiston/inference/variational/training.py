"""Parameters of a program, learned together with a guide."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.errors import (
    ConvergenceWarning,
    DataFileError,
    warn,
)
from phlogiston.inference.variational.learned import Learned, learn
from phlogiston.inference.variational.results import history_of
from phlogiston.model.model import Model
from phlogiston.training.fitted import Fitted
from phlogiston.training.maximise import OptimState

if TYPE_CHECKING:
    from phlogiston.inference.methods.svi import SVI


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
            guide=_guide_of(learned, model),
            history=history_of(found),
            converged=found.ending.converged,
            stop_reason=found.ending.reason or f"at step {found.step}",
            figures={"elbo": float(found.bounds[-settings.window :].mean()) if found.step else float("nan")},
            state=_state_of(found),
            seed=seed,
            seconds=before + time.perf_counter() - began,
            engine=found.engine,
            interrupted=found.ending.interrupted,
        )

    learned = learn(
        settings,
        model,
        seed,
        progress=progress,
        dtype=torch.float64 if settings.dtype == "float64" else torch.float32,
        hold=False,
        start=None if resume_from is None else _state_from(resume_from),
        after_window=None if checkpoint is None else lambda learned: _save(result(learned), checkpoint),
    )
    if learned.found.ending.bad_step is not None:
        warn(f"svi: {learned.found.ending.reason}", ConvergenceWarning)
    made = result(learned)
    if checkpoint is not None:
        made.save(checkpoint)
    return made


def _save(made: Fitted, path: Path) -> None:
    made.save(path)


def _guide_of(learned: Learned, model: Model) -> Any:
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


def _state_of(found: OptimState) -> dict[str, Any]:
    return {
        "tensors": list(found.tensors),
        "averaged": list(found.averaged),
        "bounds": found.bounds,
        "rates": found.rates,
        "extras": found.extras,
        "names": list(found.names),
        "level": found.level,
        "windows": [list(pair) for pair in found.windows],
        "engine": found.engine,
    }


def _state_from(before: Fitted) -> OptimState:
    kept = before.state
    if before.method != "svi" or "tensors" not in kept:
        raise DataFileError(f"resume_from: found {before!r}; expected a training by ph.SVI")
    return OptimState(
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
