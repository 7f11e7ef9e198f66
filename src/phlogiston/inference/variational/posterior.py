"""The posterior of any guide on the terms of the ELBO; the parameters of the program stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from phlogiston.engine.learning.elbo_terms import Learning
from phlogiston.engine.program.isolate import spawn
from phlogiston.inference.method import Result
from phlogiston.inference.particles.weighted import weighted
from phlogiston.inference.variational.learned import learn
from phlogiston.inference.variational.results import result_of
from phlogiston.model.model import Model
from phlogiston.training.elbo import guide_draws

if TYPE_CHECKING:
    from phlogiston.inference.methods.svi import SVI


def fit_learned(settings: SVI, model: Model, seed: int | None, progress: bool) -> Result:
    """Fit any guide by the terms of the ELBO, minibatch by minibatch; the program's parameters stay as they are."""
    dtype = torch.float32 if settings.dtype == "float32" else torch.float64
    fitting, drawing, discrete = spawn(seed, 3)
    learned = learn(settings, model, int(fitting.generate_state(1)[0]), progress=progress, dtype=dtype, hold=True)
    whole = Learning(model, model.structure, learned.guide, plate=learned.plate, dtype=dtype, analytic=False, hold=True)
    rows = 0 if learned.plate is None else learned.plate.size
    values, log_weights = guide_draws(whole, learned.unconstrained, learned.rest, settings.num_samples, rows, drawing)
    target = model.target()
    values = {name: value.to(target.dtype) if value.is_floating_point() else value for name, value in values.items()}
    if whole.summed:
        values = target.recover_discretes({s.name: values[s.name] for s in target.structure.continuous}, discrete)
    else:
        values = {**values, **target.deterministics(values)}
    made = weighted(target, values, log_weights.double(), lenient=learned.found.ending.bad_step is not None)
    kept = {f"guide/{name}": value for name, value in {**learned.unconstrained, **learned.params}.items()}
    return result_of(made, learned.found, kept)
