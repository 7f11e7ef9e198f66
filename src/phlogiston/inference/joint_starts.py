"""Where chains begin that move discrete latents too: a point for the continuous ones, a prior draw for the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.engine.densities.joint import FullDensity, entries
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import spawn
from phlogiston.errors import ModelError, SettingError, did_you_mean, problem
from phlogiston.inference.starts import Propose, given, named

_TRIES = 100


def joint_points(target: Target, full: FullDensity, start: Any, seed: np.random.SeedSequence, count: int) -> np.ndarray:
    """Points ``w [count, W]`` with a finite density.

    Args:
        target: the model's densities.
        full: the density of all latents.
        start: the name of a way to start, or values by site; discrete latents that it lacks are drawn from the prior
            given the others.
        seed: of the points.
        count: how many.

    Raises:
        ModelError: no point with a finite density was found; names the site.
    """
    fixed = dict(start) if isinstance(start, Mapping) else {}
    discrete = {site.name: fixed.pop(site.name) for site in target.structure.discrete if site.name in fixed}
    if isinstance(start, Mapping) and fixed and not target.dim:
        raise SettingError(f"initial: found site {next(iter(fixed))!r}; {did_you_mean(next(iter(fixed)), full.states)}")
    propose = given(target, fixed, count) if isinstance(start, Mapping) else named(target, start)
    found = np.empty((0, full.width))
    last = found
    for attempt in spawn(seed, _TRIES):
        last = _drawn(target, full, propose, discrete, attempt, count)
        finite = np.isfinite(full.terms(last).sum(1))
        found = np.concatenate([found, last[finite]])
        if len(found) >= count:
            return found[:count]
        last = last[~finite]
    raise ModelError(_explained(full, last[:1]))


def _drawn(
    target: Target,
    full: FullDensity,
    propose: Propose,
    fixed: Mapping[str, Any],
    seed: np.random.SeedSequence,
    count: int,
) -> np.ndarray:
    continuous, completing = spawn(seed, 2)
    u, values = torch.zeros(count, 0), {}
    if target.dim:
        u = propose(continuous, count).to(target.dtype)
        constrained = target.constrain(u)
        values = {site.name: constrained[site.name] for site in target.structure.continuous}
    if not target.structure.discrete:
        return u.numpy()
    sites = {site.name: site for site in target.structure.discrete}
    chosen = {}
    for name, value in fixed.items():
        tensor, shape = torch.as_tensor(value), sites[name].shape
        if tuple(tensor.shape) not in (shape, (count, *shape)):
            expected = f"{shape} or {(count, *shape)}"
            raise SettingError(
                problem(f"initial, site {name!r}", found=f"shape {tuple(tensor.shape)}", expected=expected)
            )
        chosen[name] = tensor.expand(count, *shape).to(sites[name].dtype)
    if len(chosen) < len(sites):
        chosen = {**target.complete({**values, **chosen}, count, completing), **chosen}
    flat = [entries(site, chosen[name]).reshape(count, -1).to(target.dtype) for name, site in sites.items()]
    return torch.cat([u.to(target.dtype), *flat], 1).numpy()


def _explained(full: FullDensity, w: np.ndarray) -> str:
    terms = full.terms(w)[0]
    first = int(np.flatnonzero(~np.isfinite(terms))[0])
    values = full.values(torch.from_numpy(w))
    name = full.names[first].site
    shown = str({site: value[0].tolist() for site, value in values.items()})[:200]
    return problem(
        f"starting point, site {name!r}",
        found=f"a log probability of {terms[first]} with {shown}",
        expected="a finite log density",
        fix=f'initial={{"{full.parts[0].site.name}": ...}} within the supports of all sites',
    )
