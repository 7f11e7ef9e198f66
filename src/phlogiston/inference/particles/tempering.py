"""Tempering from the prior to the posterior: the schedule of temperatures, resampling, and moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.densities.tempered import Tempered
from phlogiston.engine.program.isolate import spawn
from phlogiston.errors import ImpossibleEvidence, SettingError, problem
from phlogiston.inference.mcmc.random_walk import root_of
from phlogiston.inference.particles.moves import Kernel, Move, Walkers, evaluate_at
from phlogiston.inference.particles.proposals import checked
from phlogiston.stats.effective_size import weighted_size
from phlogiston.stats.weights import systematic_resample

Array = NDArray[Any]
Report = Callable[[float], None]  # told the temperature that has been reached
_GAIN, _LARGEST_CHANGE = 2.0, 0.7
_MOST_STAGES = 2000


def from_the_prior(target: Target, path: Tempered, count: int, seed: np.random.SeedSequence) -> Walkers:
    """Independent draws from the prior.

    Raises:
        ModelError: the likelihood of one is NaN or +inf; names the site.
        ImpossibleEvidence: the likelihood of all is zero.
    """
    chunks = list(checked(target, target.propose(count, seed)))
    names = [site.name for site in target.structure.continuous]
    u = target.unconstrain({name: torch.cat([chunk[name] for chunk in chunks]) for name in names})
    walkers = evaluate_at(path, np.ascontiguousarray(u.double().numpy().T), 0.0)
    if not (walkers.likelihood > -np.inf).any():
        raise ImpossibleEvidence(
            f"all {count} draws from the prior have likelihood zero: the observations cannot happen under what was "
            "drawn; check the data against the program's supports with model.check(), or use more particles"
        )
    return walkers


def next_beta(likelihood: Array, beta: float, ess: float) -> float:
    r"""The largest step of the inverse temperature that leaves the wanted fraction of effective particles.

    Solves :math:`(\sum w)^2 / (N \sum w^2) = \alpha` with :math:`w = L^{\beta' - \beta}` by bisection. With equal
    weights before, as after resampling, this is the conditional ESS. Particles without likelihood are not counted.

    Args:
        likelihood: log likelihood of the particles, ``[N]``.
        beta: where they are.
        ess: the fraction.

    References:
        Zhou, Johansen and Aston (2016), Towards automatic model comparison: an adaptive sequential Monte Carlo
        approach, https://doi.org/10.1080/10618600.2015.1060885
    """
    alive = likelihood[likelihood > -np.inf]
    logs = alive - alive.max()

    def fraction(step: float) -> float:
        return float(weighted_size(np.exp(step * logs)) / logs.size)

    if fraction(1.0 - beta) >= ess:
        return 1.0
    # With weights exp(s l), the log of the effective size has the derivative 2 (E_s[l] - E_2s[l]) in s. That is
    # negative, since the tempered mean E_s[l] grows with s, so that there is one root, which bisection finds.
    low, high = 0.0, 1.0 - beta
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fraction(middle) >= ess else (low, middle)
    return beta + max(low, 1e-12)


@dataclass(frozen=True)
class Stage:
    """A record of one step in temperature.

    Args:
        kernel: what moved the walkers after it, as it was in the end.
        log_increment: log of the mean weight of each island, ``[K]``.
        acceptance: mean acceptance of the moves after it.
    """

    kernel: Kernel
    log_increment: Array
    acceptance: float


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """Settings of the tempering from the prior to the posterior.

    Args:
        move: what moves the walkers.
        islands: groups that never exchange particles; how far they differ is what the standard error comes from.
        num_steps: moves after each step in temperature.
        waste_free: whether all states on the way of few walkers are kept, instead of the last ones of many.
        ess: fraction of effective particles that each step in temperature leaves.
        acceptance: rate that the moves' step size is adapted to; None for what suits them.
    """

    move: Move
    islands: int
    num_steps: int
    waste_free: bool
    ess: float
    acceptance: float | None

    def run(
        self, path: Tempered, walkers: Walkers, rng: np.random.Generator, report: Report
    ) -> tuple[Walkers, Array, list[Stage]]:
        """Return the walkers at beta one, by island, the acceptance of the move that led to each, and all stages.

        Raises:
            SettingError: the temperature hardly falls.
        """
        step, beta, stages = self.move.initial_step(path.dim), 0.0, list[Stage]()
        rates = np.ones(walkers.prior.size)
        while beta < 1.0:
            if len(stages) == _MOST_STAGES:
                found = f"beta = {beta:.3g} after {_MOST_STAGES} temperatures"
                raise SettingError(problem("ess", found=found, expected="a smaller fraction, or more particles"))
            new = next_beta(walkers.likelihood, beta, self.ess)
            logs = (new - beta) * walkers.likelihood.reshape(self.islands, -1)
            with np.errstate(divide="ignore"):
                increments = np.logaddexp.reduce(logs, 1) - math.log(logs.shape[1])
            ancestors = self._ancestors(logs, rng)
            root = root_of(walkers.u[:, _picked(logs.reshape(-1), rng)].T)
            beta, kernel = new, Kernel(self.move, new, root, step)
            walkers = walkers.at(ancestors)
            walkers = replace(walkers, grad=path(walkers.u, beta)[2])
            walkers, rates, kernel = self._moved(path, walkers, kernel, rng)
            step = kernel.step_size
            stages.append(Stage(kernel, increments, float(rates.mean())))
            report(beta)
        return walkers, rates, stages

    def _ancestors(self, logs: Array, rng: np.random.Generator) -> Array:
        """The indices of the resampled particles, island by island; an island of evidence zero keeps all of its own."""
        # Waste-free SMC (Dau and Chopin, 2022) resamples few ancestors and keeps all states of their chains as
        # particles: no evaluation of the density is thrown away.
        size = logs.shape[1]
        count = size // self.num_steps if self.waste_free else size
        picked = []
        for island, row in enumerate(logs):
            weights = row if row.max() > -np.inf else np.zeros(size)
            picked.append(island * size + systematic_resample(weights, count, rng))
        return np.concatenate(picked)

    def _moved(
        self, path: Tempered, walkers: Walkers, kernel: Kernel, rng: np.random.Generator
    ) -> tuple[Walkers, Array, Kernel]:
        """Apply the kernel; return all states if waste-free, else the last; adapt the step size."""
        # The step size is adapted to all particles between moves. Estimates stay consistent under such adaptation, with
        # the limiting variance of fixed kernels (Beskos, Jasra, Kantas and Thiery, 2016).
        wanted = self.acceptance or self.move.target_acceptance(path.dim)
        rate = np.ones(walkers.prior.size)
        states, rates = [walkers], [rate]
        for _ in range(self.num_steps - 1 if self.waste_free else self.num_steps):
            walkers, rate = kernel(path, walkers, rng)
            change = _GAIN * (float(rate.mean()) - wanted)
            change = math.exp(min(max(change, -_LARGEST_CHANGE), _LARGEST_CHANGE))
            kernel = replace(kernel, step_size=min(kernel.step_size * change, 4.0))
            states.append(walkers)
            rates.append(rate)
        if not self.waste_free:
            return walkers, rate, kernel
        joined, count = Walkers.joined(states), walkers.prior.size
        order = np.arange(len(states) * count).reshape(len(states), count).T.reshape(-1)  # a walker's states together
        return joined.at(order), np.concatenate(rates)[order], kernel


def _picked(logs: Array, rng: np.random.Generator) -> Array:
    """The indices of particles resampled by weight, from which a scale is learnt."""
    return systematic_resample(logs, logs.size, rng)


def seeds_for(seed: int | None) -> list[np.random.SeedSequence]:
    """Four seeds: for prior draws, for moves, for discrete latents, and for a pilot run."""
    return spawn(seed, 4)
