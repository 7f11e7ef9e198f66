"""Alternating steps of critic and generator, in windows that resume bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from phlogiston.engine.learning.adam import AdamConfig, AdamState, Tensors
from phlogiston.engine.learning.inplace_steps import Step, make_update
from phlogiston.engine.program.isolate import as_int, generator, isolated
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.devices import CPU
from phlogiston.training.adversarial.steps import RECORD, GanSteps
from phlogiston.training.batches import Batches, child
from phlogiston.training.loop import RUNNING, Ending, first_bad, run_windows

Array = np.ndarray[Any, Any]
NAMES = (*RECORD, "generator_loss", "generator_norm")
WINDOW = 100  # steps between two looks at the numbers


@dataclass(frozen=True, kw_only=True)
class GanRun:
    """How an adversarial training runs.

    Args:
        num_steps: steps of the generator, those of a run that is resumed among them.
        training: numbers of the rows that the players see.
        batch_size: rows in a minibatch.
        critic_steps: steps of the critic before each step of the generator.
        critic_optim: constants of the critic's optimiser.
        generator_optim: constants of the generator's optimiser.
        critic_rate: learning rate of the critic at the start.
        generator_rate: learning rate of the generator at the start.
        final: the fraction that the rates fall to along a cosine.
        ema: decay of the mean of the generator's parameters.
        instance_noise: standard deviation of the noise on what the critic sees, at the start.
        instance_noise_steps: steps in which that noise falls to zero; 0 keeps it.
        clip: largest absolute parameter of the critic; None for no limit.
    """

    num_steps: int
    training: torch.Tensor
    batch_size: int
    critic_steps: int
    critic_optim: AdamConfig
    generator_optim: AdamConfig
    critic_rate: float
    generator_rate: float
    final: float
    ema: float
    instance_noise: float
    instance_noise_steps: int
    clip: float | None

    def fraction(self, step: int) -> float:
        """The fraction of the initial learning rates that a step takes."""
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self.num_steps)))

    def noise(self, step: int) -> float:
        """The instance noise of a step."""
        return (
            self.instance_noise * max(0.0, 1.0 - step / self.instance_noise_steps)
            if self.instance_noise_steps
            else self.instance_noise
        )

    def decay(self, step: int) -> float:
        """The decay of the mean of the parameters, which starts as a plain mean of the first iterates."""
        return min(self.ema, (1.0 + step) / (10.0 + step))


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that was wrong at two checks in a row.

    Args:
        kind: "mode collapse", "critic wins" or "critic memorises".
        since: the step of the second of them.
        until: the step at which it was over; 0 while it lasts.
        number: the worst that was measured.
    """

    kind: str
    since: int
    number: float
    until: int = 0

    def __str__(self) -> str:
        span = f"steps {self.since} to {self.until}" if self.until else f"from step {self.since} on"
        meaning = {
            "mode collapse": "the draws left out {:.0%} of the data",
            "critic wins": "the critic was right about {:.1%} of what it saw",
            "critic memorises": "the critic told {:.0%} more of the training data than of held-out data from draws",
        }[self.kind].format(self.number)
        return f"{self.kind}, {span}: {meaning}"

    @property
    def action(self) -> str:
        """What to do about it."""
        return {
            "mode collapse": 'loss="relativistic" with r1 and r2, packing=2, or a smaller learning rate',
            "critic wins": "a larger r1 and r2, instance_noise, a smaller critic_optim rate, or fewer critic_steps",
            "critic memorises": "more data, a larger r1, instance_noise, or a smaller critic",
        }[self.kind]


