"""A block of chains under the No-U-Turn sampler: warm-up learnt together, then every chain on its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.chains import ChainDensity, Scale, scaled, scaled_rows, unscaled, unscaled_back
from phlogiston.engine.program.isolate import gc_paused
from phlogiston.inference.mcmc.adaptation import (
    MANY_CHAINS,
    MassMatrix,
    StepSearch,
    Tuning,
    Window,
    learnt_scale,
    named_scale,
    unit_scale,
    windows,
)
from phlogiston.inference.mcmc.blocks import Drawn, Report, State
from phlogiston.inference.mcmc.native_trees import advance_until
from phlogiston.inference.mcmc.precompile import Wait
from phlogiston.inference.mcmc.trees import (
    COUNT,
    FILLED,
    LP,
    STATS,
    STEP_FACTOR,
    STUCK_RATE,
    Rows,
    Trees,
    Z,
    advance,
    new_trees,
    start_transitions,
)
from phlogiston.inference.rng import Words, fill_normals, streams

Array = NDArray[Any]
# Kernels that call the density themselves return to Python, which hears Ctrl-C, after so many leapfrogs at first, and
# after twice as many whenever they took less than so many seconds.
_FIRST_LEAPFROGS, _MOST_LEAPFROGS, _SECONDS_UNHEARD = 64, 2**20, 0.1
_APPROACH = 0.5  # of warm-up at most, to find the typical set
_INTEGER, _BOOLEAN = ("n_steps", "tree_depth"), ("diverging", "reached_max_treedepth")


@dataclass(frozen=True, kw_only=True)
class NutsBlock:
    """Settings of the No-U-Turn sampler, as in ``ph.NUTS``.

    ``relocates``: whether warm-up may move stuck chains to the positions of others, which must have the same density.
    ``ready``: waits until the trees' machine code is there, if another process compiles it.
    """

    num_warmup: int
    target_accept_prob: float
    max_tree_depth: int
    step_size: float
    mass_matrix: MassMatrix
    relocates: bool = True
    ready: Wait | None = None

    def unit(self, dim: int, dtype: torch.dtype) -> Scale:
        """The scale that changes nothing."""
        return unit_scale(self.mass_matrix, dim, dtype)

    def begin(self, density: ChainDensity, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, D]``, not warmed up yet."""
        return self.continued(starts.numpy().T, streams(seeds))

    def continued(self, x: Array, words: Words) -> State:
        """Chains at ``x [D, C]`` that continue the random streams of another sampler."""
        trees = new_trees(words, x.shape[0], self.max_tree_depth, x.dtype)
        trees.front[:] = x
        unit = self.unit(x.shape[0], torch.from_numpy(x).dtype)
        return {
            **trees._asdict(),
            **named_scale(unit),
            "step_size": np.asarray(self.step_size),
            "relocated": np.asarray(0),
        }

    def warm_up(self, density: ChainDensity, state: State, report: Report) -> None:
        """Bring the chains to the typical set and learn step size and scale from all of them; in place."""
        run = _Run(density, state)
        if self.ready is not None:
            self.ready()
        with gc_paused():  # the first call loads machine code
            run.restart(search=self.num_warmup > 0)
        approached = self._approach(run, report) if run.chains >= MANY_CHAINS else 0
        for window in windows(self.num_warmup - approached, run.chains):
            self._warm_up_window(run, window, report)
            run.restart(search=window.learns)

    def _approach(self, run: _Run, report: Report) -> int:
        """Run very short windows, each with a new scale and larger trees, until the density no longer rises.

        Returns the number of transitions.
        """
        taken, before, depth = 0, -math.inf, 5
        while taken < _APPROACH * self.num_warmup - 8:
            window = Window(8 if taken else 4, True, depth)
            self._warm_up_window(run, window, report)
            run.restart(search=True)
            taken, depth = taken + window.transitions, depth + 1
            now = float(np.median(run.trees.reals[:, LP]))
            if taken > 4 and now - before < 1.0 + math.sqrt(0.5 * run.trees.front.shape[0]):
                break
            before = now
        return taken

    def _warm_up_window(self, run: _Run, window: Window, report: Report) -> None:
        trees, depth = run.trees, min(window.max_depth, self.max_tree_depth)
        rows = run.rows(2 * window.transitions, with_grads=True)
        search = StepSearch(run.tuning.step_size, self.target_accept_prob)
        done, ended, num_counted, accepted, diverged = 0, 0, 0, 0.0, 0
        wanted = window.transitions * run.chains
        while done < wanted:
            by_all = not done
            until = max(1, run.chains - ended)
            n, at_common_step, rate, bad = run.advance(search.step_size, depth, rows, until, by_all=by_all)
            ended, num_counted = ended + n, num_counted + at_common_step
            accepted, diverged = accepted + rate, diverged + bad
            # Update the step size once per round, after every chain has finished a transition. Short trajectories
            # finish first and have the worst acceptance rates, so updating as chains finish would bias it.
            if ended >= run.chains and (done or trees.ints[:, COUNT].min() > 0):
                search.update(accepted / num_counted if num_counted else 0.0)
                report(min(ended, wanted - done), search.step_size, diverged)
                done, ended, num_counted, accepted, diverged = done + ended, 0, 0, 0.0, 0
        run.tuning.step_size = search.average
        lost = run.relocate() if window.learns and self.relocates else np.empty(0, int)
        at = scaled(torch.from_numpy(trees.vectors[:, Z].T), run.tuning.scale)
        if window.learns:
            count = trees.ints[:, FILLED, None]
            row = np.arange(rows.draws.shape[1])
            kept = (row < count) & (row >= count // 3)  # the first third may still be on its way to the typical set
            kept[lost] = False
            seen = scaled(torch.from_numpy(rows.draws[kept].T), run.tuning.scale).mT.numpy()
            slopes = unscaled_back(torch.from_numpy(rows.grads[kept].T), run.tuning.scale).mT.numpy()
            run.tuning.scale = learnt_scale(seen, slopes, run.tuning.scale)
        trees.front[:] = unscaled(at, run.tuning.scale).numpy()

    def sample(self, density: ChainDensity, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""
        run = _Run(density, state)
        rows = run.rows(num_samples, with_grads=False)
        run.trees.ints[:, FILLED] = 0
        interrupted = _fill(run, self.max_tree_depth, rows, report)
        u = scaled_rows(torch.from_numpy(rows.draws.reshape(-1, rows.draws.shape[-1])), run.tuning.scale)
        named = {name: _typed(name, rows.stats[:, :, i]) for i, name in enumerate(STATS)}
        return Drawn(u.reshape(rows.draws.shape), named, run.trees.ints[:, FILLED].copy(), interrupted)


def _fill(run: _Run, depth: int, rows: Rows, report: Report) -> bool:
    """Sample until every row is filled; return True if Ctrl-C ended it before."""
    done, since, diverged, wanted = 0, 0, 0, rows.draws.shape[0] * rows.draws.shape[1]
    try:
        while done < wanted:
            until = max(1, min(10 * run.chains - since, wanted - done))
            ended, _, _, bad = run.advance(run.tuning.step_size, depth, rows, until, by_all=False)
            done, since, diverged = done + ended, since + ended, diverged + bad
            if since >= 10 * run.chains or done == wanted:
                report(since, run.tuning.step_size, diverged)
                since = diverged = 0
    except KeyboardInterrupt:
        return True
    return False


def _typed(name: str, values: Array) -> Array:
    return values.astype(np.int64) if name in _INTEGER else values.astype(bool) if name in _BOOLEAN else values


class _Run:
    """The state of a block while it runs; its arrays, named as the tree code names them, change in place."""

    def __init__(self, density: ChainDensity, state: State) -> None:
        self._state = state
        self.trees = Trees(*(state[name] for name in Trees._fields))
        self._most = _FIRST_LEAPFROGS
        self._front = torch.from_numpy(self.trees.front)
        self.chains = self.trees.ints.shape[0]
        self.tuning = Tuning(density, state)

    def rows(self, count: int, *, with_grads: bool) -> Rows:
        """Empty arrays for ``count`` draws of each chain, their statistics, and their gradients if ``with_grads``."""
        dim, dtype = self.trees.front.shape[0], self.trees.front.dtype
        grads = np.empty((self.chains, count if with_grads else 0, dim), dtype)
        return Rows(np.empty((self.chains, count, dim), dtype), np.zeros((self.chains, count, len(STATS))), grads)

    def advance(
        self, step_size: float, depth: int, rows: Rows, until: int, *, by_all: bool
    ) -> tuple[int, int, float, int]:
        """Move on by one leapfrog, or by many where the density can be called from machine code.

        These end once ``until`` transitions have, of every chain at least one where ``by_all``, and before the next
        look at the clock is due.
        """
        call = self.tuning.native_call(self.chains)
        if call is None:
            return advance(self.trees, *self.evaluate(), step_size, depth, rows)
        began = time.perf_counter()
        done, *found = advance_until(self.trees, call, step_size, depth, rows, (until, by_all, self._most))
        ended, num_counted, accepted, diverged = found
        if time.perf_counter() - began < _SECONDS_UNHEARD * done / self._most:
            self._most = min(2 * self._most, _MOST_LEAPFROGS)
        return int(ended), int(num_counted), accepted, int(diverged)

    def evaluate(self) -> tuple[Array, Array]:
        """Log density ``[C]`` and gradient ``[D, C]`` at ``front``."""
        return self.tuning.evaluate(self._front)

    def relocate(self) -> Array:
        """Move stuck chains to the positions of healthy ones; return the indices of the moved chains.

        A chain counts as stuck at a density so far below that of the others that even a region a hundred times as wide
        in every direction would have a negligible posterior probability, or at one far below where it needs smaller
        steps than the others, so that its region is both narrower and lower.
        """
        lp, dim = self.trees.reals[:, LP], self.trees.front.shape[0]
        below = np.median(lp) - lp
        low = below > 20.0 + dim
        hopeless = below > 20.0 + dim * (1.0 + math.log(100.0))
        lost = np.flatnonzero(hopeless | (low & (self.trees.reals[:, STEP_FACTOR] < 1.0)))
        sound = np.flatnonzero(~low)
        if not lost.size or sound.size < MANY_CHAINS // 2:
            return np.empty(0, int)
        self.trees.vectors[lost, Z] = self.trees.vectors[sound[np.arange(lost.size) % sound.size], Z]
        self.trees.reals[lost, STUCK_RATE] = 0.0
        self._state["relocated"] = self._state["relocated"] + lost.size
        return lost

    def restart(self, *, search: bool) -> None:
        """Begin new transitions from the points at ``front``, with a new step size if ``search``."""
        value, grad = self.evaluate()
        if search:
            momentum = np.empty(self.trees.front.T.shape, self.trees.front.dtype)
            fill_normals(self.trees.words, momentum)
            self.tuning.search(self.trees.front.copy(), value, grad, momentum.T)
        start_transitions(self.trees, value, grad, self.tuning.step_size)
