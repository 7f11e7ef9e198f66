"""A block of chains under Metropolis-Hastings with a proposal that the user wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.joint import Columns, flattened, unflattened
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.sites import Site
from phlogiston.errors import SettingError, did_you_mean, problem
from phlogiston.inference.joint_starts import joint_points
from phlogiston.inference.mcmc.adaptation import unit_scale
from phlogiston.inference.mcmc.blocks import Density, Drawn, Report, State, Task
from phlogiston.inference.mcmc.gibbs import new_stats
from phlogiston.inference.mcmc.random_walk import Step, decide, take
from phlogiston.inference.rng import streams

Array = NDArray[Any]
Values = dict[str, torch.Tensor]
# Values [C, *site shape] and a generator -> other values, and log q(new | old) - log q(old | new), [C].
UserProposal = Callable[[Values, np.random.Generator], tuple[Mapping[str, Any], Any]]


@dataclass(frozen=True)
class ValueDensity:
    """The joint density as a function of all latents' values, one after another: ``x [C, X]``."""

    columns: Columns
    sites: tuple[Site, ...]
    states: Mapping[str, Array]

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""
        return self.columns.engine

    def __call__(self, x: Array) -> Array:
        """Log densities ``[C]``; -inf where a discrete latent has a value that it cannot have."""
        safe, possible = x.copy(), np.ones(len(x), bool)
        start = 0
        for site in self.sites:
            stop = start + int(np.prod(site.shape))
            if site.name in self.states and stop > start:
                states = self.states[site.name]
                events = safe[:, start:stop].reshape(len(x), -1, 1, states.shape[1])
                known = (events == states).all(-1).any(-1)
                possible &= known.all(1)
                events[~known] = states[0]  # a table of probabilities has no such entry
                safe[:, start:stop] = events.reshape(len(x), -1)
            start = stop
        return np.where(possible, self.columns(safe), -np.inf)


def on_values(task: Task, target: Target) -> tuple[Density, Any]:
    """The density of the latents' values; chains begin at finite points of it."""
    sites, full = target.structure.of("latent"), target.full(task.chains, 0)
    density = ValueDensity(target.constrained(task.chains, task.calls), sites, full.states)

    def start() -> torch.Tensor:
        w = torch.from_numpy(joint_points(target, full, task.start, task.seed, task.chains))
        return flattened(sites, full.values(w), target.dtype)

    return density, start


@dataclass(frozen=True, kw_only=True)
class CustomBlock:
    """The sampler's settings, in the library's names."""

    proposal: UserProposal
    num_warmup: int
    num_steps: int

    def unit(self, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """No scale: what a proposal does is its own business."""
        return unit_scale("diag", dim, dtype)

    def begin(self, density: ValueDensity, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, X]``."""
        x, words = starts.numpy().copy(), streams(seeds)
        return {"x": x, "lp": density(x), "words": words, "own": words[:, 0].copy(), "done": np.asarray(0)}

    def warm_up(self, density: ValueDensity, state: State, report: Report) -> None:
        """Nothing is learnt; the chains forget where they began."""
        if self.num_warmup:
            self.sample(density, state, self.num_warmup, report)

    def sample(self, density: ValueDensity, state: State, num_samples: int, report: Report) -> Drawn:
        """So many draws of every chain; in place, so that the next call goes on where this one ended."""
        chains, dim = state["x"].shape
        draws, stats, done = np.empty((chains, num_samples, dim)), new_stats(chains, num_samples), 0
        try:
            for done in range(num_samples):
                take(stats, done, [self._step(density, state) for _ in range(self.num_steps)])
                draws[:, done], stats["lp"][:, done] = state["x"], state["lp"]
                report(chains, 0.0, 0)
        except KeyboardInterrupt:
            return Drawn(torch.from_numpy(draws), stats, np.full(chains, done), True)
        return Drawn(torch.from_numpy(draws), stats, np.full(chains, num_samples))

    def _step(self, density: ValueDensity, state: State) -> Step:
        words = [int(word) for word in state["own"]]
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(words, spawn_key=(int(state["done"]),))))
        state["done"] = np.asarray(state["done"] + 1)
        proposed, log_q = proposals(self.proposal, density.sites, state["x"], rng)
        return decide(state, "x", proposed, density(proposed), log_q)


def proposals(
    proposal: UserProposal, sites: tuple[Site, ...], x: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """What the user's function proposes to chains at ``x [C, X]``, with its log q(new | old) - log q(old | new).

    Raises:
        SettingError: the function returned something else, or values of another shape or name.
    """
    chains = len(x)
    values = unflattened(sites, torch.from_numpy(x.copy()))
    answer = proposal(dict(values), rng)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Mapping)):
        raise SettingError(
            problem(
                "proposal",
                found=f"a function that returned {type(answer).__name__}",
                expected="(new values by site, log q(new | old) - log q(old | new))",
                fix="return {...}, 0.0",
            )
        )
    for name, value in answer[0].items():
        if name not in values:
            raise SettingError(f"proposal: found site {name!r}; {did_you_mean(name, values)}")
        tensor = torch.as_tensor(value)
        if tensor.shape != values[name].shape:
            expected = f"shape {tuple(values[name].shape)}, chains first"
            raise SettingError(
                problem(f"proposal, site {name!r}", found=f"shape {tuple(tensor.shape)}", expected=expected)
            )
        values[name] = tensor
    log_q = torch.as_tensor(answer[1]).double()
    if tuple(log_q.shape) not in ((), (chains,)):
        raise SettingError(
            problem(
                "proposal, log ratio", found=f"shape {tuple(log_q.shape)}", expected=f"a number, or shape ({chains},)"
            )
        )
    return flattened(sites, values, torch.float64).numpy(), log_q.expand(chains).numpy()


def values_of_latents(target: Target, x: torch.Tensor, seed: np.random.SeedSequence, before: Any) -> Values:
    """Draws ``x [C, n, X]`` as latents and deterministics, after those drawn before."""
    found = unflattened(target.structure.of("latent"), x)
    found.update(target.deterministics(found))
    return {name: torch.cat([before[name], value], 1) if before else value for name, value in found.items()}
