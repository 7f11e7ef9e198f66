"""Whether a density has a finite integral, by how it falls along rays: a flat prior needs data that bound it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Density = Callable[[Array], tuple[Array, Array]]

NEAR, FAR = 20.0, 200.0  # along a ray, in standard deviations at its start
SLOWEST = -0.9  # of log density by log distance; 1/r, whose integral is infinite, has -1
_FLAT = 1e-6
_MOST, _STEP = 200, 1e-4


def improper_direction(start: Array, density: Density, places: Sequence[int], *, flat: bool = False) -> Array | None:
    r"""A direction in which a density falls so slowly that its integral cannot be finite; None if none was found.

    The directions examined are the axes of the latents with flat priors and the line along which the density curves
    least, each both ways. Along a line, a density that falls no faster than :math:`1 / r` has an infinite integral.

    Args:
        start: ``[D]``, where the rays begin.
        density: points ``[n, D]`` -> log density ``[n]`` and its gradient ``[n, D]``.
        places: of the latents with flat priors in the vector.
        flat: whether only a direction counts along which the density falls neither way.
    """
    curvature = _curvature(start, density)
    lines = [np.eye(start.size)[place] for place in places]
    if curvature is not None:
        values, vectors = np.linalg.eigh(curvature)
        lines.append(vectors[:, np.argmin(np.abs(values))])
    rays = []
    for line in lines:
        curved = float(line @ curvature @ line) if curvature is not None else 1.0
        rays += [sign * line / math.sqrt(curved if curved > 1e-12 else 1.0) for sign in (1.0, -1.0)]
    rows = np.concatenate([start + length * np.array(rays) for length in (NEAR, FAR)])
    near, far = density(rows)[0].reshape(2, len(rays))
    with np.errstate(invalid="ignore"):
        fall = (far - near) / math.log(FAR / NEAR)
    fall = np.where(np.isfinite(fall), fall, -np.inf)
    bad = (np.abs(fall).reshape(-1, 2) < _FLAT).all(1).repeat(2) if flat else fall > SLOWEST
    return rays[int(np.argmax(bad))] if bad.any() else None


def _curvature(start: Array, density: Density) -> Array | None:
    """Minus the second derivatives, by differences of the gradient."""
    if start.size > _MOST:
        return None
    step = _STEP * np.diag(1.0 + np.abs(start))
    up, down = density(start + step)[1], density(start - step)[1]
    curvature = (down - up) / (2.0 * np.diag(step)[:, None])
    return 0.5 * (curvature + curvature.T) if np.isfinite(curvature).all() else None


def names_of(ray: Array, label: Callable[[int], str]) -> list[str]:
    """The components that change most along a direction, at most four."""
    size = np.abs(ray) / np.abs(ray).max()
    order = np.argsort(-size, kind="stable")[:4]
    return [label(int(place)) for place in sorted(order) if size[place] > 0.1]
