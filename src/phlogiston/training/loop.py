r"""Climb a stochastic bound until it stops rising: windows of steps, a falling learning rate, averaged iterates.

Steps run in windows. Where the mean bound of the latest windows is no higher than that of those before them, by more
than their noise, the learning rate falls; when it has fallen often enough, the climb has converged. What is returned
is the mean of the last window's iterates, which lies far closer to the optimum than any one of them
(Polyak and Juditsky, 1992; Welandawe et al., 2024, https://arxiv.org/abs/2203.15945).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from phlogiston.engine.learning.fused_steps import Steps, Tensors, make_steps
from phlogiston.engine.program.isolate import one_thread
from phlogiston.engine.trace.batched import Tier
from phlogiston.training.adam import Adam

Array = np.ndarray[Any, Any]
_SMALL = 2**15  # parameters of a step that one thread does fastest


@dataclass(frozen=True)
class Objective:
    """What is climbed.

    Args:
        names: of the parameters.
        initial: their values at the start.
        gradient: parameters and one step's inputs -> an estimate of the bound, its gradient by parameter, and what else
            is recorded ``[E]``.
        inputs: a window's seed, its number and its number of steps -> the steps' inputs in order, in chunks whose
            first dimension counts steps.
        reason: why the gradient cannot be traced; empty where it can.
        extras: names of what is recorded beside the bound.
    """

    names: tuple[str, ...]
    initial: Tensors
    gradient: Callable[[Tensors, Tensors], tuple[torch.Tensor, Tensors, torch.Tensor]]
    inputs: Callable[[np.random.SeedSequence, int, int], Iterator[Tensors]]
    reason: str = ""
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a climb is run.

    Args:
        num_steps: at most.
        window: steps between two looks at the bound.
        decay: what the learning rate is multiplied by where the bound has stopped rising.
        decays: how often, before the climb counts as converged.
        tolerance: a rise of the smoothed bound that does not count, in nats.
        stop: whether to stop when converged; False runs all the steps at the first learning rate.
        average: whether the mean of the last window's iterates is the result, or the last iterate.
    """

    num_steps: int
    window: int = 200
    decay: float = 0.3
    decays: int = 4
    tolerance: float = 0.005
    stop: bool = True
    average: bool = True


@dataclass(frozen=True)
class Climb:
    """Where a climb stands; all that it needs to go on, bit for bit."""

    state: Tensors
    bounds: Array
    level: int = 0
    windows: tuple[tuple[float, float], ...] = ()  # mean and squared error of the windows at this learning rate
    averaged: Tensors = ()
    converged: bool = False
    stop_reason: str = ""
    bad_step: int | None = None
    interrupted: bool = False
    engine: str = ""
    rates: Array = field(default_factory=lambda: np.zeros(0))
    extras: Array = field(default_factory=lambda: np.zeros((0, 0)))  # [steps, E]
    names: tuple[str, ...] = ()  # of the extras

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.bounds)


def begin(objective: Objective, optim: Adam, average: bool = True) -> Climb:
    """A climb before its first step."""
    initial = tuple(value.detach().clone() for value in objective.initial)
    totals = tuple(torch.zeros_like(value) for value in initial) if average else ()
    alive = torch.ones((), dtype=initial[0].dtype)
    extras = np.zeros((0, len(objective.extras)))
    return Climb(
        (*initial, *optim.initial(initial), *totals, alive),
        np.zeros(0),
        averaged=initial,
        extras=extras,
        names=objective.extras,
    )


def climb(
    objective: Objective,
    optim: Adam,
    schedule: Schedule,
    seed: np.random.SeedSequence,
    *,
    tier: Tier = "auto",
    progress: bool = False,
    start: Climb | None = None,
    after_window: Callable[[Climb], None] | None = None,
) -> Climb:
    """Run steps until the bound stops rising, ``num_steps`` are done, something is not finite, or Ctrl-C."""
    at = replace(start or begin(objective, optim, schedule.average), converged=False, stop_reason="", interrupted=False)
    steps: dict[tuple[torch.Size, ...], Steps] = {}
    remaining = schedule.num_steps - at.steps
    with tqdm(total=schedule.num_steps, initial=at.steps, desc="svi", disable=None if progress else True) as bar:
        try:
            while at.steps < schedule.num_steps and not at.converged and at.bad_step is None:
                before = at.steps
                at = _window(objective, optim, schedule, seed, at, steps, tier, remaining)
                at = _judged(at, schedule)
                bar.update(at.steps - before)
                bar.set_postfix_str(f"ELBO {at.windows[-1][0] if at.windows else math.nan:.3f}", refresh=False)
                if after_window is not None:
                    after_window(at)
        except KeyboardInterrupt:
            at = replace(at, interrupted=True, stop_reason=f"interrupted after {at.steps} steps")
    if at.bad_step is not None:
        at = replace(at, stop_reason=f"step {at.bad_step} met a bound or gradient that is not finite")
    elif not at.stop_reason:
        still = "; the bound was still rising or not yet known" if schedule.stop else ""
        at = replace(at, stop_reason=f"all {at.steps} steps were done{still}")
    return at


