"""Whether the elements of a plate are independent of each other given all that is outside of the plate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from phlogiston.engine.densities.joint import FullReadings, Part, example_points, parts_of, states_of
from phlogiston.engine.program.interpreter import Interpreter
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.plates import axis_of, in_plate
from phlogiston.engine.program.sites import Bound, Plate, Structure

_ELEMENTS = 3  # of a site that are looked at: its first, its middle and its last


def tied_elements(interpreter: Interpreter, dtype: torch.dtype) -> tuple[str, str] | None:
    """A plated discrete latent and the site by which several of its elements depend on each other; None if none do.

    Each element is summed out on its own, in parallel with the others of its plate. A term such as
    ``pyro.factor("f", z.sum())`` ties them together: the sum would be wrong without a word.
    """
    readings = FullReadings(interpreter)
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        plated = [p for p in parts_of(interpreter) if p.site.discrete and p.site.enumerable and len(p.coordinates) > 1]
        states = states_of(interpreter) if plated else {}
        for w in example_points(interpreter) if plated else ():
            base, names = readings.terms({"w": w})["terms"], readings.names(w)
            for part in plated:
                tied = _tied(readings, part, torch.from_numpy(states[part.site.name]).to(w), w, base)
                if tied is not None:
                    return part.site.name, names[tied].site
    return None


def _tied(readings: FullReadings, part: Part, states: torch.Tensor, w: torch.Tensor, base: torch.Tensor) -> int | None:
    """A term that changes with one element and also with the others."""
    coordinates = torch.from_numpy(part.coordinates)
    for row in sorted({0, len(coordinates) // 2, len(coordinates) - 1})[:_ELEMENTS]:
        others = torch.arange(len(coordinates)) != row
        changed = [
            _differs(base, readings.terms({"w": _moved(w, rows, states)})["terms"])
            for rows in (coordinates[[row]], coordinates[others])
        ]
        both = (changed[0] & changed[1]).nonzero()
        if both.numel():
            return int(both[0])
    return None


def _moved(w: torch.Tensor, rows: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """``w`` with the elements at ``rows [E, d]`` in their next state."""
    moved = w.clone()
    now = (w[rows].unsqueeze(1) - states).abs().sum(-1).argmin(1)
    moved[rows] = states[(now + 1) % len(states)]
    return moved


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
            both &= _differs(base, readings.terms({"w": moved})["terms"])
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


def _differs(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where two readings of the same terms differ by more than rounding."""
    same = (before == after) | (before.isnan() & after.isnan())
    return ~(same | ((before - after).abs() <= 1e-12 * (1.0 + before.abs())))
