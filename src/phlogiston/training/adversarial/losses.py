"""Losses of adversarial training by name: one for the critic and one for the generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import relu, softplus

from phlogiston.errors import SettingError, problem
from phlogiston.model.registry import Registry

Tensor = torch.Tensor
Of = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Both players' losses, as functions of the critic's outputs ``[B]``.

    Args:
        critic: outputs at data, at draws, and the label smoothing -> the loss that the critic minimises, a mean.
        generator: outputs at data and at draws -> the loss that the generator minimises, a mean.
        pairs: whether the generator's loss depends on the outputs at data.
        smoothable: whether the critic's loss takes label smoothing.
        logistic: whether outputs are log odds of being data.
        threshold: the output above which a row counts as data; None where outputs have no such zero.
        won: the fraction of rows that the critic gets right above which it teaches the generator nothing.

    Example:
        >>> cubic = ph.Loss(
        ...     critic=lambda real, fake, smooth: ((1.0 - real).abs() ** 3 + (1.0 + fake).abs() ** 3).mean(),
        ...     generator=lambda real, fake: -fake.mean(),
        ... )
        >>> ph.Adversarial(loss=cubic).loss is cubic
        True
        >>> ph.register("loss", "cubic", cubic)
        >>> ph.Adversarial(loss="cubic").loss
        'cubic'
        >>> LOSSES.unregister("cubic")
    """

    critic: Callable[[Tensor, Tensor, float], Tensor]
    generator: Of
    pairs: bool = False
    smoothable: bool = False
    logistic: bool = False
    threshold: float | None = 0.0
    won: float = 0.99


def _logistic(real: Tensor, fake: Tensor, smooth: float) -> Tensor:
    found = softplus(-real) if not smooth else (1.0 - smooth) * softplus(-real) + smooth * softplus(real)
    return (found + softplus(fake)).mean()


def _squares(real: Tensor, fake: Tensor, smooth: float) -> Tensor:
    return 0.5 * ((real - (1.0 - smooth)).square() + fake.square()).mean()


def _f_gan(activation: Callable[[Tensor], Tensor], conjugate: Callable[[Tensor], Tensor]) -> Loss:
    """The variational bound of an f-divergence: the critic's loss is minus its estimate."""

    def critic(real: Tensor, fake: Tensor, smooth: float) -> Tensor:
        return (conjugate(activation(fake)) - activation(real)).mean()

    def generator(real: Tensor, fake: Tensor) -> Tensor:
        return -conjugate(activation(fake)).mean()

    return Loss(critic=critic, generator=generator, threshold=None)


_LOG2 = 0.6931471805599453

_LOSSES: dict[str, Loss] = {
    "minimax": Loss(
        critic=_logistic,
        generator=lambda real, fake: -softplus(fake).mean(),
        smoothable=True,
        logistic=True,
        won=0.95,
    ),
    "non_saturating": Loss(
        critic=_logistic, generator=lambda real, fake: softplus(-fake).mean(), smoothable=True, logistic=True
    ),
    "hinge": Loss(
        critic=lambda real, fake, smooth: (relu(1.0 - real) + relu(1.0 + fake)).mean(),
        generator=lambda real, fake: -fake.mean(),
    ),
    "least_squares": Loss(
        critic=_squares,
        generator=lambda real, fake: 0.5 * (fake - 1.0).square().mean(),
        smoothable=True,
        threshold=0.5,
    ),
    "wasserstein": Loss(
        critic=lambda real, fake, smooth: (fake - real).mean(),
        generator=lambda real, fake: -fake.mean(),
        threshold=None,
        won=math.inf,
    ),
    "relativistic": Loss(
        critic=lambda real, fake, smooth: softplus(fake - real).mean(),
        generator=lambda real, fake: softplus(real - fake).mean(),
        pairs=True,
        threshold=None,
    ),
    "f_kl": _f_gan(lambda v: v, lambda t: torch.exp(t - 1.0)),
    "f_reverse_kl": _f_gan(lambda v: -torch.exp(-v), lambda t: -1.0 - torch.log(-t)),
    "f_js": _f_gan(lambda v: _LOG2 - softplus(-v), lambda t: -torch.log(2.0 - torch.exp(t))),
    "f_pearson": _f_gan(lambda v: v, lambda t: 0.25 * t.square() + t),
    "f_hellinger": _f_gan(lambda v: 1.0 - torch.exp(-v), lambda t: t / (1.0 - t)),
}

LOSSES = Registry(
    "loss", _LOSSES, accepts=lambda item: isinstance(item, Loss), expected="ph.Loss(critic=..., generator=...)"
)


def loss_of(setting: Any) -> Loss:
    """The loss that a setting names or is.

    Raises:
        SettingError: it is neither.
        UnknownName: there is no loss of that name.
    """
    if isinstance(setting, Loss):
        return setting
    if not isinstance(setting, str):
        raise SettingError(
            problem("loss", found=repr(setting), expected="a name, or ph.Loss(critic=..., generator=...)")
        )
    loss: Loss = LOSSES[setting]
    return loss
