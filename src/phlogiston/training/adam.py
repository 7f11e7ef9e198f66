"""Gradient ascent as pure functions of an explicit state, to be traced together with the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from phlogiston.errors import SettingError, problem

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Adam:
    r"""Adam: steps of each parameter's mean gradient over the root of its mean square.

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g`, :math:`v \leftarrow \beta_2 v + (1-\beta_2) g^2`,
    :math:`\theta \leftarrow \theta + \eta \, \hat m / (\sqrt{\hat v} + \epsilon)` with bias-corrected moments.

    Args:
        learning_rate: :math:`\eta` at the start.
        beta1: of the mean.
        beta2: of the mean square.
        epsilon: added to the root.
        clip: largest norm of the whole gradient; None for no limit.

    References:
        Kingma and Ba (2015), https://arxiv.org/abs/1412.6980

    Example:
        >>> ph.Adam(learning_rate=1e-3).beta1
        0.9
    """

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", *(("clip",) if self.clip is not None else ())):
            if not getattr(self, name) > 0.0:
                raise SettingError(problem(name, found=repr(getattr(self, name)), expected="a number above zero"))
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingError(problem(name, found=repr(getattr(self, name)), expected="a number in [0, 1)"))

    def initial(self, params: Tensors) -> Tensors:
        """The state before the first step: means, mean squares, and the powers of both betas."""
        ones = torch.ones(2, dtype=params[0].dtype)
        return (*(torch.zeros_like(p) for p in params), *(torch.zeros_like(p) for p in params), ones)

    def ascend(
        self, params: Tensors, gradients: Tensors, state: Tensors, rate: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        """One step up: parameters and state after it."""
        count = len(params)
        means, squares, powers = state[:count], state[count : 2 * count], state[2 * count]
        powers = powers * torch.tensor([self.beta1, self.beta2], dtype=powers.dtype)
        correction = 1.0 - powers
        if self.clip is not None:
            norm = sum((g.square().sum() for g in gradients), torch.zeros((), dtype=rate.dtype)).sqrt()
            factor = (self.clip / norm.clamp_min(1e-30)).clamp_max(1.0)
            gradients = tuple(g * factor for g in gradients)
        means = tuple(self.beta1 * m + (1.0 - self.beta1) * g for m, g in zip(means, gradients, strict=True))
        squares = tuple(self.beta2 * v + (1.0 - self.beta2) * g * g for v, g in zip(squares, gradients, strict=True))
        step, root = rate / correction[0], correction[1].rsqrt()
        moved = tuple(
            p + step * m / (v.sqrt() * root + self.epsilon) for p, m, v in zip(params, means, squares, strict=True)
        )
        return moved, (*means, *squares, powers)
