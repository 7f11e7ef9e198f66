"""Importance weights: evidence, effective sample size, Pareto smoothing, resampling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import ImpossibleEvidence
from phlogiston.stats.effective_size import weighted_size
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]
_LARGEST_BET, _HALVINGS = 0.9, 50


def log_mean_exp(log_weights: Array) -> Estimate:
    r"""Log of the mean weight, :math:`\log \frac1N \sum_i w_i`, an estimate of the log evidence.

    The mean weight is unbiased for the evidence; its log is biased down by about half the squared error.

    Args:
        log_weights: ``[N]``; -inf is a legal weight.

    Returns:
        the estimate, with the delta-method error ``sd(w) / (mean(w) sqrt(N))``.

    Raises:
        ImpossibleEvidence: all weights are zero.
        ValueError: a weight is NaN or +inf.

    Example:
        >>> round(log_mean_exp(np.log([1.0, 3.0])).value, 6)
        0.693147
    """
    bad = int(np.isnan(log_weights).sum() + np.isposinf(log_weights).sum())
    if bad:
        raise ValueError(f"log weights: found {bad} NaN or +inf of {log_weights.size}; expected finite numbers or -inf")
    top = float(log_weights.max())
    if top == -math.inf:
        raise ImpossibleEvidence(
            f"all {log_weights.size} particles have likelihood zero: the observations cannot happen under what was "
            "proposed; check the data against the program's supports with model.check(), or propose elsewhere"
        )
    weights = np.exp(log_weights - top)
    mean = float(weights.mean())
    error = float(weights.std(ddof=1)) / (mean * math.sqrt(weights.size)) if weights.size > 1 else math.inf
    return Estimate(top + math.log(mean), error)


def log_mean_at_least(log_weights: Array, miss: float) -> float:
    r"""A lower confidence bound for the log of the mean that independent weights were drawn with.

    If :math:`\mu` is the mean, then a capital that begins at 1 and is multiplied by
    :math:`1 + \lambda_i (w_i / \mu - 1)` at each weight, with a bet :math:`\lambda_i` from 0 to 1 that depends on
    earlier weights only, is 1 on average in the end, so it reaches 1 / miss with probability at most miss (Markov). The
    bound is the least mean that does not make the capital that large. Nothing but independence and :math:`w \ge 0` is
    assumed: no finite variance, no number of weights. The bets are those that are best for normal errors, where the
    bound is :math:`\sqrt{2 \log(1 / miss)}` standard errors down: 2.7 at 0.025.

    Args:
        log_weights: ``[N]``, in the order in which they were drawn; -inf is a legal weight.
        miss: probability that the bound is above the log mean, at most.

    References:
        Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
        https://arxiv.org/abs/2010.09686

    Example:
        >>> round(log_mean_at_least(np.log([0.9, 1.1] * 50), 0.025), 3)
        -0.046
    """
    top = float(log_weights.max())
    if top == -math.inf:
        return -math.inf
    shifted, wanted = log_weights - top, -math.log(miss)
    weights = np.exp(shifted)
    before = np.arange(weights.size)
    mean = (np.cumsum(weights) - weights + 1e-100) / np.maximum(before, 1)
    square = (np.cumsum(weights**2) - weights**2) / np.maximum(before, 1)
    variance = (1.0 + before * np.clip(square / mean**2 - 1.0, 0.0, weights.size)) / (1.0 + before)
    bet = np.minimum(np.sqrt(2.0 * wanted / (weights.size * variance)), _LARGEST_BET)
    kept, at_risk = np.log1p(-bet), np.log(bet) + shifted
    high = math.log(float(weights.mean()))  # the capital is at most 1 there only on average: look above, too
    low, step = high, 1.0
    while float(np.logaddexp(kept, at_risk - high).sum()) >= wanted:
        high += 1.0
    while float(np.logaddexp(kept, at_risk - low).sum()) < wanted:
        low, step = low - step, 2.0 * step
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if float(np.logaddexp(kept, at_risk - middle).sum()) < wanted:
            high = middle
        else:
            low = middle
    return top + low


def effective_sample_size(log_weights: Array) -> float:
    r"""Kish's effective sample size, :math:`(\sum w)^2 / \sum w^2` (Kish, 1965).

    Example:
        >>> round(effective_sample_size(np.zeros(100)), 6)
        100.0
    """
    return float(weighted_size(np.exp(log_weights - log_weights.max())))


def khat_threshold(num_draws: int) -> float:
    """The k-hat above which weights are not to be believed, min(1 - 1/log10(S), 0.7) (Vehtari et al., 2024).

    Example:
        >>> khat_threshold(100), khat_threshold(10**6)
        (0.5, 0.7)
    """
    return min(1.0 - 1.0 / math.log10(max(num_draws, 11)), 0.7)


def pareto_smooth(log_weights: Array) -> tuple[Array, float]:
    r"""Replace the largest weights by the quantiles of a generalised Pareto distribution fitted to them.

    The fitted shape, k-hat, says how heavy the weights' tail is: above ``khat_threshold`` their averages
    are not to be trusted.

    Args:
        log_weights: ``[N]``, unnormalised.

    Returns:
        smoothed log weights, normalised to sum to one, and k-hat (-inf where the largest weights are all equal).

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
        https://arxiv.org/abs/1507.02646

    Example:
        >>> rng = np.random.default_rng(0)
        >>> _, khat = pareto_smooth(rng.pareto(2.0, 100_000) + 1.0)  # weights exp(x): far too heavy
        >>> khat > 0.7
        True
    """
    size = log_weights.size
    smoothed = log_weights - log_weights.max()
    # The 3 sqrt(S) largest weights, at most a fifth of all, are few enough to follow a Pareto distribution, and grow in
    # number with S, so that the fit converges (Vehtari, Simpson, Gelman, Yao and Gabry, 2024).
    tail = min(size // 5, math.ceil(3.0 * math.sqrt(size)))
    khat = math.inf
    if tail >= 5:
        largest = np.argpartition(smoothed, size - tail - 1)[size - tail - 1 :]
        order = largest[np.argsort(smoothed[largest], kind="stable")]
        cutoff = math.exp(max(float(smoothed[order[0]]), math.log(np.finfo(float).tiny)))
        excesses = np.exp(smoothed[order[1:]]) - cutoff
        above = excesses > 0.0
        if not above.any():
            khat = -math.inf
        elif above.sum() >= 5:
            khat, sigma = _fit_generalized_pareto(excesses[above])
            count = int(above.sum())
            quantiles = _pareto_quantile((np.arange(count) + 0.5) / count, khat, sigma)
            # No smoothed weight may exceed the largest raw one, whose log is 0 here, as the fitted tail may not even
            # have a mean.
            smoothed[order[1:][above]] = np.minimum(np.log(cutoff + quantiles), 0.0)
    return smoothed - _log_sum_exp(smoothed), khat


def _log_sum_exp(values: Array) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


def _fit_generalized_pareto(excesses: Array) -> tuple[float, float]:
    """Shape and scale by Zhang and Stephens (2009), with the weak prior on the shape of Vehtari et al."""
    # Zhang and Stephens (2009) average b = -shape / scale over its profile posterior on a grid; the shape follows from
    # b in closed form. Unlike maximum likelihood this exists for every sample and needs no iteration. The prior of
    # Vehtari et al. counts as ten more excesses of shape 1/2, which steadies the estimate from short tails.
    count = excesses.size
    candidates = 30 + int(math.sqrt(count))
    quartile = excesses[int(count / 4 + 0.5) - 1]
    b = 1.0 - np.sqrt(candidates / (np.arange(1, candidates + 1) - 0.5))
    b = b / (3.0 * quartile) + 1.0 / excesses[-1]
    k = np.log1p(-b[:, None] * excesses).mean(axis=1)
    rate = np.full(b.shape, 1.0 / excesses.mean())  # b at zero is the exponential distribution
    np.divide(-b, k, out=rate, where=k != 0.0)
    profile = count * (np.log(rate) - k - 1.0)
    with np.errstate(over="ignore"):  # a candidate that fits far worse than another gets weight zero
        weights = 1.0 / np.exp(profile - profile[:, None]).sum(axis=1)
    keep = weights >= 10.0 * np.finfo(float).eps
    b_mean = float((b[keep] * weights[keep] / weights[keep].sum()).sum())
    shape = float(np.log1p(-b_mean * excesses).mean())
    scale = -shape / b_mean if shape else float(excesses.mean())
    return (count * shape + 10.0 * 0.5) / (count + 10.0), scale


def _pareto_quantile(probabilities: Array, shape: float, scale: float) -> Array:
    if abs(shape) < np.finfo(float).eps:
        return -scale * np.log1p(-probabilities)
    with np.errstate(over="ignore"):  # a tail of such a shape has no largest number; the caller cuts it off
        return np.asarray(scale * np.expm1(-shape * np.log1p(-probabilities)) / shape)


def systematic_resample(log_weights: Array, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of ``count`` draws in proportion to their weights, with one uniform number (systematic resampling).

    The result is sorted. Each index i appears floor or ceil of ``count * w_i`` times.

    References:
        Douc, Cappe and Moulines (2005), https://arxiv.org/abs/cs/0507025

    Example:
        >>> systematic_resample(np.log([0.5, 0.25, 0.25]), 4, np.random.default_rng(0))
        array([0, 0, 1, 2])
    """
    # One uniform number shifts a regular grid over the cumulative weights. Each count has the right mean and varies as
    # little as an integer with that mean can (Kitagawa, 1996).
    cumulative = np.cumsum(np.exp(log_weights - log_weights.max()))
    points = (np.arange(count) + rng.random()) / count * cumulative[-1]
    indices = np.searchsorted(cumulative, points, side="right")
    return np.asarray(np.minimum(indices, log_weights.size - 1), dtype=np.int64)
