"""A block of chains under Hamiltonian Monte Carlo, with one trajectory length for all, learnt from all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.chains import ChainDensity, Scale, scaled_rows
from phlogiston.engine.program.isolate import gc_paused
from phlogiston.inference.mcmc.adaptation import (
    MassMatrix,
    StepSearch,
    Tuning,
    named_scale,
    unit_scale,
)
from phlogiston.inference.mcmc.blocks import Drawn, Report, State, until_interrupted
from phlogiston.inference.mcmc.leapfrog import kick_and_drift
from phlogiston.inference.mcmc.nuts import NutsBlock
from phlogiston.inference.mcmc.trees import DIVERGENCE, Z
from phlogiston.inference.rng import Words, fill_normal, jit, streams, uniform

Array = NDArray[Any]
STATS = ("lp", "energy", "acceptance_rate", "diverging")
MAX_STEPS = 1000
_BY_TREES, _FEWEST_BY_TREES = 0.6, 30
_QUARTER = 0.5 * math.pi  # of a period of a standard normal: from the mode to its edge
_LEARNING_RATE, _DECAY = 0.1, 0.9


@jit
def draw_momenta(words: Words, momentum: Array) -> None:
    """Fill ``momentum [D, C]`` with standard normal numbers, from one stream per chain."""
    row = np.empty(momentum.shape[0], momentum.dtype)
    for c in range(momentum.shape[1]):
        fill_normal(words[c], row)
        momentum[:, c] = row


@jit
def step(x: Array, momentum: Array, grad: Array, kick: float, drift: float) -> None:
    """Kick and drift of all chains at once; all arrays are ``[D, C]``."""
    for d in range(x.shape[0]):
        kick_and_drift(x[d], momentum[d], grad[d], kick, drift)


class Points(NamedTuple):
    """Positions and gradients of C chains, ``[D, C]`` each."""

    x: Array
    grad: Array


@jit
def accept(words: Words, old: Points, new: Points, momentum: Array, lp: Array, row: Array) -> None:
    """Metropolis test of each chain: replace ``old`` by ``new`` where it is accepted.

    Args:
        words: random streams ``[C, 4]``.
        old: at the start; on return the states of the chains.
        new: at the end; unchanged.
        momentum: at the end, ``[D, C]``.
        lp: ``[3, C]``: log density at ``old`` (on return of the chains' states), at ``new``, energy at the start.
        row: statistics ``[4, C]``, filled.
    """
    dim = old.x.shape[0]
    for c in range(old.x.shape[1]):
        kinetic = 0.0
        for d in range(dim):
            kinetic += 0.5 * momentum[d, c] * momentum[d, c]
        energy = kinetic - lp[1, c]
        error = energy - lp[2, c]
        sound = -np.inf < error < DIVERGENCE  # neither does NaN pass
        rate = min(1.0, np.exp(-error)) if sound else 0.0
        taken = uniform(words[c]) < rate
        if taken:
            lp[0, c] = lp[1, c]
            for d in range(dim):
                old.x[d, c], old.grad[d, c] = new.x[d, c], new.grad[d, c]
        row[0, c], row[1, c], row[2, c], row[3, c] = lp[0, c], energy if taken else lp[2, c], rate, not sound


def halton(index: int) -> float:
    """Element of the base-two Halton sequence in (0, 1), from index one."""
    value, base = 0.0, 0.5
    while index:
        value += base * (index & 1)
        index >>= 1
        base *= 0.5
    return value


@dataclass
class TrajectoryLength:
    r"""Trajectory length by stochastic gradient ascent on the ChEES criterion.

    The criterion is the expected squared change of the squared distance from the mean,
    :math:`\frac14 E[(\lVert x' - m' \rVert^2 - \lVert x - m \rVert^2)^2]`, a proxy for the decay of the
    autocorrelation of squares. Steps are Adam's on :math:`\log T`, weighed by acceptance.

    References:
        Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
        Carlo, https://proceedings.mlr.press/v130/hoffman21a.html
    """

    log_length: float
    count: int = 0
    square: float = 0.0
    log_average: float = 0.0

    def update(self, old: Array, new: Array, momentum: Array, rate: Array, jitter: float) -> None:
        """Learn from one transition of all chains: positions ``[D, C]`` at both ends, momentum at the end, ``[C]``."""
        weight = rate / max(float(rate.sum()), 1e-12)
        sound = rate > 0.0
        if sound.sum() < 2:
            return
        before = np.square(old - old.mean(1, keepdims=True)).sum(0)
        ended = np.where(sound, new, 0.0)
        from_mean = ended - (ended * weight).sum(1, keepdims=True)
        change = np.square(from_mean).sum(0) - before
        slope = jitter * float((weight * change * (from_mean * np.where(sound, momentum, 0.0)).sum(0))[sound].sum())
        self.count += 1
        self.square = _DECAY * self.square + (1.0 - _DECAY) * slope * slope
        corrected = math.sqrt(self.square / (1.0 - _DECAY**self.count)) + 1e-30
        self.log_length += _LEARNING_RATE * min(max(slope / corrected, -3.0), 3.0) / math.sqrt(1.0 + self.count / 20.0)
        self.log_length = min(max(self.log_length, math.log(0.1)), math.log(100.0))
        self.log_average += self.count**-0.5 * (self.log_length - self.log_average)


@dataclass(frozen=True, kw_only=True)
class HmcBlock:
    """Settings of Hamiltonian Monte Carlo, as in ``ph.HMC``.

    ``length`` is a time in standardised units (None: it is learnt); ``num_steps`` overrides it.
    """

    num_warmup: int
    target_accept_prob: float
    step_size: float
    mass_matrix: MassMatrix
    length: float | None
    num_steps: int | None
    jitter: float

    def unit(self, dim: int, dtype: torch.dtype) -> Scale:
        """The scale that changes nothing."""
        return unit_scale(self.mass_matrix, dim, dtype)

    def begin(self, density: ChainDensity, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, D]``, not warmed up yet."""
        length = _QUARTER * (1.0 + self.jitter) if self.length is None else self.length
        return {
            "x": np.ascontiguousarray(starts.numpy().T),
            "words": streams(seeds),
            "step_size": np.asarray(self.step_size),
            "length": np.asarray(length),
            "transitions": np.asarray(0),
            **named_scale(self.unit(starts.shape[1], starts.dtype)),
        }

    def warm_up(self, density: ChainDensity, state: State, report: Report) -> None:
        """Bring the chains to the typical set; learn step size, scale and trajectory length; in place.

        Trees find their length by themselves, so they do the first part, and learn the scale.
        """
        by_trees = round(_BY_TREES * self.num_warmup)
        if by_trees >= _FEWEST_BY_TREES:
            trees = NutsBlock(
                num_warmup=by_trees,
                target_accept_prob=self.target_accept_prob,
                max_tree_depth=10,
                step_size=self.step_size,
                mass_matrix=self.mass_matrix,
            )
            grown = trees.continued(state["x"], state["words"])
            trees.warm_up(density, grown, report)
            state.update({name: value for name, value in grown.items() if name in state and name != "x"})
            state["x"] = np.ascontiguousarray(grown["vectors"][:, Z].T)
        run = _Run(self, density, state)
        with gc_paused():  # the first call loads machine code
            run.restart(search=self.num_warmup > 0)
        self._tune(run, self.num_warmup - by_trees, report)

    def _tune(self, run: _Run, transitions: int, report: Report) -> None:
        search = StepSearch(run.tuning.step_size, self.target_accept_prob)
        length = TrajectoryLength(math.log(run.length))
        for _ in range(transitions):
            before, fraction = run.x.copy(), run.fraction()
            row = run.transition()
            if self.length is None:
                length.update(before, run.moved, run.momentum, row[2], fraction)
                run.length = math.exp(length.log_length)
            search.update(float(np.mean(row[2])))
            run.tuning.step_size = search.step_size
            report(run.chains, run.tuning.step_size, int(row[3].sum()))
        if transitions:
            run.tuning.step_size = search.average
        if length.count:
            run.length = math.exp(length.log_average)

    def sample(self, density: ChainDensity, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""
        run = _Run(self, density, state)
        run.restart(search=False)
        draws = np.empty((num_samples, *run.x.shape), run.x.dtype)
        stats = np.zeros((num_samples, len(STATS), run.chains))
        steps = np.zeros(num_samples, np.int64)

        def draw(i: int) -> None:
            stats[i] = run.transition()
            draws[i], steps[i] = run.x, run.steps

        done, interrupted = until_interrupted(
            num_samples, draw, lambda i: report(run.chains, run.tuning.step_size, int(stats[i, 3].sum()))
        )
        rows = torch.from_numpy(np.moveaxis(draws, 2, 0).reshape(-1, run.x.shape[0]))
        u = scaled_rows(rows, run.tuning.scale).reshape(run.chains, num_samples, -1)
        named = {name: np.ascontiguousarray(stats[:, k].T) for k, name in enumerate(STATS)}
        named["diverging"] = named["diverging"].astype(bool)
        named["n_steps"] = np.tile(steps, (run.chains, 1))
        named["step_size"] = np.full((run.chains, num_samples), run.tuning.step_size)
        return Drawn(u, named, np.full(run.chains, done), interrupted)


class _Run:
    """The state of a block while it runs; its arrays change in place."""

    def __init__(self, sampler: HmcBlock, density: ChainDensity, state: State) -> None:
        self._sampler, self._state = sampler, state
        self.x, self.words = state["x"], state["words"]
        self.chains = self.x.shape[1]
        self.steps = 0
        self.moved, self.momentum = np.empty_like(self.x), np.empty_like(self.x)
        self.tuning = Tuning(density, state)
        self._lp = np.empty((3, self.chains))

    @property
    def length(self) -> float:
        return float(self._state["length"])

    @length.setter
    def length(self, value: float) -> None:
        self._state["length"] = np.asarray(value)

    def fraction(self) -> float:
        """The fraction of the trajectory length that the next transition takes."""
        return 1.0 - self._sampler.jitter * halton(int(self._state["transitions"]) + 1)

    def restart(self, *, search: bool) -> None:
        """Evaluate density and gradient at the chains' points, and choose a new step size if ``search``."""
        value, grad = self.tuning.evaluate(torch.from_numpy(self.x))
        self._lp[0], self.grad = value, grad.copy()
        if search:
            draw_momenta(self.words, self.momentum)
            self.tuning.search(self.x, value, grad, self.momentum)

    def transition(self) -> Array:
        """Advance every chain by one trajectory; return the statistics ``[len(STATS), C]``."""
        eps, fraction = self.tuning.step_size, self.fraction()
        self._state["transitions"] = self._state["transitions"] + 1
        wanted = self._sampler.num_steps or math.ceil(fraction * self.length / eps)
        self.steps = min(max(wanted, 1), MAX_STEPS)
        draw_momenta(self.words, self.momentum)
        self.moved[:] = self.x
        self._lp[2] = 0.5 * np.square(self.momentum).sum(0) - self._lp[0]
        front, grad, kick = torch.from_numpy(self.moved), self.grad, 0.5 * eps
        for _ in range(self.steps):
            step(self.moved, self.momentum, grad, kick, eps)
            value, grad = self.tuning.evaluate(front)
            kick = eps
        step(self.moved, self.momentum, grad, 0.5 * eps, 0.0)
        self._lp[1] = value
        row = np.empty((len(STATS), self.chains))
        accept(self.words, Points(self.x, self.grad), Points(self.moved, grad), self.momentum, self._lp, row)
        return row
