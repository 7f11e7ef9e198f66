"""Annealed importance sampling of each datum's likelihood, from its guide to its posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from phlogiston.engine.program.isolate import as_int, isolated, spawn
from phlogiston.engine.trace.graph import batch_by
from phlogiston.stats.leapfrog import leapfrogs
from phlogiston.training.evaluate.pairs import PAIRS, Encoded, chunks_of

_PILOTS = 8  # draws a datum from which step sizes are learned
_FIRST, _WANTED, _GAIN = 0.5, 0.8, 1.0  # step size, acceptance, and how fast the one follows the other
_QUARTER, _MOST_LEAPFROGS = 0.5 * math.pi, 16
# rows, means, scales and points -> log p(x, z) - log q(z | x), and its gradient by the points
Density = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class _State:
    """Chains of some data: where they are, ``[S, B, dim]``, and what is known there.

    Densities are those of the standardised coordinates ``e`` of the guide, in which it is a standard normal.
    """

    e: torch.Tensor
    log_w: torch.Tensor  # log p(x, z) - log q(z | x), [S, B]
    slope: torch.Tensor  # of that by e

    def value(self, beta: float) -> torch.Tensor:
        """The log of q^(1 - beta) p^beta."""
        return beta * self.log_w - 0.5 * self.e.square().sum(-1)

    def force(self, beta: float) -> torch.Tensor:
        """Its gradient."""
        return beta * self.slope - self.e


def annealed_weights(
    encoded: Encoded, num_samples: int, num_steps: int, seed: np.random.SeedSequence
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Chunk by chunk of data: their numbers ``[B]``, and the log weight of each chain, ``[num_samples, B]``.

    Each datum's chains start at its guide and go to its posterior in ``num_steps`` steps, each density on the way kept
    by a Hamiltonian trajectory. Step sizes are a pilot's: a move must not depend on where its chain was.
    """
    chunks = chunks_of(encoded.count, PAIRS // min(num_samples, 64))
    betas = [t / num_steps for t in range(num_steps + 1)]
    densities: dict[tuple[int, int], Density] = {}
    for rows, own in zip(chunks, spawn(seed, len(chunks)), strict=True):
        with isolated(as_int(own), torch.float32), torch.no_grad():
            path = _Path(encoded, rows, *encoded.parameters(rows), densities)
            _, sizes = path.run(_PILOTS, betas, None)
            step = max(1, PAIRS // len(rows))
            counts = [min(step, num_samples - start) for start in range(0, num_samples, step)]
            found = [path.run(count, betas, sizes)[0] for count in counts]
        yield rows, torch.cat(found)


@dataclass(frozen=True)
class _Path:
    """From the guide to the posterior, for some data at once."""

    encoded: Encoded
    rows: torch.Tensor
    loc: torch.Tensor
    scale: torch.Tensor
    densities: dict[tuple[int, int], Density]

    def run(
        self, draws: int, betas: list[float], sizes: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Log weights ``[draws, B]``, and each density's step sizes ``[B]``: as given, or adapted on the way."""
        state = self.at(torch.randn(draws, *self.loc.shape))
        total = torch.zeros(draws, len(self.rows), dtype=torch.float64)
        size, used = torch.full((len(self.rows),), _FIRST), list[torch.Tensor]()
        for number, (before, beta) in enumerate(itertools.pairwise(betas)):
            total = total + (beta - before) * state.log_w.double()
            if beta == 1.0:
                break
            size = size if sizes is None else sizes[number]
            state, rate = self.moved(state, beta, size)
            if sizes is None:
                size = (size * torch.exp(_GAIN * (rate.mean(0) - _WANTED))).clamp(1e-4, 2.0)
            used.append(size)
        return total, used

    def moved(self, state: _State, beta: float, size: torch.Tensor) -> tuple[_State, torch.Tensor]:
        """One trajectory of every chain, and the probability that it was taken, ``[S, B]``."""
        wide = size[:, None]
        momentum = torch.randn_like(state.e)
        length = _QUARTER * (0.5 + 0.5 * float(torch.rand(())))
        steps = min(max(math.ceil(length / float(size.median())), 1), _MOST_LEAPFROGS)
        start = state.value(beta) - 0.5 * momentum.square().sum(-1)

        def at(e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _State]:
            now = self.at(e)
            return e, now.force(beta), now

        now, momentum = leapfrogs(state.e, momentum, state.force(beta), wide, steps, at)
        gain = now.value(beta) - 0.5 * momentum.square().sum(-1) - start
        rate = torch.exp(torch.nan_to_num(gain, nan=-torch.inf).clamp_max(0.0))
        taken = torch.rand_like(rate) < rate
        parts = zip((now.e, now.log_w, now.slope), (state.e, state.log_w, state.slope), strict=True)
        return _State(*(torch.where(taken if a.ndim == 2 else taken[..., None], a, b) for a, b in parts)), rate

    def at(self, e: torch.Tensor) -> _State:
        """Points, and what is known there."""
        given, shape = (self.rows, self.loc, self.scale, e), (e.shape[0], e.shape[1])
        if shape not in self.densities:
            self._density(*given)  # traces the program, which is not to happen while that is traced in its turn
            self.densities[shape] = batch_by(lambda *tensors: self._density(*tensors), list(given))
        log_w, slope = self.densities[shape](*given)
        return _State(e, log_w, torch.nan_to_num(slope))

    def _density(
        self, rows: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, e: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = e.detach().requires_grad_()
        with torch.enable_grad():
            log_w = self.encoded.at_noise(rows, loc, scale, leaf)
            (slope,) = torch.autograd.grad(log_w.sum(), leaf)
        return log_w.detach(), slope
