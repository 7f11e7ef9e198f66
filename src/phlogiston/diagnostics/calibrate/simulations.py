"""What is simulated: latents from the prior or a posterior, data given them, and the model that is to recover them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from phlogiston.engine.densities.per_dataset import AGAIN, observed_twice
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import SettingError, UnsupportedModel, problem
from phlogiston.model.model import Model
from phlogiston.posterior.compatibility import mismatch
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.thinning import effective_size_of, rows_of

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
    _require_posterior_of(model, around)
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
    """So many nearly independent draws, in proportion to their weights.

    Raises:
        SettingError: there are not so many.
    """
    rng, size = generator(seed), effective_size_of(posterior)
    if size < count:
        found = f"draws that are worth {size:.0f} independent ones"
        fix = f"a posterior with more draws, or num_simulations={max(20, int(size))}"
        raise SettingError(problem("around", found=found, expected=f"num_simulations={count} or more", fix=fix))
    rows = rows_of(posterior, count, rng, weighted=True)[torch.from_numpy(rng.permutation(count))]
    return {name: value[rows] for name, value in posterior.samples().items()}


def _require_posterior_of(model: Model, posterior: Posterior) -> None:
    """Refuse a posterior of other latents, other data, or another program.

    Raises:
        SettingError: says what differs.
    """
    if found := mismatch(model, posterior, "around"):
        expected = f"a posterior of {model.name!r} given what the model observes"
        raise SettingError(problem("around", found=found, expected=expected, fix="around=ph.infer(model, method)"))


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
            else ("a density that is scaled, which no simulation follows", "no poutine.scale and no subsample", "")
            if site.scaled
            else None
        )
        if reason is not None:
            found, expected, fix = reason
            fix = f'pyro.sample("{site.name}", {fix})' if improper else fix
            raise UnsupportedModel(problem(f"calibrate, site {site.name!r}", found=found, expected=expected, fix=fix))
