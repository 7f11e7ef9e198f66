"""Bodies of encoders: what reads a datum, ``[B, ...]`` -> ``[B, width]``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class Perceptron(nn.Sequential):
    """Layers of rectified units over a flattened datum: ``[B, ...]`` -> ``[B, hidden[-1]]``.

    Args:
        inputs: numbers in one datum.
        hidden: width of each layer; none for a body that only flattens.

    Example:
        >>> Perceptron(6, (4, 3))(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        widths = [inputs, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers)
        self.width = widths[-1]


class Images(nn.Module):
    """Convolutions that halve an image until it is small, then a layer: ``[B, (C,) H, W]`` -> ``[B, hidden[-1]]``.

    Args:
        shape: of one image, ``(H, W)`` or ``(C, H, W)``.
        channels: of the first convolution; each halving doubles them, up to four times as many.
        hidden: widths of the layers after the convolutions.

    Example:
        >>> Images((8, 8), 16, (32,))(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 32])
    """

    def __init__(self, shape: Sequence[int], channels: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.shape = (1, *shape) if len(shape) == 2 else tuple(shape)
        before, height, width = self.shape
        layers: list[nn.Module] = [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        before = channels
        while min(height, width) > 4 or max(height, width) > 8:
            after = min(2 * before, 4 * channels)
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            before, height, width = after, (height + 1) // 2, (width + 1) // 2
        self.convolutions = nn.Sequential(*layers)
        self.head = Perceptron(before * height * width, hidden)
        self.width = self.head.width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``[B, (C,) H, W]`` -> ``[B, width]``."""
        found: torch.Tensor = self.head(self.convolutions(images.reshape(-1, *self.shape)))
        return found


class Bag(nn.Module):
    r"""A set of any size, read in any order: ``[B, M, F + 1]`` -> ``[B, hidden[-1]]``.

    :math:`\rho\big(\frac1{\bar M}\sum_m w_m \phi(x_m),\ \log(1 + \sum_m w_m)\big)` with the presence :math:`w_m` in the
    last column, 0 where a ragged set has ended, and :math:`\bar M` the mean size of the sets seen when it was built: a
    sum, not a mean, as what is known grows with the size of a set.

    Args:
        features: numbers in one element, without its presence.
        typical: mean number of elements in a set.
        hidden: widths of the layers of both networks.

    References:
        Zaheer et al. (2017), Deep sets. https://arxiv.org/abs/1703.06114

    Example:
        >>> bag, sets = Bag(2, 3.0, (8,)), torch.ones(5, 4, 3)
        >>> torch.allclose(bag(sets), bag(sets.flip(1)))
        True
    """

    def __init__(self, features: int, typical: float, hidden: Sequence[int]) -> None:
        super().__init__()
        first = hidden[0] if hidden else features
        self.typical = float(max(typical, 1.0))
        self.elements = nn.Sequential(nn.Linear(features, first), nn.ReLU(), nn.Linear(first, first))
        self.whole = Perceptron(first + 1, hidden)
        self.width = self.whole.width

    def forward(self, sets: torch.Tensor) -> torch.Tensor:
        """``[B, M, F + 1]`` -> ``[B, width]``."""
        present = sets[..., -1:]
        pooled = (self.elements(sets[..., :-1]) * present).sum(1) / self.typical
        found: torch.Tensor = self.whole(torch.cat([pooled, torch.log1p(present.sum(1))], -1))
        return found
