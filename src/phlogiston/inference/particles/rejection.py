"""The accept step of rejection sampling, and a bound for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import spawn
from phlogiston.inference.particles.proposals import checked

Values = dict[str, torch.Tensor]


@dataclass
class Accepted:
    """What rejection sampling has accepted so far, under a bound that may rise.

    A draw accepted with probability L/M stays, when M rises to M', with probability M/M': its total
    probability is L/M', as it should be.
    """

    bound: float
    may_rise: bool
    attempts: int = 0
    count: int = 0
    rises: int = 0
    _kept: list[Values] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Accepted draws per attempt."""
        return self.count / max(self.attempts, 1)

    def add(self, chunk: Values, rng: np.random.Generator) -> float | None:
        """Accept or reject each draw of a chunk; returns a log likelihood above a bound that may not rise."""
        log_likelihood = chunk["log_weight"].double()
        highest = float(log_likelihood.max())
        if highest > self.bound + 1e-9:
            if not self.may_rise:
                return highest
            self._raise_to(highest, rng)
        level = self.bound + torch.from_numpy(np.log(rng.random(log_likelihood.shape[0])))
        passed = level < log_likelihood
        self.attempts += log_likelihood.shape[0]
        self.count += int(passed.sum())
        self._kept.append({name: value[passed] for name, value in chunk.items() if name != "log_weight"})
        return None

    def _raise_to(self, bound: float, rng: np.random.Generator) -> None:
        probability = math.exp(self.bound - bound)
        thinned = []
        for chunk in self._kept:
            size = next(iter(chunk.values())).shape[0]
            stays = torch.from_numpy(rng.random(size) < probability)
            thinned.append({name: value[stays] for name, value in chunk.items()})
        self._kept = thinned
        self.count = sum(next(iter(chunk.values())).shape[0] for chunk in thinned)
        self.rises += bool(self.attempts)
        self.bound = bound

    def values(self, limit: int) -> Values:
        """The first ``limit`` accepted draws."""
        return {name: torch.cat([chunk[name] for chunk in self._kept])[:limit] for name in self._kept[0]}


def likelihood_bound(target: Target, seed: np.random.SeedSequence, *, draws: int = 8192, starts: int = 32) -> float:
    """The largest log likelihood that a search finds.

    Over discrete latents the maximum is an upper bound, proven by enumeration. Over continuous ones it is the highest
    found by climbing from the best prior draws; ``Accepted`` raises it where a draw exceeds it.
    """
    proposing, _ = spawn(seed, 2)
    chunks = list(checked(target, target.propose(draws, proposing)))
    log_likelihood = torch.cat([chunk["log_weight"] for chunk in chunks])
    best, structure = float(log_likelihood.max()), target.structure
    if any(not site.enumerable for site in structure.discrete) or not math.isfinite(best):
        return best
    if not target.dim:
        return max(best, float(target.likelihood_and_grad(torch.zeros(1, 0, dtype=target.dtype))[0]))
    top = log_likelihood.topk(min(starts, draws)).indices
    values = {site.name: torch.cat([c[site.name] for c in chunks])[top] for site in structure.continuous}
    return max(best, _climb(target, target.unconstrain(values)))


def _climb(target: Target, u: torch.Tensor, steps: int = 400) -> float:
    """The highest log likelihood on the way of ``steps`` Adam steps from each of several points."""
    u = u.clone()
    optimizer = torch.optim.Adam([u], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    highest = -math.inf
    for _ in range(steps):
        value, grad = target.likelihood_and_grad(u)
        finite = torch.isfinite(value) & torch.isfinite(grad).all(-1)
        if not finite.any():
            break
        highest = max(highest, float(value[finite].max()))
        u.grad = torch.where(finite[:, None], -grad, torch.zeros(()).to(grad))
        optimizer.step()
        schedule.step()
    return highest
