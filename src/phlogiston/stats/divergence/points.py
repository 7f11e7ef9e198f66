"""Two samples as tables of numbers: checked, put through a feature map, thinned, and their distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.errors import problem

Array = NDArray[np.float64]
Features = Callable[[torch.Tensor], Any]

FEWEST = 8
_AT_ONCE = 1000  # rows


def two_samples(verb: str, x: Any, y: Any, features: Features | None = None) -> tuple[Array, Array]:
    """Both samples as ``[N, D]``, checked.

    Args:
        verb: who asks, for messages.
        x: points ``[N, ...]``.
        y: points ``[M, ...]`` of the same shape each.
        features: what is compared in their place: chunks of points, as tensors of torch's default dtype and without
            gradients, to one row of any shape for each.

    Raises:
        ValueError: points differ in shape, are not finite, or are fewer than eight; or their features are so.
    """
    arrays = [_checked(where := f"{verb}({name})", array_of(given, where)) for name, given in (("x", x), ("y", y))]
    if arrays[0].shape[1:] != arrays[1].shape[1:]:
        found = f"points of shape {arrays[0].shape[1:]} and {arrays[1].shape[1:]}"
        raise ValueError(problem(verb, found=found, expected="points of one shape"))
    if features is not None:
        arrays = [_checked(f"{verb}(features)", _mapped(features, array)) for array in arrays]
    return arrays[0].reshape(len(arrays[0]), -1), arrays[1].reshape(len(arrays[1]), -1)


def array_of(given: Any, where: str = "points") -> Array:
    """Points as an array of floating-point numbers.

    Raises:
        ValueError: they are none.
    """
    try:
        array = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
        if not np.iscomplexobj(array):
            return array.astype(float)
    except (TypeError, ValueError) as error:  # of NumPy: words, None, or rows of several lengths
        shown = f"{type(given).__name__} ({str(error).partition('. ')[0]})"
        raise ValueError(problem(where, found=shown, expected="an array of numbers")) from error
    raise ValueError(problem(where, found="complex numbers", expected="real ones"))


def _checked(where: str, array: Array) -> Array:
    if array.ndim == 0 or len(array) < FEWEST:
        found = f"{array.shape[0] if array.ndim else 1} points"
        raise ValueError(problem(where, found=found, expected=f"at least {FEWEST}"))
    bad = int((~np.isfinite(array)).sum())
    if bad:
        found = f"{bad} of {array.size} numbers that are NaN or infinite"
        raise ValueError(problem(where, found=found, expected="finite numbers"))
    return array


def _mapped(features: Features, points: Array) -> Array:
    if not callable(features):
        raise TypeError(problem("features", found=repr(features), expected="a function of points", fix="network"))
    parts = []
    with torch.no_grad():
        for chunk in torch.split(torch.from_numpy(points).to(torch.get_default_dtype()), _AT_ONCE):
            made = array_of(features(chunk), "features")
            if made.ndim == 0 or len(made) != len(chunk):
                shown = f"shape {made.shape} for {len(chunk)} points"
                raise ValueError(problem("features", found=shown, expected="one row for each point"))
            parts.append(made)
    return np.concatenate(parts)


def some(points: Array, limit: int, rng: np.random.Generator) -> Array:
    """At most ``limit`` of the points, picked at random."""
    return points if len(points) <= limit else points[rng.choice(len(points), limit, replace=False)]


def squared_distances(x: Array, y: Array) -> Array:
    """Squared distances between every two rows, ``[N, M]``."""
    middle = x.mean(0)
    x, y = x - middle, y - middle
    inner = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2.0 * x @ y.T
    return np.asarray(np.maximum(inner, 0.0))


def blocks(x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
    """The squared distances some rows of ``x`` at a time, so that they are never in memory all at once."""
    for start in range(0, len(x), _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, len(x)))
        yield rows, squared_distances(x[rows], y)


def standardised(pooled: Array) -> Array:
    """Every column less its mean, over its standard deviation where it has one."""
    spread = pooled.std(0)
    return np.asarray((pooled - pooled.mean(0)) / np.where(spread > 0.0, spread, 1.0))
