"""Learn a program's parameters and an encoder together in epochs of minibatches, which resume bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from phlogiston.engine.learning.adam import AdamConfig, AdamState
from phlogiston.engine.learning.inplace_steps import Step, make_update
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.devices import CPU
from phlogiston.training.amortised.objective import RECORD, MinibatchObjective
from phlogiston.training.batches import Batches
from phlogiston.training.loop import RUNNING, Ending, first_bad, run_windows

Array = np.ndarray[Any, Any]
_WINDOWS = 10  # that are compared with as many before them
_MIN_WINDOW = 100  # steps between two looks at the numbers, where epochs are shorter


@dataclass(frozen=True, kw_only=True)
class EpochRun:
    """How a training runs.

    Args:
        num_steps: steps in all, those of an earlier run that is resumed among them.
        rows: number of data.
        batch_size: data in a minibatch.
        dim: numbers of noise for each datum.
        rest: numbers of noise for latents that all data share.
        learning_rate: the learning rate at the start.
        cosine: whether it falls to zero along a cosine.
        kl_warmup: steps over which the weight of the KL divergence rises to one.
        tolerance: a rise of the smoothed bound, per datum, that does not count; None to run all steps.
        optim: constants of the optimiser.
    """

    num_steps: int
    rows: int
    batch_size: int
    dim: int
    rest: int
    learning_rate: float
    cosine: bool
    kl_warmup: int
    tolerance: float | None
    optim: AdamConfig

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if not self.cosine:
            return self.learning_rate
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))

    def weight(self, step: int) -> float:
        """The weight of the KL divergence at a step."""
        return min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0


@dataclass(frozen=True)
class EpochState:
    """The complete state of a training; resuming from it reproduces the run bit for bit.

    Args:
        adam: parameters and the state of the optimiser, which steps overwrite.
        records: what each step recorded, ``[steps, numbers]``.
        ending: why training ended.
        engine: the tier that ran the steps.
    """

    adam: AdamState
    records: Array
    ending: Ending = RUNNING
    engine: str = ""

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.records)

    def copied(self) -> EpochState:
        """The same state with tensors of its own."""
        return replace(self, adam=self.adam.copied())

    def overwrite(self, other: EpochState) -> None:
        """Copy the numbers of another state into these tensors."""
        self.adam.overwrite(other.adam)

    def on_cpu(self) -> EpochState:
        """The same state with its tensors on the CPU."""
        return replace(self, adam=self.adam.to(CPU))

    def state(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The state as plain data, by parameter name."""
        parts = {"param": self.adam.params, "mean": self.adam.means, "square": self.adam.squares}
        flat = {f"{part}/{name}": v for part, values in parts.items() for name, v in zip(names, values, strict=True)}
        return {**flat, "count": self.adam.count, "records": self.records}

    @staticmethod
    def from_state(state: Mapping[str, Any], names: tuple[str, ...]) -> EpochState:
        """The inverse of ``state``."""
        params, means, squares = (
            tuple(state[f"{part}/{name}"].clone() for name in names) for part in ("param", "mean", "square")
        )
        return EpochState(AdamState(params, means, squares, state["count"].clone()), np.asarray(state["records"]))


def learn(
    objective: MinibatchObjective,
    run: EpochRun,
    seed: np.random.SeedSequence,
    *,
    tier: Tier,
    progress: bool,
    start: EpochState | None,
    device: torch.device = CPU,
    after_window: Callable[[EpochState], None] | None = None,
) -> EpochState:
    """Train until ``num_steps`` are done, the bound stops rising, something is not finite, or Ctrl-C.

    A window is an epoch, or a hundred steps where epochs are shorter. ``after_window`` gets the state on the device of
    training, whose tensors later steps overwrite.
    """
    at = start or EpochState(AdamState.at(objective.initial), np.zeros((0, len(objective.record_names))))
    at = replace(at, adam=at.adam.to(device).copied(), ending=RUNNING)

    def seen(at: EpochState) -> EpochState:
        if after_window is not None:
            after_window(at)
        return at

    return run_windows(
        at,
        _Epochs(objective, run, Batches(run.rows, run.batch_size, seed), tier).window,
        num_steps=run.num_steps,
        describe=lambda at, done: f"ELBO {at.records[-done:, 0].mean():.3f} a datum" if done else "",
        after_window=seen,
        progress=progress,
    ).on_cpu()


