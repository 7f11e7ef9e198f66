"""R-hat and effective sample sizes of many components, and a cheap score of which need the exact computation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats import arviz

Array = NDArray[np.float64]

RHAT_LIMIT = 1.01
ESS_PER_CHAIN = 100
SCREENED = 64  # components that get rank-normalised R-hat and ESS, which cost milliseconds each
_CHUNK = 4_000_000


def convergence(values: Array) -> tuple[Array, Array]:
    """Rank-normalised R-hat and the smaller of bulk and tail ESS of ``[chain, draw, k]``; NaN where undefined."""
    rhat, ess = np.full(values.shape[2], np.nan), np.full(values.shape[2], np.nan)
    defined = np.isfinite(values).all((0, 1))  # ArviZ logs a complaint about others
    if values.shape[1] >= 4 and defined.any():
        some = values[..., defined]
        ess[defined] = np.fmin(arviz.ess(some, "bulk"), arviz.ess(some, "tail"))
        if values.shape[0] > 1:
            rhat[defined] = arviz.rhat(some)
    return rhat, ess


def screen(values: NDArray[Any]) -> Array:
    """A cheap score of how badly each component of ``[chain, draw, k]`` has converged; the worst has the highest."""
    width = max(1, _CHUNK // (values.shape[0] * values.shape[1]))
    parts = [_cheap(values[..., i : i + width].astype(np.float32)) for i in range(0, values.shape[2], width)]
    return np.concatenate(parts) if parts else np.zeros(0)


def badness(values: NDArray[Any], rhat: Array, ess: Array) -> Array:
    """How far beyond the limit R-hat or ESS is; -inf for constants, infinity for values that are not finite."""
    with np.errstate(all="ignore"):
        score = np.fmax((rhat - 1.0) / (RHAT_LIMIT - 1.0), ESS_PER_CHAIN * values.shape[0] / ess)
    finite = np.isfinite(values).all((0, 1))
    return np.where(finite, np.nan_to_num(score, nan=-np.inf, posinf=np.finfo(float).max), np.inf)


def _cheap(values: NDArray[np.float32]) -> Array:
    """Split R-hat and the ESS by batch means of ``[chain, draw, k]``, on a bounded scale so that tails do not rule."""
    chains, draws, _ = values.shape
    some = values[:, :: max(1, draws // 64)].reshape(-1, values.shape[2])
    with np.errstate(all="ignore"):
        centre = np.median(some, axis=0)
        spread = np.median(np.abs(some - centre), axis=0)
        spread = np.where(spread > 0.0, spread, some.std(axis=0) + np.finfo(np.float32).tiny)
        z = (values - centre) / spread
        size = np.abs(z)
        z /= 1.0 + size
        size /= 1.0 + size
        rhat = np.fmax(_split_rhat(z), _split_rhat(size))
        batch = max(1, int(draws**0.5))
        means = z[:, : draws // batch * batch].reshape(chains * (draws // batch), batch, -1).mean(axis=1)
        ess = chains * draws * z.var(axis=(0, 1)) / (batch * means.var(axis=0))
    return badness(values, rhat, ess)


def _split_rhat(values: NDArray[np.float32]) -> Array:
    half = values.shape[1] // 2
    halves = np.concatenate([values[:, :half], values[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean(axis=0) if half > 1 else np.zeros(values.shape[2])
    return np.asarray(np.sqrt((half - 1.0) / half + halves.mean(axis=1).var(axis=0, ddof=1) / within), dtype=float)
