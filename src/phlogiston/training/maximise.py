r"""Maximise a stochastic bound until it stops rising: windows of steps, a falling learning rate, averaged iterates.

Where the mean bound of the latest windows is no higher than that of the windows before them, by more than their noise,
the learning rate falls; when it has fallen often enough, the bound has converged. The result is the mean of the last
window's iterates, which lies far closer to the optimum than any one of them (Polyak and Juditsky, 1992; Welandawe et
al., 2024, https://arxiv.org/abs/2203.15945).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from phlogiston.engine.learning.adam import Tensors
from phlogiston.engine.learning.fused_steps import Example, Steps, make_steps
from phlogiston.engine.program.isolate import one_thread
from phlogiston.engine.trace.batched import Tier
from phlogiston.training.adam import Adam
from phlogiston.training.batches import child
from phlogiston.training.loop import RUNNING, Ending, run_windows

Array = np.ndarray[Any, Any]
_SMALL = 2**15  # a step with fewer parameters is fastest on one thread


@dataclass(frozen=True)
class Objective:
    """A stochastic bound to maximise.

    Args:
        names: names of the parameters.
        initial: their values at the start.
        gradient: parameters and the inputs of one step -> an estimate of the bound, its gradient by each parameter, and
            further numbers to record ``[E]``.
        inputs: the seed of a window, its first step and its number of steps -> the inputs of the steps in order, in
            chunks whose first dimension counts steps.
        reason: why the gradient cannot be traced; empty where it can.
        extras: names of the further numbers.
    """

    names: tuple[str, ...]
    initial: Tensors
    gradient: Callable[[Tensors, Tensors], tuple[torch.Tensor, Tensors, torch.Tensor]]
    inputs: Callable[[np.random.SeedSequence, int, int], Iterator[Tensors]]
    reason: str = ""
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When the learning rate falls, and when to stop.

    Args:
        num_steps: the largest number of steps.
        window: steps between two looks at the bound.
        decay: the factor of the learning rate where the bound has stopped rising.
        decays: how often it falls before the bound counts as converged.
        tolerance: a rise of the smoothed bound that does not count, in nats.
        stop: whether to stop when converged; False runs all the steps at the first learning rate.
        average: whether the result is the mean of the last window's iterates, or the last iterate.
    """

    num_steps: int
    window: int = 200
    decay: float = 0.3
    decays: int = 4
    tolerance: float = 0.005
    stop: bool = True
    average: bool = True


@dataclass(frozen=True)
class OptimState:
    """The complete state of a maximisation; resuming from it reproduces the run bit for bit.

    Args:
        tensors: parameters, the optimiser's state, running sums of the parameters where they are averaged, and a flag
            that is 1 until a number is not finite.
        bounds: the bound at each step.
        level: how often the learning rate has fallen.
        windows: mean of the bound, and squared error of that mean, for each window at this learning rate.
        averaged: the result so far, by parameter.
        engine: the tier that ran the steps.
        rates: the learning rate of each step.
        extras: further numbers of each step, ``[steps, E]``.
        names: names of these.
        ending: why the run ended.
    """

    tensors: Tensors
    bounds: Array
    level: int = 0
    windows: tuple[tuple[float, float], ...] = ()
    averaged: Tensors = ()
    engine: str = ""
    rates: Array = field(default_factory=lambda: np.zeros(0))
    extras: Array = field(default_factory=lambda: np.zeros((0, 0)))
    names: tuple[str, ...] = ()
    ending: Ending = RUNNING

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.bounds)

    def copied(self) -> OptimState:
        """The state itself: its steps are pure and overwrite nothing."""
        return self

    def overwrite(self, other: OptimState) -> None:
        """Nothing to put back, as nothing is overwritten."""


def begin(objective: Objective, optim: Adam, average: bool = True) -> OptimState:
    """The state before the first step."""
    initial = tuple(value.detach().clone() for value in objective.initial)
    totals = tuple(torch.zeros_like(value) for value in initial) if average else ()
    alive = torch.ones((), dtype=initial[0].dtype)
    return OptimState(
        (*initial, *optim.initial(initial), *totals, alive),
        np.zeros(0),
        averaged=initial,
        extras=np.zeros((0, len(objective.extras))),
        names=objective.extras,
    )