@dataclass(frozen=True, eq=False)
class _Epochs:
    """One run: what its windows share, and the steps that were made, with their tiers, for each size of a batch."""

    objective: MinibatchObjective
    run: EpochRun
    batches: Batches
    tier: Tier
    steps: dict[int, tuple[str, Step]] = field(default_factory=dict)

    def window(self, at: EpochState) -> EpochState:
        """The state after the rest of an epoch, and after more of them if they are short; tensors are overwritten."""
        records: list[torch.Tensor] = []
        while len(records) < _MIN_WINDOW and at.step + len(records) < self.run.num_steps:
            records += self._epoch(at.adam, at.step + len(records))
        return self._judged(at, torch.stack(records).double().cpu().numpy())

    def _epoch(self, adam: AdamState, first: int) -> list[torch.Tensor]:
        """Run the steps from ``first`` to the end of its epoch."""
        run, length, dtype, device = self.run, self.batches.per_epoch, adam.params[0].dtype, adam.device
        number, inside = divmod(first, length)
        order, rng = self.batches.epoch(number)
        # All random numbers of an epoch are drawn at its start, also where a run is resumed within it.
        noise = torch.from_numpy(rng.standard_normal((run.rows, run.dim), dtype=np.float32)).to(device, dtype)
        shared = torch.from_numpy(rng.standard_normal((length, run.rest), dtype=np.float32)).to(device, dtype)
        order = order.to(device)
        records = []
        for step in range(first, min(first - inside + length, run.num_steps)):
            batch = step - first + inside
            rows = slice(batch * run.batch_size, min((batch + 1) * run.batch_size, run.rows))
            weight = torch.full((), run.weight(step), dtype=dtype, device=device)
            inputs = (order[rows], noise[rows], shared[batch], weight)
            records.append(self._made(adam, inputs)(adam, run.rate(step), inputs))
        return records

    def _made(self, adam: AdamState, inputs: tuple[torch.Tensor, ...]) -> Step:
        """The step for a batch of this size."""
        size, run = len(inputs[0]), self.run
        if size not in self.steps:
            is_whole = size == min(run.batch_size, run.rows)  # the shorter last batch is not worth compiling for
            tier: Tier = self.tier if is_whole or self.tier == "loop" else "graph"
            self.steps[size] = make_update(
                self.objective.gradient, run.optim, adam, inputs, tier=tier, calls=run.num_steps
            )
        return self.steps[size][1]

    def _judged(self, at: EpochState, records: Array) -> EpochState:
        """The state with the records of a window, or with the reason why they end training."""
        at = replace(at, engine=next(iter(self.steps.values()))[0])
        bad = first_bad(records, at.adam.params)
        if bad is None:
            return self._rested(replace(at, records=np.concatenate([at.records, records])))
        row, part = records[bad], "a gradient"
        if not np.isfinite(row).all():
            part = RECORD[1 + int(not np.isfinite(row[2]))]
        pairs = zip(self.objective.names, at.adam.params, strict=True)
        lost = [name for name, value in pairs if not torch.isfinite(value).all()]
        step = at.step + bad
        reason = f"step {step} met {part} that is not finite; the parameters before that window are kept"
        detail = f" (parameter {lost[0]!r} was lost first)" if lost else ""
        return replace(at, ending=Ending(reason + detail, bad_step=step))

    def _rested(self, at: EpochState) -> EpochState:
        """The state with its ending where the mean bound of the latest windows is no higher than of those before."""
        run, span = self.run, _WINDOWS * max(_MIN_WINDOW, self.batches.per_epoch)
        if run.tolerance is None or at.step < max(2 * span, run.kl_warmup + span):
            return at
        late, early = at.records[-span:, 0], at.records[-2 * span : -span, 0]
        rise, noise = float(late.mean() - early.mean()), math.sqrt((late.var() + early.var()) / span)
        if rise > max(run.tolerance, 2.0 * noise):
            return at
        reason = f"the smoothed ELBO stopped rising: {rise:+.4f} ± {noise:.4f} nats a datum over {span} steps"
        return replace(at, ending=Ending(reason, converged=True))
