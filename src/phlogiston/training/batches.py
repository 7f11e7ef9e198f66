"""The order in which minibatches take the rows of the data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from phlogiston.engine.program.isolate import generator


def child(seed: np.random.SeedSequence, *key: int) -> np.random.SeedSequence:
    """The descendant of a seed with this key, always the same one (``SeedSequence.spawn`` counts its calls)."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key))


@dataclass(frozen=True, eq=False)
class Batches:
    """Minibatches in an order of its own for each epoch; the batch of a step depends on the step alone.

    Args:
        rows: number of rows N.
        size: rows in a batch.
        seed: the seed of all orders.
        key: what follows the number of the epoch in the key of its seed.
        drops_last: whether an epoch leaves out the rows that do not fill a batch; otherwise its last batch is shorter.

    Example:
        >>> batches = Batches(5, 2, np.random.SeedSequence(0))
        >>> [len(batches.at(step)) for step in range(4)]
        [2, 2, 1, 2]
    """

    rows: int
    size: int
    seed: np.random.SeedSequence
    key: tuple[int, ...] = ()
    drops_last: bool = False
    _latest: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.rows // self.size if self.drops_last else -(-self.rows // self.size)

    def epoch(self, number: int) -> tuple[torch.Tensor, np.random.Generator]:
        """All rows in the order of one epoch, and the generator that drew the order, for more draws of that epoch."""
        rng = generator(child(self.seed, number, *self.key))
        return torch.from_numpy(rng.permutation(self.rows)), rng

    def at(self, step: int) -> torch.Tensor:
        """The rows of the batch of one step."""
        number, inside = divmod(step, self.per_epoch)
        if number not in self._latest:
            self._latest.clear()
            self._latest[number] = self.epoch(number)[0]
        return self._latest[number][inside * self.size : (inside + 1) * self.size]
