"""The leapfrog integrator of Hamiltonian dynamics, on arrays of NumPy or torch.

The samplers whose inner loop is machine code step in place by ``inference.mcmc.leapfrog`` instead: calls of array
functions would cost them more than the arithmetic. The tests hold both to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

State = TypeVar("State")


def leapfrogs(
    position: Any,
    momentum: Any,
    force: Any,
    step_size: Any,
    num_steps: int,
    evaluate: Callable[[Any], tuple[Any, Any, State]],
    *,
    drift: Callable[[Any], Any] = lambda momentum: momentum,
) -> tuple[State, Any]:
    r"""Advance a position and a momentum by the leapfrog integrator.

    A step is :math:`p \leftarrow p + \frac\epsilon2 F(x)`, :math:`x \leftarrow x + \epsilon p`, and another half kick
    of :math:`p`. The two half kicks between neighbouring steps are taken as one.

    Args:
        position: where to begin.
        momentum: of the same shape.
        force: gradient of the log density at ``position``.
        step_size: a number, or an array that is broadcast to positions.
        num_steps: at least one.
        evaluate: a position -> the position that is kept, the force there, and whatever else is known there.
        drift: momentum -> velocity; the momentum itself where the mass matrix is the identity.

    Returns:
        what ``evaluate`` knew at the end, and the momentum there.

    Example:
        >>> (end, momentum) = leapfrogs(1.0, 0.0, -1.0, 0.01, 157, lambda x: (x, -x, x))  # a quarter of a period
        >>> round(end, 2), round(momentum, 2)
        (0.0, -1.0)
    """
    momentum = momentum + 0.5 * step_size * force
    for i in range(num_steps):
        position, force, state = evaluate(position + step_size * drift(momentum))
        momentum = momentum + (1.0 if i < num_steps - 1 else 0.5) * step_size * force
    return state, momentum
