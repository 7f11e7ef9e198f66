"""Machine code for what a graph cannot do well, and one stream of random numbers per chain inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Words = NDArray[np.uint64]

# Sums may be reordered for speed; NaN and infinity keep their meaning, as divergences are found by them.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


def jit(function: F) -> F:
    """Compile at the first call (numba), and keep the machine code on disk for later processes."""
    return cast(F, numba.njit(cache=True, fastmath=_FAST, error_model="numpy")(function))


def inlined(function: F) -> F:
    """The same, copied into its callers: arrays are costly to hand over."""
    return cast(F, numba.njit(inline="always", fastmath=_FAST, error_model="numpy")(function))


def streams(seeds: Sequence[np.random.SeedSequence]) -> Words:
    """The state of one xoshiro256++ generator per seed, ``[n, 4]``.

    References:
        Blackman and Vigna (2021), Scrambled linear pseudorandom number generators, https://arxiv.org/abs/1805.01407
    """
    return np.stack([seed.generate_state(4, np.uint64) for seed in seeds])


@jit
def _rotated(word: np.uint64, by: int) -> np.uint64:
    return np.uint64((word << np.uint64(by)) | (word >> np.uint64(64 - by)))


@jit
def uniform(state: Words) -> float:
    """A number in (0, 1) from one stream ``[4]``, which moves on."""
    word = np.uint64(_rotated(np.uint64(state[0] + state[3]), 23) + state[0])
    shifted = np.uint64(state[1] << np.uint64(17))
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = _rotated(state[3], 45)
    return (float(word >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@jit
def fill_normal(state: Words, values: NDArray[Any]) -> None:
    """Standard normal numbers into ``values [n]`` (Box and Muller, 1958)."""
    for i in range(0, values.shape[0], 2):
        radius = np.sqrt(-2.0 * np.log(uniform(state)))
        angle = 2.0 * np.pi * uniform(state)
        values[i] = radius * np.cos(angle)
        if i + 1 < values.shape[0]:
            values[i + 1] = radius * np.sin(angle)


@jit
def fill_normals(states: Words, values: NDArray[Any]) -> None:
    """A row of ``values [n, k]`` from each of the streams ``[n, 4]``."""
    for i in range(states.shape[0]):
        fill_normal(states[i], values[i])


@jit
def fill_uniforms(states: Words, values: NDArray[Any]) -> None:
    """A number in (0, 1) for each of the streams ``[n, 4]``."""
    for i in range(states.shape[0]):
        values[i] = uniform(states[i])
