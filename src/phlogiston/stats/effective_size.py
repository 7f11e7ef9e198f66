"""How many independent draws of equal weight would say as much as given draws do."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.stats import arviz

Array = NDArray[np.float64]


def effective_size(chains: Array, *, tails: bool = False) -> float:
    """Smallest effective sample size among the components of chains.

    Args:
        chains: ``[chain, draw, K]``. Components that never change are left out.
        tails: whether the effective sizes of the 5 % and 95 % quantiles count beside that of the bulk.

    Returns:
        the size; 0 where no component has one, and the number of draws where chains are shorter than four draws.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), https://arxiv.org/abs/1903.08008

    Example:
        >>> bool(effective_size(np.random.default_rng(0).standard_normal((4, 1000, 2))) > 3000.0)
        True
    """
    if chains.shape[1] < 4:
        return float(chains.shape[0] * chains.shape[1])
    moving = chains[..., chains.reshape(-1, chains.shape[-1]).std(0) > 0.0]
    sizes = np.concatenate([arviz.ess(moving, method) for method in (("bulk", "tail") if tails else ("bulk",))])
    sizes = sizes[np.isfinite(sizes)]
    return float(sizes.min()) if sizes.size else 0.0


def weighted_size(weights: Array, axis: int | None = None) -> Array:
    r"""Effective size of weighted draws, :math:`(\sum w)^2 / \sum w^2` (Kish, 1965).

    Args:
        weights: non-negative, of any shape; they need not sum to one.
        axis: along which the draws lie; by default all weights belong to one set of draws.

    Example:
        >>> float(weighted_size(np.array([1.0, 1.0, 0.0])))
        2.0
    """
    return np.asarray(np.square(weights.sum(axis)) / np.square(weights).sum(axis))


def evenly_spaced(total: int, count: int) -> torch.Tensor:
    """Indices of ``count`` of ``total`` rows, as far apart as possible."""
    return torch.from_numpy(np.linspace(0, total - 1, count).round().astype(np.int64))
