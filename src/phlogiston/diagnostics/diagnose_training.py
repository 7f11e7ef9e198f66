"""Which checks a trained program gets, and what they are given."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.checks.gan import check_distance, check_game
from phlogiston.diagnostics.checks.generators import (
    check_coverage,
    check_precision,
    check_reconstruction,
    check_usage,
)
from phlogiston.diagnostics.checks.variational import check_ending, check_rest
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import PhlogistonWarning, UnsupportedModel
from phlogiston.posterior.verdict import Check, Diagnosis, Finding, failed, skipped
from phlogiston.training.adversarial.loop import Alarm
from phlogiston.training.fitted import Fitted

Array = NDArray[Any]
_PREDICTIONS = 16  # of each datum


def judge_training(fitted: Fitted) -> Diagnosis:
    """Whether training ended well, the latents are used, and the samples reach all of the data."""
    if "draws" in fitted.state:  # the output of a game is no observation of the trained program
        return Diagnosis(tuple(_of_game(fitted)))
    checks = [_ending(fitted), _finite(fitted)]
    if checks[-1].state == "do not use":  # the program cannot even run
        return Diagnosis(tuple(checks))
    if fitted.guide is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PhlogistonWarning)  # the finding says it
                usage = fitted.usage()
            checks.append(check_usage(np.asarray(usage.active), np.asarray(usage.kl)))
            checks += _reconstructions(fitted)
        except UnsupportedModel as error:
            checks.append(skipped("use of the latents", str(error).partition(";")[0]))
        return Diagnosis(tuple(checks))
    observed = {n: v for n, v in fitted.model.structure.observations.items() if v.ndim and v.numel()}
    drawn = fitted.simulate(1, seed=fitted.seed) if observed else {}
    rng = generator(spawn(fitted.seed or 0, 9)[8])
    for name, data in observed.items():
        if name in drawn and drawn[name][0].shape == data.shape:
            both = data.double().numpy(), drawn[name][0].double().numpy()
            checks += [check_coverage(*both, rng), check_precision(*both, rng)]
    return Diagnosis(tuple(checks))


def _reconstructions(fitted: Fitted) -> Iterator[Check]:
    """One check for each observed site of numbers on a continuum."""
    sites = fitted.model.structure
    held = sites.observations.items()
    names = [name for name, v in held if not sites[name].discrete and v.ndim and v.is_floating_point()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)
        encoded = fitted.posterior(num_samples=_PREDICTIONS, seed=fitted.seed) if names else None
        predicted = encoded.predict(sites=tuple(names), seed=fitted.seed) if encoded is not None else {}
    for name in names:
        data = sites.observations[name].double().numpy()
        draws = predicted[name][0].double().numpy()
        if draws.shape[1:] == data.shape and np.isfinite(data).all():
            yield check_reconstruction(name, data, draws)


def _of_game(fitted: Fitted) -> Iterator[Check]:
    yield _finite(fitted)
    yield check_game([Alarm(**alarm) for alarm in fitted.state["alarms"]])
    distances = np.asarray(fitted.history.get("check_distance", ()), dtype=float)
    yield check_distance(distances, float(fitted.figures.get("distance", np.nan)))
    data, draws = (fitted.state[name].double().numpy() for name in ("data", "draws"))
    rng = generator(spawn(fitted.seed or 0, 9)[8])
    yield check_coverage(data, draws, rng)
    yield check_precision(data, draws, rng)


def _ending(fitted: Fitted) -> Check:
    """A rule for stopping that was met, or all steps done, and the curve at rest by then."""
    wanted = fitted.settings.get("num_steps")
    done = fitted.figures.get("steps", float("inf"))
    if fitted.converged or fitted.interrupted or (isinstance(wanted, int) and done < wanted):
        return check_ending(fitted.converged, fitted.stop_reason)
    curve = np.asarray(fitted.history.get("elbo", ()), dtype=float)
    return check_rest(curve, fitted.stop_reason)


def _finite(fitted: Fitted) -> Check:
    """Whether a curve or a parameter has left the finite numbers."""
    name = "finite training"
    curves = [curve for curve, values in fitted.history.items() if not np.isfinite(values).all()]
    params = [param for param, value in fitted.model.parameters.items() if not bool(torch.isfinite(value).all())]
    if not curves and not params:
        return Check(name, "every curve and parameter")
    finding = Finding(
        f"{'parameter' if params else 'curve'} {(params or curves)[0]!r} is not finite",
        "lower the learning rate, clip gradients, or look at model.check()",
        meaning="Training met a loss or gradient that is not a number.",
        severity="do not use" if params else "caution",
    )
    return failed(name, finding)
