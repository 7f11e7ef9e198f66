r"""Bounds on the log evidence, and low-variance gradients of them.

With weights :math:`w_s = p(x, z_s) / q(z_s)` of :math:`z_1, \ldots, z_S \sim q`, the family
:math:`\mathcal L_\alpha = \frac{1}{1-\alpha} \log \frac1S \sum_s w_s^{1-\alpha}` holds the ELBO
(:math:`\alpha \to 1`: the mean of :math:`\log w_s`), the importance-weighted bound (:math:`\alpha = 0`) and Rényi's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

from phlogiston.training.guides import Guide

Bound = Literal["elbo", "iwae", "renyi"]
Gradient = Literal["pathwise", "sticking"]
Evaluate = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def bound_of(log_weights: torch.Tensor, alpha: float) -> torch.Tensor:
    r"""``log w [S, ...]`` -> :math:`\mathcal L_\alpha`, ``[...]``."""
    if alpha == 1.0:
        return log_weights.mean(0)
    power = (1.0 - alpha) * log_weights
    return (torch.logsumexp(power, 0) - math.log(log_weights.shape[0])) / (1.0 - alpha)


def coefficients(log_weights: torch.Tensor, alpha: float, *, doubly: bool) -> torch.Tensor:
    r"""What the gradient of each :math:`\log w_s` counts for in that of the bound, ``[S, ...]``.

    Pathwise: the normalised weights :math:`\tilde w`. With the score of the guide left out ("doubly
    reparameterised"): :math:`\alpha \tilde w + (1 - \alpha) \tilde w^2`, which is sticking the landing for the ELBO
    and DReG for the importance-weighted bound.

    References:
        Roeder, Wu and Duvenaud (2017), https://arxiv.org/abs/1703.09194;
        Tucker, Lawson, Gu and Maddison (2019), https://arxiv.org/abs/1810.04152
    """
    normalised = torch.softmax((1.0 - alpha) * log_weights, 0)
    return alpha * normalised + (1.0 - alpha) * normalised.square() if doubly else normalised


def bound_and_gradient(
    guide: Guide, evaluate: Evaluate, params: dict[str, torch.Tensor], noise: torch.Tensor, alpha: float, sticking: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The bound from noise ``[W, S]``, and its gradient by parameter.

    Where the guide's entropy has a closed form the ELBO's pathwise gradient takes it from there.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    sticking = sticking and guide.log_prob is not None
    with torch.enable_grad():
        closed = alpha == 1.0 and guide.entropy is not None and not sticking
        u, log_q = (guide.draw(leaves, noise), None) if closed or sticking else guide.drawn(leaves, noise)
        value, slope = evaluate(u.detach())
        log_joint = value + (slope * (u - u.detach())).sum(0)  # the value of the density, with its gradient by u
        if closed and guide.entropy is not None:
            bound = log_joint.mean() + guide.entropy(leaves)
            shown, objective = bound, bound
        else:
            if guide.log_prob is not None and sticking:
                log_q = guide.log_prob(params, u)
            assert log_q is not None
            log_weights = log_joint - log_q
            shown = bound_of(log_weights.detach(), alpha)
            objective = (coefficients(log_weights.detach(), alpha, doubly=sticking) * log_weights).sum()
        gradients = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
    found = {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(params.items(), gradients, strict=True)
    }
    return shown.detach(), found
