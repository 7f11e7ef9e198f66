"""One peer on one target, measured in a process of its own."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcmc_peers import targets
from mcmc_peers.peers import PEERS
from mcmc_peers.run import Run
from mcmc_peers.targets import Array, Moments

COLD_SEED, WARM_SEED = 1, 2


@dataclass(kw_only=True)
class Result:
    """What one process found.

    Args:
        import_s: importing the peer.
        cold_s: from the model's definition to draws in hand, compilation included.
        warm_s: the same again in the process, another seed, warm-up included; None where time did not allow it,
            and then what follows is of the cold run.
        ess: the smallest bulk ESS of all scalars.
        ess_per_s: per second of the warm run.
        rhat: the largest.
        gradients: behind the kept draws, all chains; None where the peer does not tell.
        divergences: of the kept draws.
        z: the largest distance of a mean from the reference, in standard errors of both; None without a reference.
        mean, sd, error: of every scalar; the error is that of the mean.
        cold_empty_s: the cold run before anything was in the peer's cache on disk.
        note: of the peer, or what went wrong.
        failed: whether there are no draws.
    """

    import_s: float | None = None
    cold_s: float | None = None
    cold_empty_s: float | None = None
    warm_s: float | None = None
    ess: float | None = None
    ess_per_s: float | None = None
    rhat: float | None = None
    gradients: int | None = None
    divergences: int | None = None
    z: float | None = None
    mean: dict[str, float] = field(default_factory=dict)
    sd: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    note: str = ""
    failed: bool = False


def measure(target: str, peer: str, limit: float, *, once: bool = False) -> Result:
    """Import, cold run, warm run, and how good the draws are.

    Args:
        target: its name.
        peer: its name.
        limit: seconds that the process may take; a cold run that took half of it is not repeated.
        once: only the cold run, for its time.
    """
    data = targets.data_of(target)
    began = time.perf_counter()
    module: Any = importlib.import_module(f"mcmc_peers.{PEERS[peer].module}")
    import_s = time.perf_counter() - began
    began = time.perf_counter()
    sampler = module.prepare(target, PEERS[peer].setting, data)
    run: Run = sampler(COLD_SEED)
    cold_s = time.perf_counter() - began
    if once:
        return Result(import_s=import_s, cold_s=cold_s, note=run.note)
    seconds, warm_s = cold_s, None
    if cold_s < 0.5 * (limit - import_s):
        began = time.perf_counter()
        run = sampler(WARM_SEED)
        seconds = warm_s = run.seconds or time.perf_counter() - began
    return _judged(target, run, seconds, Result(import_s=import_s, cold_s=cold_s, warm_s=warm_s, note=run.note))


def _judged(target: str, run: Run, seconds: float, result: Result) -> Result:
    """The result with what the draws say. A single chain is judged as two halves."""
    from phlogiston.stats import arviz  # here, so that its time is nobody's

    scalars = {name: _two_chains(value) for name, value in targets.scalars(target, run.draws).items()}
    names, values = list(scalars), np.stack(list(scalars.values()), -1)
    ess, of_mean = arviz.ess(values), arviz.ess(values, method="mean")
    sd = values.std((0, 1))
    error = sd / np.sqrt(of_mean)
    result.ess = float(ess.min())
    result.ess_per_s = result.ess / seconds
    result.rhat = float(arviz.rhat(values).max())
    result.gradients, result.divergences = run.gradients, run.divergences
    result.mean = dict(zip(names, values.mean((0, 1)).tolist(), strict=True))
    result.sd = dict(zip(names, sd.tolist(), strict=True))
    result.error = dict(zip(names, error.tolist(), strict=True))
    result.z = distance(result, _reference(target))
    return result


def _two_chains(value: Array) -> Array:
    half = value.shape[1] // 2
    return value if value.shape[0] > 1 else np.concatenate([value[:, :half], value[:, -half:]])


def _reference(target: str) -> Moments:
    """Reference means with their standard errors."""
    from phlogiston.stats import arviz

    draws = targets.reference_draws(target)
    if draws is None:
        return targets.EXACT.get(target, {})
    values = np.stack(list(draws.values()), -1)
    error = values.std((0, 1)) / np.sqrt(arviz.ess(values, method="mean"))
    return dict(zip(draws, zip(values.mean((0, 1)).tolist(), error.tolist(), strict=True), strict=True))


def distance(result: Result, reference: Moments) -> float | None:
    """The largest distance of a mean from its reference, in standard errors of both."""
    apart = [
        abs(result.mean[name] - mean) / np.hypot(result.error[name], error) for name, (mean, error) in reference.items()
    ]
    return float(max(apart)) if apart else None
