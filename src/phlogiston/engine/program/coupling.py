"""Whether the elements of a plated discrete latent are independent given the rest, as summing them out supposes."""

from __future__ import annotations

import torch

from phlogiston.engine.densities.joint import FullReadings, Part, example_points, parts_of, states_of
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.readings import Interpreter

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
            differs(base, readings.terms({"w": _moved(w, rows, states)})["terms"])
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


def differs(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where two readings of the same terms differ by more than rounding."""
    same = (before == after) | (before.isnan() & after.isnan())
    return ~(same | ((before - after).abs() <= 1e-12 * (1.0 + before.abs())))
