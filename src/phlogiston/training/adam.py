"""``Adam``: the optimiser's settings, and its step as a pure function of an explicit state."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from phlogiston.engine.learning.adam import AdamConfig, Tensors
from phlogiston.errors import SettingError, problem


@dataclass(frozen=True, kw_only=True)
class Adam:
    r"""Adam divides each parameter's mean gradient by the root of its mean square.

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g`, :math:`v \leftarrow \beta_2 v + (1-\beta_2) g^2`,
    :math:`\theta \leftarrow \theta + \eta \, \hat m / (\sqrt{\hat v} + \epsilon)` with bias-corrected moments.

    Args:
        learning_rate: :math:`\eta` at the start.
        beta1: decay rate of the mean.
        beta2: decay rate of the mean square.
        epsilon: number added to the root.
        clip: largest norm of the whole gradient; None for no limit.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization. https://arxiv.org/abs/1412.6980

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

    @property
    def config(self) -> AdamConfig:
        """The constants of a run."""
        return AdamConfig(self.beta1, self.beta2, self.epsilon, self.clip)

    def initial(self, params: Tensors) -> Tensors:
        """The state before the first step: means, mean squares, and the powers of both decay rates."""
        ones = torch.ones(2, dtype=params[0].dtype)
        return (*(torch.zeros_like(p) for p in params), *(torch.zeros_like(p) for p in params), ones)

    def step(self, params: Tensors, gradients: Tensors, state: Tensors, rate: torch.Tensor) -> tuple[Tensors, Tensors]:
        """Parameters and state after one step uphill; nothing is overwritten."""
        config, count = self.config, len(params)
        powers = state[2 * count] * torch.tensor([self.beta1, self.beta2], dtype=state[2 * count].dtype)
        correction = 1.0 - powers
        size, root = rate / correction[0], correction[1].rsqrt()
        pairs = zip(state[:count], state[count : 2 * count], config.clipped(gradients), strict=True)
        means, squares = zip(*(config.moments(*one) for one in pairs), strict=True)
        moved = (config.moved(p, m, v, size, root) for p, m, v in zip(params, means, squares, strict=True))
        return tuple(moved), (*means, *squares, powers)
