"""How far an approximation is from the posterior, and whether its optimisation had ended."""

from __future__ import annotations

from phlogiston.diagnostics.verdict import Check, Finding, failed
from phlogiston.estimate import Estimate

GAP_LIMIT = 0.5
_SURE = 2.0


def check_gap(gap: Estimate, *, rich: bool = False) -> Check:
    """Whether the ELBO is so far below the log evidence that the approximation misleads.

    Args:
        gap: KL[q, p] in nats, with its error.
        rich: whether the guide is one that knows correlations.
    """
    value, error = float(gap.value), float(gap.se)
    if not value - _SURE * error > GAP_LIMIT:
        return Check("ELBO gap", f"{gap} nats, limit {GAP_LIMIT}")
    finding = Finding(
        f"the ELBO is {value:.2f} ± {error:.2f} nats below the log evidence (limit {GAP_LIMIT})",
        "take a flow or another reparameterisation" if rich else "take a richer guide, such as 'multivariate_normal'",
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
