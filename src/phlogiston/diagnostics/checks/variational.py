"""How far an approximation is from the posterior, and whether its optimisation had ended."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.verdict import Check, Finding, failed, skipped
from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]

GAP_LIMIT = 0.5
STILL_RISING = 0.02
_SURE = 2.0


def check_gap(gap: Estimate, *, can_correlate: bool = False) -> Check:
    """Whether the ELBO is so far below the log evidence that the approximation misleads.

    Args:
        gap: KL[q, p] in nats, with its error.
        can_correlate: whether the guide can express any correlation of latents.
    """
    value, error = float(gap.value), float(gap.se)
    if not math.isfinite(value):
        finding = Finding(
            f"the ELBO gap is {value}, as some draws have no density",
            "look for inputs far from those that the guide was trained on, or for parameters that are no numbers",
            number=value,
            threshold=GAP_LIMIT,
            meaning="Nothing is known of how far the guide is from the posterior.",
            severity="do not use",
        )
        return failed("ELBO gap", finding)
    if not value - _SURE * error > GAP_LIMIT:
        return Check("ELBO gap", f"{gap} nats, limit {GAP_LIMIT}")
    finding = Finding(
        f"the ELBO is {value:.2f} ± {error:.2f} nats below the log evidence (limit {GAP_LIMIT})",
        "take a flow or another reparameterisation"
        if can_correlate
        else "take a richer guide, such as 'multivariate_normal'",
        number=value,
        threshold=GAP_LIMIT,
        meaning="The guide does not have the posterior's shape: its own spread is too small, and comparing models by "
        "the ELBO compares gaps. Weighted draws make up for it only while k-hat is low.",
    )
    return failed("ELBO gap", finding)


def check_ending(converged: bool, reason: str) -> Check:
    """Whether an optimisation met its own rule for stopping.

    Args:
        converged: whether it did.
        reason: why it ended, in words.
    """
    if converged:
        return Check("optimisation", reason or "converged")
    finding = Finding(
        f"the optimisation had not converged: {reason or 'it was stopped'}",
        "raise num_steps, or lower the learning rate",
        number=0.0,
        threshold=1.0,
        meaning="The approximation is whatever the last step left, not the best of its family.",
    )
    return failed("optimisation", finding)


def check_rest(curve: Array, reason: str) -> Check:
    """Whether a training that ran its course was still getting better at its end.

    Args:
        curve: of what is maximised, by step.
        reason: why training ended.
    """
    name, tenth = "training at rest", curve.size // 10
    if tenth < 10 or not np.isfinite(curve[-2 * tenth :]).all():
        return skipped(name, f"{curve.size} records are too few")
    before, after = curve[-2 * tenth : -tenth], curve[-tenth:]
    rise = float(after.mean() - before.mean())
    error = float(np.sqrt((before.var() + after.var()) / tenth))
    share = rise / max(abs(float(after.mean())), 1e-12)
    if share <= STILL_RISING or rise <= _SURE * error:
        return Check(name, f"{share:+.1%} in the last tenth of the steps, limit {STILL_RISING:.0%}; {reason}")
    finding = Finding(
        f"the bound was still rising by {share:.1%} in the last tenth of the steps (limit {STILL_RISING:.0%})",
        "raise num_steps",
        number=share,
        threshold=STILL_RISING,
        meaning="Training ended before it was done: the program has not learned what it could.",
    )
    return failed(name, finding)
