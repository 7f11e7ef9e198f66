"""Learning a program's parameters and an encoder together: epochs of minibatches, stopped and resumed bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from phlogiston.engine.learning.inplace_steps import Moving, Rule, Step, make_update
from phlogiston.engine.program.isolate import generator
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.devices import CPU
from phlogiston.training.amortised.objective import RECORD, MinibatchObjective

Array = np.ndarray[Any, Any]
_WINDOWS = 10  # that are compared with as many before them
_A_WINDOW = 100  # steps, at least, between two looks at the numbers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a training runs.

    Args:
        num_steps: in all, those of an earlier run that is resumed among them.
        rows: data.
        batch_size: data a step.
        dim: numbers of noise a datum.
        rest: numbers of noise for latents that all data share.
        learning_rate: at the start.
        cosine: whether it falls to nothing along a cosine.
        kl_warmup: steps in which the weight of the KL rises to one.
        tolerance: a rise of the smoothed bound, per datum, that counts as none; None to run all steps.
        rule: of the optimiser.
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
    rule: Rule

    @property
    def steps_an_epoch(self) -> int:
        """With the last, shorter batch."""
        return math.ceil(self.rows / self.batch_size)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if not self.cosine:
            return self.learning_rate
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))

    def weight(self, step: int) -> float:
        """The weight of the KL at a step."""
        return min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0


@dataclass(frozen=True)
class Training:
    """Where a training stands: all that it needs to go on, bit for bit."""

    moving: Moving
    records: Array  # [steps, numbers]
    stop_reason: str = ""
    bad_step: int | None = None
    converged: bool = False
    interrupted: bool = False
    engine: str = ""

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.records)

    def at_home(self) -> Training:
        """The same on the CPU, where every result is."""
        return replace(self, moving=self.moving.to(CPU))

    def state(self, names: tuple[str, ...]) -> dict[str, Any]:
        """As plain data, by name."""
        parts = {"param": self.moving.params, "mean": self.moving.means, "square": self.moving.squares}
        found = {f"{part}/{name}": v for part, values in parts.items() for name, v in zip(names, values, strict=True)}
        return {**found, "count": self.moving.count, "records": self.records}

    @staticmethod
    def from_state(state: Mapping[str, Any], names: tuple[str, ...]) -> Training:
        """The inverse of ``state``."""
        params, means, squares = (
            tuple(state[f"{part}/{name}"].clone() for name in names) for part in ("param", "mean", "square")
        )
        return Training(Moving(params, means, squares, state["count"].clone()), np.asarray(state["records"]))


def learn(
    objective: MinibatchObjective,
    plan: Plan,
    seed: np.random.SeedSequence,
    *,
    tier: Tier,
    progress: bool,
    start: Training | None,
    device: torch.device = CPU,
    after_window: Callable[[Training], None] | None = None,
) -> Training:
    """Train until ``num_steps`` are done, something is not finite, or Ctrl-C.

    It goes window by window, an epoch or a hundred steps of short ones: parameters that a window with a number that is
    not finite, or an interrupted one, has touched are put back to those before it. ``after_window`` gets parameters
    where they are, which are overwritten later.
    """
    at = start or Training(Moving.at(objective.initial), np.zeros((0, len(objective.record_names))))
    at = replace(at, moving=at.moving.to(device).copied(), stop_reason="", converged=False)
    steps: dict[int, tuple[str, Step]] = {}
    with tqdm(total=plan.num_steps, initial=at.step, desc="train", disable=None if progress else True) as bar:
        while at.step < plan.num_steps and at.bad_step is None and not at.converged:
            before = at.moving.copied()
            try:
                records = _window(objective, plan, seed, at, steps, tier)
            except KeyboardInterrupt:
                at.moving.overwrite(before)
                at = replace(at, interrupted=True, stop_reason=f"interrupted after {at.step} steps")
                break
            at = _stopped(_judged(at, records, before, steps, objective), plan)
            bar.update(len(records))
            bar.set_postfix_str(f"ELBO {records[:, 0].mean():.3f} a datum", refresh=False)
            if after_window is not None and at.bad_step is None:
                after_window(at)
    at = at.at_home()
    return at if at.stop_reason else replace(at, stop_reason=f"all {plan.num_steps} steps were done")


def _window(
    objective: MinibatchObjective,
    plan: Plan,
    seed: np.random.SeedSequence,
    at: Training,
    steps: dict[int, tuple[str, Step]],
    tier: Tier,
) -> Array:
    """The rest of an epoch, and of more if they are short, ``[steps, record]``; the parameters are overwritten."""
    records: list[torch.Tensor] = []
    while len(records) < _A_WINDOW and at.step + len(records) < plan.num_steps:
        records += _epoch(objective, plan, seed, at, steps, tier, at.step + len(records))
    return torch.stack(records).double().cpu().numpy()


def _epoch(
    objective: MinibatchObjective,
    plan: Plan,
    seed: np.random.SeedSequence,
    at: Training,
    steps: dict[int, tuple[str, Step]],
    tier: Tier,
    first: int,
) -> list[torch.Tensor]:
    length, dtype, device = plan.steps_an_epoch, at.moving.params[0].dtype, at.moving.device
    number, inside = divmod(first, length)
    rng = generator(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number)))
    order = torch.from_numpy(rng.permutation(plan.rows)).to(device)
    noise = torch.from_numpy(rng.standard_normal((plan.rows, plan.dim), dtype=np.float32)).to(device, dtype)
    shared = torch.from_numpy(rng.standard_normal((length, plan.rest), dtype=np.float32)).to(device, dtype)
    records = []
    for step in range(first, min(first - inside + length, plan.num_steps)):
        batch = step - first + inside
        rows = slice(batch * plan.batch_size, min((batch + 1) * plan.batch_size, plan.rows))
        weight = torch.full((), plan.weight(step), dtype=dtype, device=device)
        inputs = (order[rows], noise[rows], shared[batch], weight)
        size = len(inputs[0])
        if size not in steps:
            usual = size == min(plan.batch_size, plan.rows)  # the last, shorter batch is not worth compiling for
            wanted: Tier = tier if usual or tier == "loop" else "graph"
            steps[size] = make_update(
                objective.gradient, plan.rule, at.moving, inputs, tier=wanted, calls=plan.num_steps
            )
        records.append(steps[size][1](at.moving, plan.rate(step), inputs))
    return records


def _judged(
    at: Training, records: Array, before: Moving, steps: dict[int, tuple[str, Step]], objective: MinibatchObjective
) -> Training:
    engine = next(iter(steps.values()))[0]
    fine = bool(np.isfinite(records).all()) and all(bool(torch.isfinite(v).all()) for v in at.moving.params)
    if fine:
        return replace(at, records=np.concatenate([at.records, records]), engine=engine)
    bad = np.flatnonzero(~np.isfinite(records).all(1))
    which = int(bad[0]) if bad.size else len(records) - 1
    part = "a gradient" if not bad.size else RECORD[1 + int(not np.isfinite(records[which, 2]))]
    wrong = [n for n, v in zip(objective.names, at.moving.params, strict=True) if not torch.isfinite(v).all()]
    at.moving.overwrite(before)
    reason = f"step {at.step + which} met {part} that is not finite; the parameters before that window are kept"
    detail = f" (parameter {wrong[0]!r} was lost first)" if wrong else ""
    return replace(at, bad_step=at.step + which, stop_reason=reason + detail, engine=engine)


def _stopped(at: Training, plan: Plan) -> Training:
    """Whether the bound has stopped rising: the mean of the latest windows against that of as many before them."""
    span = _WINDOWS * max(_A_WINDOW, plan.steps_an_epoch)
    if plan.tolerance is None or at.bad_step is not None or at.step < max(2 * span, plan.kl_warmup + span):
        return at
    late, early = at.records[-span:, 0], at.records[-2 * span : -span, 0]
    rise, noise = float(late.mean() - early.mean()), math.sqrt((late.var() + early.var()) / span)
    if rise > max(plan.tolerance, 2.0 * noise):
        return at
    reason = f"the smoothed ELBO stopped rising: {rise:+.4f} ± {noise:.4f} nats a datum over {span} steps"
    return replace(at, converged=True, stop_reason=reason)