def maximise(
    objective: Objective,
    optim: Adam,
    schedule: Schedule,
    seed: np.random.SeedSequence,
    *,
    tier: Tier = "auto",
    progress: bool = False,
    start: OptimState | None = None,
    after_window: Callable[[OptimState], None] | None = None,
) -> OptimState:
    """Run steps until the bound stops rising, ``num_steps`` are done, something is not finite, or Ctrl-C."""
    at = replace(start or begin(objective, optim, schedule.average), ending=RUNNING)
    ascent = _Ascent(objective, optim, schedule, seed, tier, schedule.num_steps - at.step)

    def seen(at: OptimState) -> OptimState:
        if after_window is not None:
            after_window(at)
        return at

    at = run_windows(
        at,
        ascent.window,
        num_steps=schedule.num_steps,
        describe=lambda at, done: f"ELBO {at.windows[-1][0] if at.windows else math.nan:.3f}",
        after_window=seen,
        label="svi",
        progress=progress,
    )
    done = at.ending == Ending(f"all {at.step} steps were done")
    if done and schedule.stop:
        reason = f"{at.ending.reason}; the bound was still rising or not yet known"
        return replace(at, ending=replace(at.ending, reason=reason))
    return at


@dataclass(frozen=True, eq=False)
class _Ascent:
    """One run: what its windows share, and the steps that were made for each shape of inputs."""

    objective: Objective
    optim: Adam
    schedule: Schedule
    seed: np.random.SeedSequence
    tier: Tier
    calls: int
    steps: dict[tuple[torch.Size, ...], Steps] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of parameters."""
        return len(self.objective.initial)

    @property
    def summed(self) -> int:
        """Number of parameters whose iterates are averaged."""
        return self.count if self.schedule.average else 0

    def window(self, at: OptimState) -> OptimState:
        """The state after one window, with the learning rate for the next."""
        length = min(self.schedule.window, self.schedule.num_steps - at.step)
        rate = torch.tensor(self.optim.learning_rate * self.schedule.decay**at.level, dtype=at.tensors[0].dtype)
        own = at.tensors[: len(at.tensors) - 1 - self.summed]
        state = (*own, *(torch.zeros_like(value) for value in at.tensors[: self.summed]), at.tensors[-1])
        seed = child(self.seed, at.step // self.schedule.window)
        records: list[torch.Tensor] = []
        engine = at.engine
        small = sum(value.numel() for value in self.objective.initial) <= _SMALL
        with torch.no_grad(), one_thread() if small else nullcontext():
            for inputs in self.objective.inputs(seed, at.step, length):
                state, name = self._chunk(state, rate, inputs, records)
                engine = engine or name
        at = replace(at, tensors=state, engine=engine)
        return self._judged(self._recorded(at, torch.cat(records).double().numpy(), float(rate), length))

    def _chunk(
        self, state: Tensors, rate: torch.Tensor, inputs: Tensors, records: list[torch.Tensor]
    ) -> tuple[Tensors, str]:
        """The state after the steps of one chunk, whose records are appended, and the tier that ran them."""
        rows = inputs[0].shape[0]
        shapes = tuple(value.shape[1:] for value in inputs)
        made = self._made(shapes, state, rate, inputs, tier=self.tier, calls=self.calls)
        whole = rows - rows % made.repeats
        for i in range(0, whole, made.repeats):
            state, record = made.advance(state, (rate,), tuple(value[i : i + made.repeats] for value in inputs))
            records.append(record)
        if whole < rows:  # fewer steps are left than one call makes: they run one by one
            single = self._made((torch.Size([-1]), *shapes), state, rate, inputs, tier="graph", calls=1)
            for i in range(whole, rows):
                state, record = single.advance(state, (rate,), tuple(value[i : i + 1] for value in inputs))
                records.append(record)
        return state, made.engine

    def _made(
        self,
        key: tuple[torch.Size, ...],
        state: Tensors,
        rate: torch.Tensor,
        inputs: Tensors,
        *,
        tier: Tier,
        calls: int,
    ) -> Steps:
        if key not in self.steps:
            example = Example(state, (rate,), tuple(value[0] for value in inputs))
            chunk = inputs[0].shape[0] if calls > 1 else 1
            self.steps[key] = make_steps(
                self._step, example, tier=tier, calls=calls, chunk=chunk, untraceable=self.objective.reason
            )
        return self.steps[key]

    def _step(self, state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        """One step: gradient, update, running sum.

        From the first number that is not finite on, nothing moves. The state is frozen inside the step because many
        steps run in one call of machine code, so that nobody could stop between them.
        """
        count, summed = self.count, self.summed
        params, alive = state[:count], state[-1]
        moments, totals = state[count : len(state) - 1 - summed], state[len(state) - 1 - summed : -1]
        bound, gradients, extras = self.objective.gradient(params, inputs)
        finite = torch.isfinite(bound)
        for gradient in gradients:
            finite = finite & torch.isfinite(gradient.sum())
        alive = alive * finite.to(alive.dtype)
        moved, after = self.optim.step(params, gradients, moments, constants[0])
        moved = tuple(torch.where(alive > 0, new, old) for new, old in zip(moved, params, strict=True))
        after = tuple(torch.where(alive > 0, new, old) for new, old in zip(after, moments, strict=True))
        totals = tuple(total + value for total, value in zip(totals, moved[:summed], strict=True))
        record = torch.cat([torch.stack([bound.to(alive.dtype), alive]), extras.to(alive.dtype)])
        return (*moved, *after, *totals, alive), record

    def _recorded(self, at: OptimState, records: Array, rate: float, length: int) -> OptimState:
        """The state with the records of a window ``[steps, 2 + E]``, up to the first bad step."""
        count, state = self.count, at.tensors
        averaged = tuple(v / length for v in state[-1 - count : -1]) if self.schedule.average else state[:count]
        bad = np.flatnonzero(records[:, 1] == 0.0)
        ending = at.ending
        if bad.size:
            records, averaged, step = records[: int(bad[0])], state[:count], int(at.step + bad[0])
            ending = Ending(f"step {step} met a bound or gradient that is not finite", bad_step=step)
        mean = float(records[:, 0].mean()) if len(records) else math.nan
        error = float(records[:, 0].var() / max(len(records), 1)) if len(records) else math.nan
        return replace(
            at,
            averaged=averaged,
            bounds=np.concatenate([at.bounds, records[:, 0]]),
            extras=np.concatenate([at.extras, records[:, 2:]]),
            rates=np.concatenate([at.rates, np.full(len(records), rate)]),
            windows=(*at.windows, (mean, error)),
            ending=ending,
        )

    def _judged(self, at: OptimState) -> OptimState:
        """The state after it was judged whether the bound has stopped rising at this learning rate."""
        schedule = self.schedule
        if at.ending.bad_step is not None or not schedule.stop or len(at.windows) < 4:
            return at
        half = len(at.windows) // 2 if len(at.windows) < 8 else 4
        late, early = at.windows[-half:], at.windows[-2 * half : -half]
        rise = float(np.mean([mean for mean, _ in late]) - np.mean([mean for mean, _ in early]))
        noise = math.sqrt(sum(error for _, error in (*late, *early))) / half
        if rise > max(schedule.tolerance, 2.0 * noise):
            return at
        if at.level == schedule.decays:
            reason = f"the smoothed ELBO stopped rising: {rise:+.4f} ± {noise:.4f} nats over {half} windows"
            return replace(at, ending=Ending(f"{reason} of {schedule.window} steps", converged=True))
        # The next learning rate starts from the mean of the iterates, which is where this one was going.
        tensors = (*at.averaged, *at.tensors[len(at.averaged) :])
        return replace(at, level=at.level + 1, windows=(), tensors=tensors)