def _window(
    objective: Objective,
    optim: Adam,
    schedule: Schedule,
    seed: np.random.SeedSequence,
    at: Climb,
    kept: dict[tuple[torch.Size, ...], Steps],
    tier: Tier,
    remaining: int,
) -> Climb:
    count = len(objective.initial)
    length = min(schedule.window, schedule.num_steps - at.steps)
    number = at.steps // schedule.window
    rate = torch.tensor(optim.learning_rate * schedule.decay**at.level, dtype=at.state[0].dtype)
    summed = count if schedule.average else 0
    own_state = at.state[: len(at.state) - 1 - summed]
    state = (*own_state, *(torch.zeros_like(value) for value in at.state[:summed]), at.state[-1])
    own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))
    records = []
    engine = at.engine
    small = sum(value.numel() for value in objective.initial) <= _SMALL
    with torch.no_grad(), one_thread() if small else nullcontext():
        for inputs in objective.inputs(own, at.steps, length):
            rows = inputs[0].shape[0]
            shapes = tuple(value.shape[1:] for value in inputs)
            if shapes not in kept:
                step, example = _step_of(objective, optim, count, summed), tuple(value[0] for value in inputs)
                kept[shapes] = make_steps(
                    step, state, (rate,), example, tier=tier, calls=remaining, chunk=rows, reason=objective.reason
                )
            made = kept[shapes]
            engine = engine or made.engine
            whole = rows - rows % made.repeats
            for i in range(0, whole, made.repeats):
                state, record = made.advance(state, (rate,), tuple(value[i : i + made.repeats] for value in inputs))
                records.append(record)
            for i in range(whole, rows):  # fewer steps than a call makes: one by one
                state, record = _single(objective, optim, (count, summed), kept, state, rate, (inputs, i))
                records.append(record)
    found = torch.cat(records).double().numpy()
    averaged = tuple(value / length for value in state[-1 - count : -1]) if schedule.average else state[:count]
    bad = np.flatnonzero(found[:, 1] == 0.0)
    if bad.size:
        found, averaged = found[: int(bad[0])], state[:count]
    mean = float(found[:, 0].mean()) if len(found) else math.nan
    error = float(found[:, 0].var() / max(len(found), 1)) if len(found) else math.nan
    return replace(
        at,
        state=state,
        averaged=averaged,
        engine=engine,
        bounds=np.concatenate([at.bounds, found[:, 0]]),
        extras=np.concatenate([at.extras, found[:, 2:]]),
        rates=np.concatenate([at.rates, np.full(len(found), float(rate))]),
        windows=(*at.windows, (mean, error)),
        bad_step=int(at.steps + bad[0]) if bad.size else None,
    )


def _single(
    objective: Objective,
    optim: Adam,
    widths: tuple[int, int],
    kept: dict[tuple[torch.Size, ...], Steps],
    state: Tensors,
    rate: torch.Tensor,
    at: tuple[Tensors, int],
) -> tuple[Tensors, torch.Tensor]:
    (count, summed), (inputs, i) = widths, at
    key = (torch.Size([-1]), *(value.shape[1:] for value in inputs))
    if key not in kept:
        step, example = _step_of(objective, optim, count, summed), tuple(value[0] for value in inputs)
        kept[key] = make_steps(step, state, (rate,), example, tier="graph", calls=1, reason=objective.reason)
    return kept[key].advance(state, (rate,), tuple(value[i : i + 1] for value in inputs))


def _step_of(objective: Objective, optim: Adam, count: int, summed: int) -> Callable[..., tuple[Tensors, torch.Tensor]]:
    """One step: gradient, update, running sum; from the first number that is not finite on, nothing moves."""

    def step(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        params, alive = state[:count], state[-1]
        moments, totals = state[count : len(state) - 1 - summed], state[len(state) - 1 - summed : -1]
        bound, gradients, extras = objective.gradient(params, inputs)
        finite = torch.isfinite(bound)
        for gradient in gradients:
            finite = finite & torch.isfinite(gradient.sum())
        alive = alive * finite.to(alive.dtype)
        moved, after = optim.ascend(params, gradients, moments, constants[0])
        moved = tuple(torch.where(alive > 0, new, old) for new, old in zip(moved, params, strict=True))
        after = tuple(torch.where(alive > 0, new, old) for new, old in zip(after, moments, strict=True))
        totals = tuple(total + value for total, value in zip(totals, moved[:summed], strict=True))
        record = torch.cat([torch.stack([bound.to(alive.dtype), alive]), extras.to(alive.dtype)])
        return (*moved, *after, *totals, alive), record

    return step


def _judged(at: Climb, schedule: Schedule) -> Climb:
    """Whether the bound has stopped rising at this learning rate, and what follows."""
    if at.bad_step is not None or not schedule.stop or len(at.windows) < 4:
        return at
    half = len(at.windows) // 2 if len(at.windows) < 8 else 4
    late, early = at.windows[-half:], at.windows[-2 * half : -half]
    rise = float(np.mean([mean for mean, _ in late]) - np.mean([mean for mean, _ in early]))
    noise = math.sqrt(sum(error for _, error in (*late, *early))) / half
    if rise > max(schedule.tolerance, 2.0 * noise):
        return at
    if at.level == schedule.decays:
        reason = f"the smoothed ELBO stopped rising: {rise:+.4f} ± {noise:.4f} nats over {half} windows"
        return replace(at, converged=True, stop_reason=f"{reason} of {schedule.window} steps")
    # The next learning rate starts from the mean of the iterates, which is where this one was going.
    count = len(at.averaged)
    return replace(at, level=at.level + 1, windows=(), state=(*at.averaged, *at.state[count:]))
