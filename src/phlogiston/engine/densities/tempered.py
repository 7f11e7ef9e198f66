"""Prior and likelihood apart, for points on the way from the one to the posterior, with the gradient of the blend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.trace.batched import Batched

Array = NDArray[np.float64]


class Tempered:
    r"""``u [D, C]``, ``beta`` -> log prior ``[C]``, log likelihood ``[C]``, gradient ``[D, C]`` of the blend.

    The blend is :math:`\log p(u) + \beta \log p(x \mid u)`, with Jacobians in the prior and discrete latents summed
    out of both. Points run along the last dimension, as for chains; any number of them, in calls of ``rows``.

    Args:
        batched: the reading ``tempered``.
        dim: length of the unconstrained vector.
        rows: points of one call.
        calls: how often it will be called, roughly: whether compiling pays depends on it.
    """

    def __init__(self, batched: Batched, dim: int, rows: int, calls: int) -> None:
        self.dim, self._batched, self._rows = dim, batched, rows
        self.evaluations = 0
        self._tier: str = "loop"
        self._call: Callable[..., Any] | None = None
        if not batched.traced:
            return
        example = [torch.zeros(dim, rows, dtype=torch.float64), torch.ones((), dtype=torch.float64)]
        with isolated(seed=0, dtype=torch.float64), torch.no_grad():
            key = ("tempered", dim, rows)
            self._tier, self._call = batched.prepared(key, (-1, None), lambda mapped: mapped, example, rows, calls)

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""
        return f"{self._tier} ({self._batched.reason})" if self._batched.reason else self._tier

    def __call__(self, u: Array, beta: float) -> tuple[Array, Array, Array]:
        """Evaluate all points."""
        count = u.shape[1]
        self.evaluations += count
        parts = [self._part(u[:, first : first + self._rows], beta) for first in range(0, count, self._rows)]
        prior, likelihood, grad = (np.concatenate(values, -1) for values in zip(*parts, strict=True))
        return prior, likelihood, grad

    def _part(self, u: Array, beta: float) -> tuple[Array, Array, Array]:
        count = u.shape[1]
        if self._call is None:
            betas = torch.full((count,), beta, dtype=torch.float64)
            found = self._batched({"u": torch.from_numpy(np.ascontiguousarray(u.T)), "beta": betas}, count)
            return found["prior"].numpy(), found["likelihood"].numpy(), found["grad"].numpy().T
        columns = np.empty((self.dim, self._rows))
        columns[:, :count], columns[:, count:] = u, u[:, :1]
        with torch.no_grad():
            result = self._call(torch.from_numpy(columns), torch.tensor(beta, dtype=torch.float64))
        prior, likelihood, grad = (value.numpy()[..., :count] for value in result)
        return prior, likelihood, grad
