"""Encoder: from a datum to the parameters of a normal over its latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

_FAR = 5.0  # units of spread: a feature that hardly varied must not drown the others where it does


class Standardise(nn.Module):
    """Numbers in units of their spread: ``(data - loc) / scale``, ``[B, ...]`` -> ``[B, ...]``; a spread of 0 is 1.

    Five units from the mean is as far as a number goes.
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
        weight = torch.cat([self.loc.weight, self.log_scale.weight])  # one product in the place of two thin ones
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
