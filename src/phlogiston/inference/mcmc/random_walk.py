"""A block of chains under random-walk Metropolis on the continuous latents, discrete ones summed out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.chains import ChainDensity
from phlogiston.engine.densities.joint import Columns
from phlogiston.engine.densities.target import Target
from phlogiston.inference.mcmc.adaptation import StepSearch, Window, unit_scale, windows
from phlogiston.inference.mcmc.blocks import Density, Drawn, Report, State, Task
from phlogiston.inference.mcmc.gibbs import acceptance, new_stats, root_of, usual_step, wanted_acceptance
from phlogiston.inference.rng import fill_normals, fill_uniforms, streams
from phlogiston.inference.starts import starting_points

Array = NDArray[Any]


def on_the_marginal(task: Task, target: Target) -> tuple[Density, Any]:
    """The density of the continuous latents without its gradient."""
    density, unit = target.marginal(task.chains, task.calls), unit_scale("diag", target.dim, task.dtype)

    def evaluate(x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(density(x.mT.numpy())), torch.zeros_like(x)

    asked = ChainDensity(evaluate, density.engine)
    return density, lambda: starting_points(target, asked, unit, task.start, task.seed, task.chains)


@dataclass(frozen=True, kw_only=True)
class WalkBlock:
    """The sampler's settings, in the library's names."""

    num_warmup: int
    num_steps: int
    step_size: float | None
    target_accept_prob: float | None

    def unit(self, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """The scale that changes nothing."""
        return unit_scale("diag", dim, dtype)

    def begin(self, density: Columns, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, D]``, not warmed up yet."""
        u = starts.double().numpy().copy()
        return {
            "u": u,
            "lp": density(u),
            "words": streams(seeds),
            "root": np.eye(u.shape[1]),
            "step_size": np.asarray(self.step_size or usual_step(u.shape[1])),
        }

    def warm_up(self, density: Columns, state: State, report: Report) -> None:
        """Learn the step size and the covariance from all chains of the block; in place."""
        for window in windows(self.num_warmup, state["u"].shape[0]):
            self._warm_up_window(density, state, window, report)

    def _warm_up_window(self, density: Columns, state: State, window: Window, report: Report) -> None:
        chains, dim = state["u"].shape
        search = StepSearch(float(state["step_size"]), self.target_accept_prob or wanted_acceptance(dim))
        seen = np.empty((window.transitions, chains, dim))
        for t in range(window.transitions):
            state["step_size"] = np.asarray(search.step_size)
            rates = np.zeros(chains)
            for _ in range(self.num_steps):
                rates += step(density, state)[0] / self.num_steps
            search.update(float(rates.mean()))
            seen[t] = state["u"]
            report(chains, search.step_size, 0)
        state["step_size"] = np.asarray(search.average)
        if window.learns:
            state["root"] = root_of(seen[window.transitions // 4 :].reshape(-1, dim))
            state["step_size"] = np.asarray(usual_step(dim))

    def sample(self, density: Columns, state: State, num_samples: int, report: Report) -> Drawn:
        """So many draws of every chain; in place, so that the next call goes on where this one ended."""
        chains, dim = state["u"].shape
        draws, stats, done = np.empty((chains, num_samples, dim)), new_stats(chains, num_samples), 0
        try:
            for done in range(num_samples):
                take(stats, done, [step(density, state) for _ in range(self.num_steps)])
                draws[:, done], stats["lp"][:, done] = state["u"], state["lp"]
                report(chains, float(state["step_size"]), 0)
        except KeyboardInterrupt:
            return Drawn(torch.from_numpy(draws), stats, np.full(chains, done), True)
        return Drawn(torch.from_numpy(draws), stats, np.full(chains, num_samples))


Step = tuple[Array, Array, Array]  # each chain's acceptance probability, whether it moved, whether the density was NaN


def take(stats: dict[str, Array], row: int, steps: list[Step]) -> None:
    """Write the statistics of the steps of one draw down."""
    rates, moved, bad = (np.stack(column) for column in zip(*steps, strict=True))
    stats["acceptance_rate"][:, row] = rates.mean(0)
    stats["accepted"][:, row] = moved.any(0)
    stats["num_nan"][:, row] = bad.sum(0)


def step(density: Columns, state: State) -> Step:
    """One step of every chain, in place."""
    noise = np.empty_like(state["u"])
    fill_normals(state["words"], noise)
    proposed = state["u"] + float(state["step_size"]) * noise @ state["root"].T
    return decide(state, "u", proposed, density(proposed), np.zeros(len(noise)))


def decide(state: State, name: str, proposed: Array, value: Array, log_q: Array) -> Step:
    """Accept or reject each chain's proposal, in place; ``log_q`` is log q(new | old) - log q(old | new)."""
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = value - state["lp"] - log_q
    probability, uniforms = acceptance(ratio), np.empty(len(ratio))
    fill_uniforms(state["words"], uniforms)
    moved = uniforms < probability
    state[name] = np.where(moved[:, None], proposed, state[name])
    state["lp"] = np.where(moved, value, state["lp"])
    return probability, moved, np.isnan(ratio)