@dataclass(frozen=True)
class GanState:
    """The complete state of adversarial training; resuming from it reproduces the run bit for bit.

    Args:
        critic: the critic's parameters and optimiser, which steps overwrite.
        generator: the same of the generator.
        mean: decaying mean of the generator's parameters.
        records: the numbers of each step, ``[steps, NAMES]``.
        checks: the numbers of each check, in order.
        best: the mean of the parameters at the check that was nearest to held-out data.
        best_step: the step of that check.
        best_distance: its distance.
        ending: why training ended.
        engine: the tier that ran the steps.
        alarms: the alarms so far.
        frames: steps, and the draws from the same noise at each.
    """

    critic: AdamState
    generator: AdamState
    mean: Tensors
    records: Array
    checks: tuple[Mapping[str, float], ...] = ()
    best: Tensors = ()
    best_step: int = 0
    best_distance: float = math.inf
    ending: Ending = RUNNING
    engine: str = ""
    alarms: tuple[Alarm, ...] = ()
    frames: tuple[tuple[int, torch.Tensor], ...] = ()

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.records)

    def state(self) -> dict[str, Any]:
        """The state as plain data."""
        parts = {"critic": self.critic.tensors, "generator": self.generator.tensors, "ema": self.mean}
        found: dict[str, Any] = {name: list(value) for name, value in parts.items()}
        watched = {
            "checks": [dict(check) for check in self.checks],
            "best": list(self.best),
            "best_step": self.best_step,
            "best_distance": self.best_distance,
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "frames": [list(frame) for frame in self.frames],
        }
        return {**found, **watched, "records": self.records}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> GanState:
        """The inverse of ``state``."""
        critic, own = (AdamState.of(state[name]) for name in ("critic", "generator"))
        mean = tuple(value.clone() for value in state["ema"])
        return GanState(
            critic,
            own,
            mean,
            np.asarray(state["records"]),
            checks=tuple(state["checks"]),
            best=tuple(state["best"]),
            best_step=state["best_step"],
            best_distance=state["best_distance"],
            alarms=tuple(Alarm(**alarm) for alarm in state["alarms"]),
            frames=tuple((step, draws) for step, draws in state["frames"]),
        )

    def to(self, device: torch.device) -> GanState:
        """The same state on a device; the same tensors where they are there already."""
        mean = tuple(value.to(device) for value in self.mean)
        return replace(self, critic=self.critic.to(device), generator=self.generator.to(device), mean=mean)

    def copied(self) -> GanState:
        """The same state with tensors of its own."""
        mean = tuple(value.clone() for value in self.mean)
        return replace(self, critic=self.critic.copied(), generator=self.generator.copied(), mean=mean)

    def overwrite(self, other: GanState) -> None:
        """Copy the numbers of another state into these tensors."""
        self.critic.overwrite(other.critic)
        self.generator.overwrite(other.generator)
        for own, value in zip(self.mean, other.mean, strict=True):
            own.copy_(value)


@dataclass(frozen=True, eq=False)
class _Game:
    """One run: what its windows share, and each player's step."""

    players: GanSteps
    run: GanRun
    seed: np.random.SeedSequence
    batches: Batches
    critic_step: Step
    generator_step: Step

    def window(self, at: GanState) -> GanState:
        """The state after the rest of a window of a hundred steps; tensors are overwritten."""
        run, device, records = self.run, at.generator.device, []
        numbers = range(at.step, min(at.step + WINDOW - at.step % WINDOW, run.num_steps))
        networks = as_int(child(self.seed, 2))
        for step, given in zip(numbers, _on_device(self._inputs(numbers), device), strict=True):
            fraction = run.fraction(step)
            _seed_networks(networks + step, device)
            for inputs in given[:-1]:
                args = (*inputs, *at.generator.params)
                first = self.critic_step(at.critic, run.critic_rate * fraction, args).clone()
                if run.clip is not None:
                    torch._foreach_clamp_max_(list(at.critic.params), run.clip)
                    torch._foreach_clamp_min_(list(at.critic.params), -run.clip)
            args = (*given[-1], *at.critic.params)
            second = self.generator_step(at.generator, run.generator_rate * fraction, args)
            torch._foreach_lerp_(list(at.mean), list(at.generator.params), 1.0 - run.decay(step))
            records.append(torch.cat([first, second]))
        return _judged(at, torch.stack(records).double().cpu().numpy())

    def _inputs(self, numbers: range) -> Iterator[list[Tensors]]:
        """The inputs of each step: one entry for every step of the critic, and the last for the generator."""
        run, training = self.run, self.run.training
        for step in numbers:
            rng, first = generator(child(self.seed, 1, step)), step * run.critic_steps
            rows = [training[self.batches.at(first + k)] for k in range(run.critic_steps)]
            yield [self.players.inputs(rng, index, run.noise(step)).tensors for index in (*rows, rows[-1])]


