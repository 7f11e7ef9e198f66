"""Draws of the families that conditionals come in, one stream of random numbers per chain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.inference.rng import Words, jit, uniform

Array = NDArray[Any]


@jit
def _normal(state: Words) -> float:
    return float(np.sqrt(-2.0 * np.log(uniform(state))) * np.cos(2.0 * np.pi * uniform(state)))


@jit
def log_gamma_draw(state: Words, shape: float) -> float:
    """The log of a gamma variate with scale one; exact for shapes however small.

    References:
        Marsaglia and Tsang (2000), A simple method for generating gamma variables,
        https://doi.org/10.1145/358407.358414
    """
    boosted = shape + 1.0 if shape < 1.0 else shape
    d = boosted - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        x = _normal(state)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v = v * v * v
        if np.log(uniform(state)) < 0.5 * x * x + d - d * v + d * np.log(v):
            break
    extra = np.log(uniform(state)) / shape if shape < 1.0 else 0.0
    return float(np.log(d * v) + extra)


@jit
def fill_log_gammas(states: Words, shapes: Array, out: Array) -> None:
    """Logs of gamma variates with scale one for ``shapes [n, k]``; NaN where a shape is not positive."""
    for i in range(shapes.shape[0]):
        for j in range(shapes.shape[1]):
            good = 0.0 < shapes[i, j] < np.inf
            out[i, j] = log_gamma_draw(states[i], shapes[i, j]) if good else np.nan


@jit
def _tail(state: Words, low: float, high: float) -> float:
    """A standard normal between 0 < low < high, by rejection from an exponential."""
    rate = 0.5 * (low + np.sqrt(low * low + 4.0))
    while True:
        z = low - np.log(uniform(state)) / rate
        if z < high and np.log(uniform(state)) < -0.5 * (z - rate) * (z - rate):
            return float(z)


@jit
def truncated_normal(state: Words, low: float, high: float) -> float:
    """A standard normal between two bounds.

    References:
        Robert (1995), Simulation of truncated normal variables, https://arxiv.org/abs/0907.4010
    """
    if high < 0.0:
        return -truncated_normal(state, -high, -low)
    if low > 0.0 and high - low > 2.0 / (low + np.sqrt(low * low + 4.0)):
        return _tail(state, low, high)
    if high - low > 2.5:
        while True:
            z = _normal(state)
            if low < z < high:
                return float(z)
    nearest = min(max(0.0, low), high)
    while True:
        z = low + (high - low) * uniform(state)
        if np.log(uniform(state)) < 0.5 * (nearest * nearest - z * z):
            return float(z)


@jit
def fill_truncated(states: Words, low: Array, high: Array, out: Array) -> None:
    """Standard normals between ``low [n, k]`` and ``high [n, k]``; NaN where that is no interval."""
    for i in range(low.shape[0]):
        for j in range(low.shape[1]):
            out[i, j] = truncated_normal(states[i], low[i, j], high[i, j]) if low[i, j] < high[i, j] else np.nan
