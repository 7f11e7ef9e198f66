"""The ratio of two normalising constants from draws of both densities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_ROUNDS = 1000


@dataclass(frozen=True)
class Bridged:
    """Log ratio of the constants, and the terms whose means it is made of (for its error).

    Args:
        log_ratio: log of p's constant over q's; -inf where the draws do not meet.
        ours: a term for each draw of p, of the shape of the log ratios there.
        theirs: a term for each draw of q.
    """

    log_ratio: float
    ours: Array
    theirs: Array


def bridge(ours: Array, theirs: Array, fraction: float) -> Bridged:
    r"""The optimal bridge between p and q.

    The fixed point of :math:`r = E_q[l / (s l + (1 - s) r)] \,/\, E_p[1 / (s l + (1 - s) r)]` with :math:`l = p / q`,
    each expectation a mean over the draws of its own density.

    Args:
        ours: log p - log q at draws of p, of any shape.
        theirs: the same at draws of q.
        fraction: effective number of p's draws among that of all draws.

    References:
        Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity,
        Statistica Sinica 6, 831-860
    """
    # The function 1 / (s l + (1 - s) r) is the one with the least asymptotic variance for independent draws (Meng and
    # Wong, 1996). It contains the unknown r, so that r is iterated to the only fixed point. Draws of chains count by
    # their effective number (Frühwirth-Schnatter, 2004). Sums are taken in logs, as l spans many powers of ten.
    log_r = float(np.median(ours))
    near, far = ours, theirs
    for _ in range(_ROUNDS):
        near = np.logaddexp(math.log(fraction) + ours - log_r, math.log1p(-fraction))
        far = np.logaddexp(math.log(fraction) + theirs - log_r, math.log1p(-fraction))
        top = np.logaddexp.reduce((theirs - far).reshape(-1)) - math.log(theirs.size)
        bottom = np.logaddexp.reduce(-near.reshape(-1)) - math.log(ours.size)
        before, log_r = log_r, float(top - bottom)
        if not math.isfinite(log_r):
            return Bridged(-math.inf, np.zeros_like(ours), np.zeros_like(theirs))
        if abs(log_r - before) < 1e-10:
            break
    return Bridged(log_r, np.exp(-near), np.exp(theirs - log_r - far))