def play(
    players: GanSteps,
    run: GanRun,
    seed: np.random.SeedSequence,
    start: GanState,
    *,
    tier: Tier,
    progress: bool,
    device: torch.device,
    after_window: Callable[[GanState], GanState],
) -> GanState:
    """Train both players until ``num_steps`` are done, a number is not finite, a check stops it, or Ctrl-C.

    ``after_window`` gets the state on the CPU, where what is returned is too.
    """
    at = replace(start.to(device).copied(), ending=RUNNING)
    batches = Batches(len(run.training), run.batch_size, child(seed, 0), drops_last=True)
    engine, game = _game(players, run, seed, batches, at, tier)

    def checked(at: GanState) -> GanState:
        seen = after_window(at.to(CPU))
        return replace(seen, critic=at.critic, generator=at.generator, mean=at.mean)

    with isolated(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return run_windows(
            replace(at, engine=engine),
            game.window,
            num_steps=run.num_steps,
            describe=_progress_line,
            after_window=checked,
            progress=progress,
        ).to(CPU)


def _game(
    players: GanSteps, run: GanRun, seed: np.random.SeedSequence, batches: Batches, at: GanState, tier: Tier
) -> tuple[str, _Game]:
    """The tier of the critic's step, and the game with both players' steps."""
    example = players.inputs(generator(0), run.training[batches.at(0)], run.instance_noise).tensors
    inputs = tuple(value.to(at.generator.device) for value in example)
    calls = run.num_steps - at.step
    given = (*inputs, *at.generator.params)
    engine, critic = make_update(players.critic_gradient, run.critic_optim, at.critic, given, tier=tier, calls=calls)
    given = (*inputs, *at.critic.params)
    _, own = make_update(players.generator_gradient, run.generator_optim, at.generator, given, tier=tier, calls=calls)
    return engine, _Game(players, run, seed, batches, critic, own)


def _seed_networks(number: int, device: torch.device) -> None:
    """Seed the numbers that networks draw by themselves, as for dropout.

    ``torch.manual_seed`` would do the same, at 2 % of the time of a step.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(number)


def _on_device(steps: Iterator[list[Tensors]], device: torch.device) -> Iterator[list[Tensors]]:
    """The inputs of a window on a device, in one copy for each kind: many small copies take longer than the steps."""
    if device == CPU:
        yield from steps
        return
    kept = list(steps)
    together = [torch.stack(kind).to(device) for kind in zip(*(one for step in kept for one in step), strict=True)]
    flat = zip(*(kind.unbind() for kind in together), strict=True)
    for step in kept:
        yield [next(flat) for _ in step]


def _progress_line(at: GanState, done: int) -> str:
    if not done:
        return ""
    records = at.records[-done:]
    parts = [f"critic {records[:, 0].mean():.3f}", f"generator {records[:, -2].mean():.3f}"]
    parts += [f"distance {check['distance']:.3f}" for check in at.checks[-1:]]
    return ", ".join([*parts, *(alarm.kind.upper() for alarm in at.alarms if not alarm.until)])


def _judged(at: GanState, records: Array) -> GanState:
    """The state with the records of a window, or with the reason why they end training."""
    bad = first_bad(records, (*at.critic.params, *at.generator.params))
    if bad is None:
        return replace(at, records=np.concatenate([at.records, records]))
    columns, step = np.flatnonzero(~np.isfinite(records[bad])), at.step + bad
    name = NAMES[int(columns[0]) if columns.size else 1]
    reason = f"step {step} met a {name} that is not finite; the parameters before that window are kept"
    return replace(at, ending=Ending(reason, bad_step=step))
