r"""One loss per player: what critic and generator each let fall, as functions of the critic's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import relu, softplus

Tensor = torch.Tensor
Of = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A game.

    Args:
        critic: outputs at data and at draws -> what the critic lets fall, a mean over rows.
        generator: the same for the generator.
        pairs: whether the generator's loss looks at data too.
        smoothable: whether labels can be smoothed.
        logistic: whether outputs are log odds of being data.
        threshold: the output above which a row counts as data; None where outputs have no such zero.
        won: the share that the critic is right about from which on it teaches the generator nothing.
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

LOSSES: dict[str, Loss] = {
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
