"""The elements of a plate: which latents belong to each, which data, and whether elements depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from phlogiston.engine.densities.joint import FullReadings, Part, example_points, parts_of, states_of
from phlogiston.engine.program.coupling import differs
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.readings import Interpreter
from phlogiston.engine.program.sites import Bound, Plate, Site, Structure, mask_of, run


def axis_of(site: Site, plate: Plate) -> int:
    """The dimension, from the left, of a site's value (or of its unconstrained one) that runs along a plate."""
    return len(site.batch_shape) + plate.dim


def in_plate(site: Site, name: str) -> bool:
    """Whether a site is drawn, or observed, once an element of a plate."""
    return any(plate.name == name for plate in site.plates)


def masks(bound: Bound, structure: Structure, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Which elements of observed sites count, ``[*batch shape]``, for those of the sites where some do not."""
    with isolated(seed=0, dtype=torch.float64), torch.no_grad():
        nodes = run(bound, parameters=structure.parameters).nodes
    found: dict[str, torch.Tensor] = {}
    for name in names:
        if structure[name].masked:
            msg = cast(dict[str, Any], nodes[name])
            found[name] = mask_of(msg).expand(structure[name].batch_shape).clone()
    return found


def tied_latents(bound: Bound, structure: Structure, plate: Plate) -> tuple[str, str] | None:
    """A latent of a plate and the site by which several of its elements depend on each other; None if none do.

    Moves the latents of one element, and then those of all others: a term of the joint density that changes both
    times ties them together, so that an element's posterior depends on the others' data.
    """
    interpreter = Interpreter(bound, structure)
    readings = FullReadings(interpreter)
    with isolated(seed=0, dtype=torch.float64), torch.no_grad():
        parts = [part for part in parts_of(interpreter) if in_plate(part.site, plate.name)]
        states = states_of(interpreter) if structure.discrete else {}
        _, w = example_points(interpreter)
        base, names = readings.terms({"w": w})["terms"], readings.names(w)
        row = plate.size // 2
        both = torch.ones_like(base, dtype=torch.bool)
        for inside in (True, False):
            moved = w.clone()
            for part in parts:
                _move(moved, part, plate, row, inside=inside, states=states)
            both &= differs(base, readings.terms({"w": moved})["terms"])
    tied = both.nonzero()
    if not tied.numel():
        return None
    return parts[0].site.name, names[int(tied[0])].site


def _move(
    w: torch.Tensor, part: Part, plate: Plate, row: int, *, inside: bool, states: Mapping[str, np.ndarray]
) -> None:
    """Move a latent's coordinates in one element of a plate, or those in all others."""
    if part.site.missing is not None:
        return
    places = np.moveaxis(np.arange(part.start, part.stop).reshape(part.shape), axis_of(part.site, plate), 0)
    chosen = torch.from_numpy(np.asarray(places[row] if inside else np.delete(places, row, axis=0)).reshape(-1))
    if part.site.name in states:
        known = torch.from_numpy(states[part.site.name]).to(w).reshape(-1)
        now = (w[chosen].unsqueeze(-1) - known).abs().argmin(-1)
        w[chosen] = known[(now + 1) % len(known)]
    else:
        w[chosen] += 0.37
