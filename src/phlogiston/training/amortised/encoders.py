"""Encoders: networks that read a datum, and the normal over its latents that they give."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

_FAR = 5.0  # standard deviations; a feature that hardly varied must not drown the others in a new datum where it does


class Standardise(nn.Module):
    """Numbers in units of their spread: ``(data - loc) / scale``, ``[B, ...]`` -> ``[B, ...]``; a spread of 0 is 1.

    Results are limited to five standard deviations from the mean.
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", torch.where(scale > 1e-6 * (1.0 + loc.abs()), scale, torch.ones_like(scale)))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """``[B, ...]`` -> ``[B, ...]``."""
        return ((data - self.loc) / self.scale).clamp(-_FAR, _FAR)


class Encoder(nn.Module):
    r"""A normal over a datum's latents, :math:`q(u \mid x) = N(\mu(x), \Sigma(x))`, on the unconstrained scale.

    Args:
        body: reads a datum, ``[B, ...]`` -> ``[B, width]``.
        width: numbers that the body gives for a datum.
        dim: numbers that the latents of a datum have.
        full: whether the covariance is full or diagonal.

    Example:
        >>> loc, scale = Encoder(torch.nn.Flatten(), 6, 2)(torch.zeros(5, 6))
        >>> loc.shape, scale.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self, body: Callable[[torch.Tensor], torch.Tensor], width: int, dim: int, *, full: bool = False
    ) -> None:
        super().__init__()
        self.body, self.dim, self.full = body, dim, full
        self.loc, self.log_scale = nn.Linear(width, dim), nn.Linear(width, dim)
        self.below = nn.Linear(width, dim * (dim - 1) // 2) if full and dim > 1 else None
        with torch.no_grad():  # begin near a standard normal that barely depends on the datum, as the prior does
            for head in (self.log_scale, self.below):
                if head is not None:
                    head.weight.mul_(0.1)
                    head.bias.zero_()

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, ...]`` -> mean ``[B, dim]``, and the scale ``[B, dim]``, or its Cholesky factor ``[B, dim, dim]``."""
        hidden = self.body(data)
        weight = torch.cat([self.loc.weight, self.log_scale.weight])  # one matrix product is faster than two thin ones
        bias = torch.cat([self.loc.bias, self.log_scale.bias])
        loc, log_scale = nn.functional.linear(hidden, weight, bias).chunk(2, -1)
        scale = torch.exp(log_scale)
        if not self.full:
            return loc, scale
        factor = torch.diag_embed(scale)
        if self.below is not None:
            rows, columns = torch.tril_indices(self.dim, self.dim, -1)
            factor = factor.index_put((torch.arange(len(data))[:, None], rows, columns), self.below(hidden))
        return loc, factor


class Perceptron(nn.Sequential):
    """Layers of rectified units over a flattened datum: ``[B, ...]`` -> ``[B, hidden[-1]]``.

    Args:
        inputs: number of numbers in one datum.
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


class ConvEncoder(nn.Module):
    """Convolutions that halve an image until it is small, then a layer: ``[B, (C,) H, W]`` -> ``[B, hidden[-1]]``.

    Args:
        shape: shape of one image, ``(H, W)`` or ``(C, H, W)``.
        channels: channels of the first convolution; each halving doubles them, up to four times as many.
        hidden: widths of the layers after the convolutions.

    Example:
        >>> ConvEncoder((8, 8), 16, (32,))(torch.zeros(5, 8, 8)).shape
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
        out: torch.Tensor = self.head(self.convolutions(images.reshape(-1, *self.shape)))
        return out


class DeepSet(nn.Module):
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
        >>> deep_set, sets = DeepSet(2, 3.0, (8,)), torch.ones(5, 4, 3)
        >>> torch.allclose(deep_set(sets), deep_set(sets.flip(1)))
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
        out: torch.Tensor = self.whole(torch.cat([pooled, torch.log1p(present.sum(1))], -1))
        return out
