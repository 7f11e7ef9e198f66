"""Draws that count the same and hardly depend on each other."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.stats import arviz

Array = NDArray[np.float64]


def worth(values: Array) -> float:
    """How many independent draws those of chains are worth, ``[chain, draw, K]``, at the worst component."""
    moving = values[..., values.reshape(-1, values.shape[-1]).std(0) > 0.0]
    if values.shape[1] < 4:
        return float(values.shape[0] * values.shape[1])
    sizes = arviz.ess(moving, "bulk")
    found = sizes[np.isfinite(sizes)]
    return float(found.min()) if found.size else 0.0


def spread(total: int, count: int) -> torch.Tensor:
    """So many of ``total`` rows, as far apart as can be."""
    return torch.from_numpy(np.linspace(0, total - 1, count).round().astype(np.int64))
