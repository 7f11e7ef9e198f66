"""The leapfrog integrator in place, as machine code for the trees of NUTS and the trajectories of HMC."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from phlogiston.inference.rng import inlined

Array = NDArray[Any]


@inlined
def kick_and_drift(x: Array, momentum: Array, grad: Array, kick: float, drift: float) -> None:
    """``momentum += kick * grad``, then ``x += drift * momentum``; all one-dimensional."""
    for i in range(x.shape[0]):
        momentum[i] += kick * grad[i]
        x[i] += drift * momentum[i]
