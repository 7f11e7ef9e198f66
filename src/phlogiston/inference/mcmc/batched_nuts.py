"""The No-U-Turn sampler on many data sets at once: every chain has its data, every data set its scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from phlogiston.engine.densities.chains import ChainDensity, Scale
from phlogiston.engine.densities.per_dataset import Replicated
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import ModelError
from phlogiston.inference.mcmc.blocks import Drawn
from phlogiston.inference.mcmc.nuts import NutsBlock
from phlogiston.inference.rng import Words, streams
from phlogiston.inference.starts import Start, named
from phlogiston.stats.leapfrog import leapfrogs

_TRIES, _DOUBLINGS = 100, 60


@dataclass(frozen=True)
class Replicates:
    """Draws ``u [S, chains, n, D]``, and the fraction of divergent ones of each data set, ``[S]``."""

    u: torch.Tensor
    diverging: np.ndarray
    engine: str


def sample_replicates(
    target: Target,
    replicated: Replicated,
    sampler: NutsBlock,
    data: dict[str, torch.Tensor],
    chains: int,
    num_samples: int,
    start: tuple[Start, np.random.SeedSequence],
) -> Replicates:
    """Sample the posterior of every data set.

    Each data set has its own warm-up: centre, widths and step size from its own chains, folded into the
    coordinates, so that one step size of one serves them all.

    Args:
        target: the model's densities, from which chains start.
        replicated: the same program with data as inputs.
        sampler: its settings; a diagonal scale.
        data: ``[S, *site shape]`` by site.
        chains: per data set.
        num_samples: draws per chain.
        start: how chains begin, and the seed of everything.
    """
    count, dim = next(iter(data.values())).shape[0], replicated.dim
    starting, running, searching = spawn(start[1], 3)
    rows = {name: value.repeat_interleave(chains, 0) for name, value in data.items()}
    unit = sampler.unit(dim, replicated.dtype)
    scaled = replicated.chains(rows, unit, 8 * (sampler.num_warmup + num_samples))
    flat = torch.zeros(dim, count * chains, dtype=replicated.dtype)
    points = _starts(target, scaled(flat, flat + 1.0), unit, start[0], starting, count * chains)
    run = _Warmup(scaled, unit, sampler, count, chains, generator(searching))
    run.begin(points, streams(spawn(running, count * chains)))
    for transitions, depth, learns in _rounds(sampler.num_warmup):
        run.round(transitions, depth, learns=learns)
    drawn = run.sample(num_samples, sampler.max_tree_depth)
    diverging = drawn.stats["diverging"].reshape(count, -1).mean(1)
    u = run.centre.mT[:, None] + run.effective.mT[:, None] * drawn.u
    return Replicates(u.reshape(count, chains, num_samples, dim), diverging, run.density.engine)


def _rounds(num_warmup: int) -> list[tuple[int, int, bool]]:
    """Transitions, largest depth and whether widths are learnt, of each round: ever longer, then three for the step."""
    last = max(5, num_warmup // 20)
    left, size = num_warmup - 3 * last, 6
    rounds: list[tuple[int, int, bool]] = []
    while left > 0:
        size = left if left < 3 * size else size
        rounds.append((size, min(10, 5 + len(rounds)), True))
        left -= size
        size = size + size // 2
    return [*rounds, *[(last, 10, False)] * 3]


class _Warmup:
    """Centres, widths and steps of every data set, and where the chains are."""

    def __init__(
        self,
        scaled: Callable[[torch.Tensor, torch.Tensor], ChainDensity],
        unit: Scale,
        sampler: NutsBlock,
        count: int,
        chains: int,
        rng: np.random.Generator,
    ) -> None:
        self._scaled, self._unit, self._sampler = scaled, unit, sampler
        self._count, self._chains, self._rng = count, chains, rng

    def begin(self, points: torch.Tensor, words: Words) -> None:
        """Chains at ``points [C, D]``."""
        self._u, self._words = points.mT.contiguous(), words
        self.centre, self._width = torch.zeros_like(self._u), torch.ones_like(self._u)
        self._log_step = torch.zeros(self._count, dtype=self._u.dtype)
        self._search()

    @property
    def effective(self) -> torch.Tensor:
        """Widths times steps, ``[D, C]``."""
        return self._width * self._log_step.exp().repeat_interleave(self._chains)

    @property
    def density(self) -> ChainDensity:
        """The density in the current coordinates."""
        return self._scaled(self.centre, self.effective)

    def sample(self, transitions: int, depth: int) -> Drawn:
        """Draw states of every chain, in the current coordinates."""
        depth = min(depth, self._sampler.max_tree_depth)
        block = replace(self._sampler, num_warmup=0, max_tree_depth=depth, step_size=1.0, relocates=False)
        density = self.density
        state = block.continued(((self._u - self.centre) / self.effective).numpy(), self._words)
        block.warm_up(density, state, _silent)
        drawn = block.sample(density, state, transitions, _silent)
        self._words = state["words"]
        self._u = (self.centre + self.effective * drawn.u[:, -1].mT).contiguous()
        return drawn

    def round(self, transitions: int, depth: int, *, learns: bool) -> None:
        """Run ``transitions`` transitions, and learn centres and widths, or else the step sizes, from them."""
        drawn = self.sample(transitions, depth)
        rate = torch.from_numpy(drawn.stats["acceptance_rate"]).reshape(self._count, -1).mean(1)
        if not learns:
            wanted = _spread(torch.tensor(self._sampler.target_accept_prob, dtype=rate.dtype))
            factor = (wanted / _spread(rate.clamp(0.01, 0.99))).sqrt()
            self._log_step = self._log_step + factor.clamp(0.3, 3.0).log()
            return
        seen = self.centre.mT[:, None] + self.effective.mT[:, None] * drawn.u
        seen = seen[:, transitions // 3 :].reshape(self._count, -1, seen.shape[-1])
        n = seen.shape[1]
        variance = (n * seen.var(1) + 5e-3) / (n + 5.0)
        self.centre = seen.mean(1).repeat_interleave(self._chains, 0).mT.contiguous()
        self._width = variance.sqrt().repeat_interleave(self._chains, 0).mT.contiguous()
        self._log_step = torch.zeros_like(self._log_step)
        self._search()

    def _search(self) -> None:
        """Double or halve each data set's step until one leapfrog crosses the acceptance wanted."""
        momentum = torch.from_numpy(self._rng.standard_normal(tuple(self._u.shape)))
        sign = torch.zeros_like(self._log_step)
        for _ in range(_DOUBLINGS):
            up = self._one_step(momentum) > self._sampler.target_accept_prob
            now = torch.where(up, 1.0, -1.0).to(sign.dtype)
            sign = torch.where(sign == 0.0, now, torch.where(now == sign, sign, torch.nan))
            if sign.isnan().all():
                return
            self._log_step = self._log_step + math.log(2.0) * sign.nan_to_num(0.0)
        return

    def _one_step(self, momentum: torch.Tensor) -> torch.Tensor:
        """Acceptance of one leapfrog, the mean over the chains of each data set, ``[S]``."""
        density = self.density
        x = (self._u - self.centre) / self.effective

        def at(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            value, grad = density.evaluate(x.contiguous(), *self._unit)
            return x, grad, value

        _, grad, value = at(x)
        after, end = leapfrogs(x, momentum, grad, 1.0, 1, at)
        gained = after - value + 0.5 * (momentum.square().sum(0) - end.square().sum(0))
        rate = gained.nan_to_num(-math.inf, -math.inf, -math.inf).clamp_max(0.0).exp()
        mean: torch.Tensor = rate.reshape(self._count, -1).mean(1)
        return mean


def _spread(rate: torch.Tensor) -> torch.Tensor:
    """Normal energy errors accepted at this rate have a spread in proportion to it (see ``StepSearch``)."""
    quantile: torch.Tensor = torch.special.ndtri(1.0 - 0.5 * rate)
    return quantile


def _silent(transitions: int, step_size: float, divergences: int) -> None:
    """Report nothing."""


def _starts(
    target: Target, density: ChainDensity, unit: Scale, start: Start, seed: np.random.SeedSequence, chains: int
) -> torch.Tensor:
    """A point with a finite density and gradient for each chain, ``[C, D]``."""
    propose = named(target, start)
    points = torch.full((chains, target.dim), torch.nan, dtype=target.dtype)
    wanted = torch.ones(chains, dtype=torch.bool)
    for attempt in spawn(seed, _TRIES):
        points[wanted] = propose(attempt, chains).to(target.dtype)[wanted]
        value, grad = density.evaluate(points.mT.contiguous(), *unit)
        wanted = ~(torch.isfinite(value) & torch.isfinite(grad).all(0))
        if not wanted.any():
            return points
    raise ModelError(target.explain_no_start(points[wanted][0]))
