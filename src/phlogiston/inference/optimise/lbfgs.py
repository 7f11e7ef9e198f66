"""Climb to a mode from many points at once (L-BFGS), and keep the paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Evaluate = Callable[[Array], tuple[Array, Array]]  # points [P, D] -> log density [P], gradient [P, D]
_ARMIJO, _HALVINGS = 1e-4, 30
_LEVEL = 1e-3  # a gradient, relative to the log density, at which the end of a climb counts as a mode
FAR = 1e4  # a mode that lies so far out on the unconstrained scale lies at its end


@dataclass(frozen=True)
class Paths:
    """The points that climbers passed.

    Args:
        points: ``[steps, P, D]``, starting points first; a climber that has arrived stays where it is.
        values: log density ``[steps, P]``.
        gradients: ``[steps, P, D]``.
        arrived: which climbers found no higher point, or a gradient that is nearly zero, ``[P]``.
    """

    points: Array
    values: Array
    gradients: Array
    arrived: NDArray[np.bool_]

    @property
    def level(self) -> NDArray[np.bool_]:
        """Which climbers arrived where the gradient is nearly zero, ``[P]``."""
        size = np.maximum(1.0, np.abs(self.values[-1]))
        return np.asarray(self.arrived & (np.abs(self.gradients[-1]).max(1) <= _LEVEL * size))

    @property
    def best(self) -> int:
        """Index of the climber with the highest last value."""
        return int(np.nanargmax(np.where(np.isfinite(self.values[-1]), self.values[-1], -np.inf)))


def climb_paths(
    evaluate: Evaluate, start: Array, *, max_steps: int = 200, memory: int = 8, tolerance: float = 1e-8
) -> Paths:
    """Maximise from many points at once by L-BFGS, until no climber rises.

    Args:
        evaluate: the log density and its gradient at many points.
        start: ``[P, D]``.
        max_steps: at most.
        memory: earlier steps that curvature is read from.
        tolerance: a rise relative to the value, and a gradient relative to the first, that count as none.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 7, https://doi.org/10.1007/978-0-387-40065-5
    """
    value, gradient = evaluate(start)
    points, values, gradients = [start], [value], [gradient]
    steps: list[tuple[Array, Array]] = []
    arrived = ~np.isfinite(value)
    still = np.zeros(len(start), dtype=int)
    for _ in range(max_steps):
        direction = _two_loop(gradient, steps[-memory:])
        slope = (direction * gradient).sum(1)
        direction = np.where((slope > 0.0)[:, None], direction, gradient)
        first = 1.0 if steps else 1.0 / np.maximum(np.linalg.norm(gradient, axis=1), 1.0)
        moved, higher, slopes = _line_search(evaluate, (points[-1], value, gradient), direction, first, arrived)
        steps.append((moved - points[-1], gradient - slopes))  # of the negative log density: s and y
        rise = higher - value
        still = np.where(rise <= tolerance * np.maximum(np.abs(value), 1.0) * 1e-3, still + 1, 0)
        value, gradient = higher, slopes
        points.append(moved)
        values.append(value)
        gradients.append(gradient)
        flat = np.abs(gradient).max(1) <= tolerance * np.maximum(np.abs(gradients[0]).max(1), 1.0)
        arrived = arrived | flat | (still >= 3)
        if arrived.all():
            break
    return Paths(np.stack(points), np.stack(values), np.stack(gradients), arrived & np.isfinite(value))


def _two_loop(gradient: Array, steps: list[tuple[Array, Array]]) -> Array:
    """The two-loop recursion, for all climbers at once; pairs without positive curvature are passed over."""
    direction = gradient.copy()
    kept = []
    for s, y in reversed(steps):
        curvature = (s * y).sum(1)
        usable = curvature > 1e-10 * (y * y).sum(1)
        rho = np.where(usable, 1.0 / np.where(usable, curvature, 1.0), 0.0)
        alpha = rho * (s * direction).sum(1)
        direction = direction - alpha[:, None] * y
        kept.append((s, y, rho, alpha))
    if kept:
        s, y, rho, _ = kept[0]
        size = np.where(rho > 0.0, (s * y).sum(1) / np.maximum((y * y).sum(1), 1e-300), 1.0)
        direction = direction * size[:, None]
    for s, y, rho, alpha in reversed(kept):
        direction = direction + (alpha - rho * (y * direction).sum(1))[:, None] * s
    return direction


def _line_search(
    evaluate: Evaluate, at: tuple[Array, Array, Array], direction: Array, first: Any, arrived: Array
) -> tuple[Array, Array, Array]:
    """Halve each climber's step until the density rises enough; a climber without such a step stays."""
    point, value, gradient = at
    slope = (direction * gradient).sum(1)
    size = np.broadcast_to(np.asarray(first, dtype=float), value.shape).copy()
    moved, higher, gradients = point.copy(), value.copy(), gradient.copy()
    seeking = ~arrived & np.isfinite(direction).all(1)
    for _ in range(_HALVINGS):
        if not seeking.any():
            break
        trial = np.where(seeking[:, None], point + size[:, None] * direction, point)
        values, slopes = evaluate(trial)
        good = seeking & np.isfinite(values) & np.isfinite(slopes).all(1) & (values >= value + _ARMIJO * size * slope)
        moved[good], higher[good], gradients[good] = trial[good], values[good], slopes[good]
        seeking = seeking & ~good
        size = np.where(seeking, 0.5 * size, size)
    return moved, higher, gradients
