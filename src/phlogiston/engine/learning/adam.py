r"""Adam: its constants, its state and its formula, which every trainer shares.

Here a gradient points uphill: a step raises the objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class AdamConfig:
    r"""Constants of Adam that stay the same during a run.

    Args:
        beta1: decay rate :math:`\beta_1` of the mean gradient.
        beta2: decay rate :math:`\beta_2` of the mean squared gradient.
        epsilon: number added to the root of the mean square.
        clip: largest norm of the whole gradient; None for no limit.
    """

    beta1: float
    beta2: float
    epsilon: float
    clip: float | None

    def clipped(self, gradients: Tensors) -> Tensors:
        """The gradients of all parameters, scaled down together where their common norm exceeds ``clip``."""
        if self.clip is None:
            return gradients
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        factor = (self.clip / norm.clamp_min(1e-30)).clamp_max(1.0)
        return tuple(gradient * factor for gradient in gradients)

    def moments(
        self, mean: torch.Tensor, square: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decaying means of one parameter's gradient and of its square, after one more gradient."""
        return (
            self.beta1 * mean + (1.0 - self.beta1) * gradient,
            self.beta2 * square + (1.0 - self.beta2) * gradient * gradient,
        )

    def moved(
        self, value: torch.Tensor, mean: torch.Tensor, square: torch.Tensor, size: torch.Tensor, root: torch.Tensor
    ) -> torch.Tensor:
        r"""One parameter after a step.

        Args:
            value: the parameter.
            mean: its mean gradient.
            square: its mean squared gradient.
            size: the learning rate over :math:`1 - \beta_1^t`, which corrects the bias of the mean.
            root: :math:`(1 - \beta_2^t)^{-1/2}`, which corrects the bias of the mean square.
        """
        return value + size * mean / (torch.sqrt(square) * root + self.epsilon)


@dataclass(frozen=True)
class AdamState:
    """Parameters and the state of Adam, in tensors that steps overwrite.

    Args:
        params: the parameters.
        means: mean of each parameter's gradient with its sign turned, as torch's own kernel stores it.
        squares: mean of each parameter's squared gradient.
        count: number of steps done, a float64 scalar.
    """

    params: Tensors
    means: Tensors
    squares: Tensors
    count: torch.Tensor

    @staticmethod
    def at(params: Tensors) -> AdamState:
        """The state before the first step, with copies of these parameters."""
        return AdamState(
            tuple(value.detach().clone() for value in params),
            tuple(torch.zeros_like(value) for value in params),
            tuple(torch.zeros_like(value) for value in params),
            torch.zeros((), dtype=torch.float64),
        )

    @staticmethod
    def of(tensors: list[torch.Tensor]) -> AdamState:
        """The inverse of ``tensors``, with copies of them."""
        count = (len(tensors) - 1) // 3
        parts = [tuple(value.clone() for value in tensors[i * count : (i + 1) * count]) for i in range(3)]
        return AdamState(parts[0], parts[1], parts[2], tensors[-1].clone())

    @property
    def tensors(self) -> Tensors:
        """All tensors in the order of the fields."""
        return (*self.params, *self.means, *self.squares, self.count)

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.count.device

    def copied(self) -> AdamState:
        """The same numbers in new tensors."""
        return self._each(torch.clone)

    def to(self, device: torch.device) -> AdamState:
        """The same numbers on a device; the same tensors where they are there already."""
        return self._each(lambda value: value.to(device))

    def overwrite(self, other: AdamState) -> None:
        """Copy the numbers of another state into these tensors."""
        for own, value in zip(self.tensors, other.tensors, strict=True):
            own.copy_(value)

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> AdamState:
        params, means, squares = (tuple(map(function, part)) for part in (self.params, self.means, self.squares))
        return AdamState(params, means, squares, function(self.count))
