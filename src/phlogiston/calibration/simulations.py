"""What is simulated: latents from the prior or a posterior, data given them, and the model that is to recover them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from phlogiston.diagnostics import systematic_resample
from phlogiston.engine.isolate import generator, spawn
from phlogiston.engine.replicated import AGAIN, observed_twice
from phlogiston.errors import SettingError, UnsupportedModel, problem
from phlogiston.model import Model
from phlogiston.posterior import Posterior

Values = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Simulations:
    """``model.observe(**{site: data[site][i]})`` is to recover ``truths[...][i]``; both are ``[S, *site shape]``."""

    model: Model
    truths: Values
    data: Values
    source: Literal["prior", "posterior"]

    def part(self, start: int, stop: int) -> Simulations:
        """Some of them."""
        cut = [{name: value[start:stop] for name, value in values.items()} for values in (self.truths, self.data)]
        return replace(self, truths=cut[0], data=cut[1])


def simulate(model: Model, count: int, seed: np.random.SeedSequence, around: Posterior | None) -> Simulations:
    """Draw truths and data.

    Raises:
        UnsupportedModel: nothing is observed, or something that cannot be simulated bears on the posterior.
    """
    _refuse(model, around)
    observed = tuple(site.name for site in model.structure.observable)
    kept = [site.name for site in model.structure.of("latent", "deterministic")]
    if around is None:
        drawn = model.simulate(count, seed=int(seed.generate_state(1)[0]))
        return Simulations(model, {n: drawn[n] for n in kept}, {n: drawn[n] for n in observed}, "prior")
    picking, simulating = spawn(seed, 2)
    truths = _picked(around, count, picking)
    latents = {site.name: truths[site.name] for site in model.structure.of("latent")}
    again = model.target().simulate(latents, count, simulating)
    twice = model.with_program(observed_twice(model.program, frozenset(observed)))
    data = {name + AGAIN: again[name] for name in observed}
    first = {name: values[0] for name, values in data.items()}
    twice = twice.observe(missing="refuse", **model.structure.observations, **first).with_parameters(model.parameters)
    return Simulations(twice, {n: truths[n] for n in kept}, data, "posterior")


def _picked(posterior: Posterior, count: int, seed: np.random.SeedSequence) -> Values:
    """So many draws, spread over the posterior's, in proportion to their weights."""
    flat, rng = posterior.samples(), generator(seed)
    total = posterior.num_chains * posterior.num_draws
    if posterior.log_weights is not None:
        rows = rng.permutation(systematic_resample(posterior.log_weights.reshape(-1).numpy(), count, rng))
    elif total < count:
        raise SettingError(problem("around", found=f"{total} draws", expected=f"num_simulations={count} or more"))
    else:
        rows = rng.permutation(total)[:count]
    return {name: value[torch.from_numpy(np.ascontiguousarray(rows))] for name, value in flat.items()}


def _refuse(model: Model, around: Posterior | None) -> None:
    structure = model.structure
    where = f"calibrate, program {model.name!r}"
    if not structure.observable:
        raise UnsupportedModel(
            problem(where, found="nothing observed", expected="sites to simulate data of", fix=".observe(site=...)")
        )
    if not structure.of("latent"):
        raise UnsupportedModel(problem(where, found="no latent site", expected="something to recover"))
    for site in structure.sites:
        improper = site.improper and around is None
        reason = (
            ("an improper flat prior, from which nothing can be simulated", "a proper prior", "dist.Normal(0.0, 10.0)")
            if improper
            else ("missing entries", "complete data to simulate", ".observe(site=...) without NaN")
            if site.missing is not None
            else ("a factor, which no simulation follows", "pyro.sample statements only", "")
            if site.role == "factor"
            else None
        )
        if reason is not None:
            found, expected, fix = reason
            fix = f'pyro.sample("{site.name}", {fix})' if improper else fix
            raise UnsupportedModel(problem(f"calibrate, site {site.name!r}", found=found, expected=expected, fix=fix))
