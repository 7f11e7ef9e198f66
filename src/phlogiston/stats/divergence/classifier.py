"""A small classifier between two samples, cross-fitted: every point is judged by a network that has not seen it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import as_int, isolated, one_thread

Array = NDArray[np.float64]

_WIDTH, _STEPS, _RATE, _DECAY = 32, 200, 0.02, 1e-2


def held_out_logits(x: Array, labels: Array, folds: int, seed: np.random.SeedSequence) -> Array:
    """Log odds that each point belongs to the second sample, by a classifier trained on the other folds.

    All folds train at once, as one batched network: two hidden layers, AdamW with decoupled decay.

    Args:
        x: points ``[N, D]``, standardised.
        labels: 0.0 or 1.0, ``[N]``, in any order; the folds get equal shares of each.
        folds: how many.
        seed: of the folds and of the networks.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    fold = np.empty(labels.size, dtype=int)
    for label in (0.0, 1.0):
        where = np.nonzero(labels == label)[0]
        fold[where] = rng.permutation(np.arange(where.size) % folds)
    points, truth = torch.from_numpy(x).float(), torch.from_numpy(labels).float()
    used = torch.from_numpy((fold[None] != np.arange(folds)[:, None]).astype(np.float32))  # [fold, N]
    with isolated(as_int(seed), torch.float32), one_thread(), torch.enable_grad():
        layers = _layers(folds, x.shape[1])
        optimiser = torch.optim.AdamW(layers, lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
        for _ in range(_STEPS):
            optimiser.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                _forward(layers, points), truth.expand(folds, -1), used, reduction="sum"
            )
            (loss / used.sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        logits = _forward(layers, points).detach().double().numpy()
    return np.asarray(logits[fold, np.arange(labels.size)])


def _layers(folds: int, dim: int) -> list[torch.Tensor]:
    sizes = [(dim, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, 1)]
    made = []
    for inputs, outputs in sizes:
        made.append((torch.randn(folds, inputs, outputs) / inputs**0.5).requires_grad_())
        made.append(torch.zeros(folds, 1, outputs, requires_grad=True))
    return made


def _forward(layers: list[torch.Tensor], points: torch.Tensor) -> torch.Tensor:
    """``points [N, D]`` -> log odds ``[fold, N]``."""
    x = points.expand(layers[0].shape[0], -1, -1)
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        x = torch.nn.functional.silu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(layers[-1], x, layers[-2]).squeeze(-1)
