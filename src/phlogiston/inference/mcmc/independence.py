"""A block of chains under Metropolis-Hastings with proposals that do not depend on where a chain is.

Proposals and their weights, p(x, z) / q(z), are made in bulk; a step compares two weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.joint import Columns, flattened
from phlogiston.engine.densities.target import Target
from phlogiston.errors import ImpossibleEvidence, SettingError, problem
from phlogiston.inference.mcmc.adaptation import unit_scale
from phlogiston.inference.mcmc.blocks import Density, Drawn, Report, State, Task
from phlogiston.inference.mcmc.gibbs import new_stats
from phlogiston.inference.mcmc.random_walk import Step, take
from phlogiston.inference.particles.proposals import Proposal
from phlogiston.inference.rng import Words, jit, streams, uniform
from phlogiston.model.model import Model

Array = NDArray[Any]
_STEPS = 256  # of all chains, made at a time
Source = Callable[[Model, Any], Proposal]


@dataclass
class Pool:
    """Weighted proposals, so many steps of all chains at a time; a number gives the same ones always."""

    proposal: Proposal
    joint: Columns
    sites: tuple[Any, ...]
    chains: int
    seed: np.random.SeedSequence
    dtype: torch.dtype

    @property
    def engine(self) -> str:
        """The tier that made the last ones."""
        return self.proposal.engine()

    def number(self, i: int) -> tuple[Array, Array, Array]:
        """Proposals ``[steps, C, X]``, their log weights and their log joint densities ``[steps, C]``."""
        seed = np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, i))
        chunks = list(self.proposal.draw(_STEPS * self.chains, seed))
        x = torch.cat([flattened(self.sites, chunk, self.dtype) for chunk in chunks])
        weights = torch.cat([chunk["log_weight"] for chunk in chunks])
        shape = (_STEPS, self.chains)
        return (
            x.reshape(*shape, -1).numpy(),
            weights.reshape(shape).double().numpy(),
            self.joint(x.numpy()).reshape(shape),
        )


@dataclass(frozen=True)
class OnPool:
    """The setup of a block: a pool of proposals; chains begin at the first that are possible."""

    source: Source

    def __call__(self, task: Task, target: Target) -> tuple[Density, Any]:
        """The pool, and what finds the first points."""
        if isinstance(task.start, Mapping):
            raise SettingError(
                problem("initial", found="values by site", expected="a name, as independent proposals start the chains")
            )
        sites = target.structure.of("latent")
        joint = target.constrained(_STEPS * task.chains, max(1, task.calls // _STEPS))
        pool = Pool(self.source(task.model, task.engine), joint, sites, task.chains, task.seed, task.dtype)
        return pool, lambda: torch.from_numpy(_first(pool))


def _first(pool: Pool) -> Array:
    """The first possible proposal of each chain with its log weight and log joint density, ``[C, X + 2]``."""
    x, weights, joint = pool.number(0)
    possible = np.isfinite(weights)
    if not possible.any(0).all():
        raise ImpossibleEvidence(
            f"mh: none of {_STEPS} proposals has a finite density; "
            "propose from something closer to the posterior, or write: proposal='random_walk'"
        )
    rows, chains = possible.argmax(0), np.arange(pool.chains)
    return np.concatenate([x[rows, chains], weights[rows, chains, None], joint[rows, chains, None]], 1)


@dataclass(frozen=True, kw_only=True)
class IndependenceBlock:
    """The sampler's settings, in the library's names."""

    num_warmup: int
    num_steps: int

    def unit(self, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """No scale."""
        return unit_scale("diag", dim, dtype)

    def begin(self, density: Pool, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, X + 2]``, the last columns their log weights and densities."""
        x, weight, lp = np.split(starts.numpy().copy(), [-2, -1], 1)
        held = {"x": x.copy(), "weight": weight[:, 0].copy(), "lp": lp[:, 0].copy()}
        return {**held, "words": streams(seeds), "done": np.asarray(_STEPS)}

    def warm_up(self, density: Pool, state: State, report: Report) -> None:
        """Nothing is learnt; the chains forget where they began."""
        if self.num_warmup:
            self.sample(density, state, self.num_warmup, report)

    def sample(self, density: Pool, state: State, num_samples: int, report: Report) -> Drawn:
        """So many draws of every chain; in place, so that the next call goes on where this one ended."""
        chains, dim = state["x"].shape
        draws, stats = np.empty((chains, num_samples, dim)), new_stats(chains, num_samples)
        number, done = -1, 0
        try:
            for done in range(num_samples):
                steps = []
                for _ in range(self.num_steps):
                    at, row = divmod(int(state["done"]), _STEPS)
                    if at != number:
                        number, (x, weights, joint) = at, density.number(at)
                    steps.append(compare(state, x[row], weights[row], joint[row]))
                    state["done"] = np.asarray(state["done"] + 1)
                take(stats, done, steps)
                draws[:, done], stats["lp"][:, done] = state["x"], state["lp"]
                report(chains, 0.0, 0)
        except KeyboardInterrupt:
            return Drawn(torch.from_numpy(draws), stats, np.full(chains, done), True)
        return Drawn(torch.from_numpy(draws), stats, np.full(chains, num_samples))


def compare(state: State, proposed: Array, weights: Array, joint: Array) -> Step:
    """One step of every chain, in place."""
    probability, moved, bad = np.empty(len(weights)), np.empty(len(weights), bool), np.empty(len(weights), bool)
    _compare(state["words"], state["weight"], weights, probability, moved, bad)
    state["x"] = np.where(moved[:, None], proposed, state["x"])
    state["lp"] = np.where(moved, joint, state["lp"])
    return probability, moved, bad


@jit
def _compare(words: Words, held: Array, weights: Array, probability: Array, moved: Array, bad: Array) -> None:
    for c in range(held.shape[0]):
        bad[c] = np.isnan(weights[c])
        probability[c] = 0.0 if bad[c] else min(1.0, np.exp(weights[c] - held[c]))
        moved[c] = uniform(words[c]) < probability[c]
        if moved[c]:
            held[c] = weights[c]
