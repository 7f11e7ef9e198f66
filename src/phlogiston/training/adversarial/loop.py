"""The alternating game: windows of steps, watched, stopped, kept and resumed bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from phlogiston.engine.learning.inplace_steps import Moving, Rule, Step, make_update
from phlogiston.engine.program.isolate import as_int, generator, isolated
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.devices import CPU
from phlogiston.training.adversarial.alarms import Alarm
from phlogiston.training.adversarial.steps import RECORD, Players

Array = np.ndarray[Any, Any]
Tensors = tuple[torch.Tensor, ...]
NAMES = (*RECORD, "generator_loss", "generator_norm")
WINDOW = 100  # steps between two looks at the numbers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a game is played.

    Args:
        num_steps: of the generator, those of a run that is resumed among them.
        training: rows of data that the players see.
        batch_size: rows a step.
        critic_steps: of the critic before each of the generator.
        critic_rule: of the critic's optimiser.
        generator_rule: of the generator's.
        critic_rate: learning rate at the start.
        generator_rate: the same of the generator.
        final: what rates fall to along a cosine, as a share of the start.
        ema: decay of the mean of the generator's parameters.
        jitter: instance noise at the start.
        jitter_steps: in which it falls to nothing.
        clip: largest absolute parameter of the critic; None for no limit.
    """

    num_steps: int
    training: torch.Tensor
    batch_size: int
    critic_steps: int
    critic_rule: Rule
    generator_rule: Rule
    critic_rate: float
    generator_rate: float
    final: float
    ema: float
    jitter: float
    jitter_steps: int
    clip: float | None

    def share(self, step: int) -> float:
        """Of the learning rates at the start."""
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self.num_steps)))

    def noise(self, step: int) -> float:
        """The instance noise of a step."""
        return self.jitter * max(0.0, 1.0 - step / self.jitter_steps) if self.jitter_steps else self.jitter

    def decay(self, step: int) -> float:
        """Of the mean of parameters: it starts as a plain mean of few."""
        return min(self.ema, (1.0 + step) / (10.0 + step))


class Batches:
    """Rows of batches by number: every row once an epoch, but for a rest smaller than a batch.

    Args:
        plan: of the game.
        seed: of the run.
    """

    def __init__(self, plan: Plan, seed: np.random.SeedSequence) -> None:
        self._training, self._size, self._seed = plan.training, plan.batch_size, seed
        self._epoch, self._order = -1, plan.training

    def __getitem__(self, number: int) -> torch.Tensor:
        epoch, inside = divmod(number, len(self._training) // self._size)
        if epoch != self._epoch:
            order = generator(_child(self._seed, 0, epoch)).permutation(len(self._training))
            self._epoch, self._order = epoch, self._training[torch.from_numpy(order)]
        return self._order[inside * self._size : (inside + 1) * self._size]


@dataclass(frozen=True)
class Standing:
    """Where a game stands: all that it needs to go on, bit for bit."""

    critic: Moving
    generator: Moving
    mean: Tensors
    records: Array  # [steps, NAMES]
    checks: tuple[Mapping[str, float], ...] = ()
    best: Tensors = ()  # the mean of parameters at the check that was nearest to held-out data
    best_step: int = 0
    best_distance: float = math.inf
    stop_reason: str = ""
    converged: bool = False
    interrupted: bool = False
    engine: str = ""
    alarms: tuple[Alarm, ...] = ()
    frames: tuple[tuple[int, torch.Tensor], ...] = ()  # steps and draws of the same noise

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.records)

    def state(self) -> dict[str, Any]:
        """As plain data."""
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
    def from_state(state: Mapping[str, Any]) -> Standing:
        """The inverse of ``state``."""
        critic, own = (_moving(state[name]) for name in ("critic", "generator"))
        mean = tuple(value.clone() for value in state["ema"])
        return Standing(
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

    def to(self, device: torch.device) -> Standing:
        """The same numbers on a device; the same tensors where they are there already."""
        mean = tuple(value.to(device) for value in self.mean)
        return replace(self, critic=self.critic.to(device), generator=self.generator.to(device), mean=mean)

    def copied(self) -> Standing:
        """The same numbers in tensors of their own."""
        mean = tuple(value.clone() for value in self.mean)
        return replace(self, critic=self.critic.copied(), generator=self.generator.copied(), mean=mean)

    def overwrite(self, other: Standing) -> None:
        """Take the numbers of another."""
        self.critic.overwrite(other.critic)
        self.generator.overwrite(other.generator)
        for own, value in zip(self.mean, other.mean, strict=True):
            own.copy_(value)


def _moving(tensors: list[torch.Tensor]) -> Moving:
    count = (len(tensors) - 1) // 3
    parts = [tuple(value.clone() for value in tensors[i * count : (i + 1) * count]) for i in range(3)]
    return Moving(parts[0], parts[1], parts[2], tensors[-1].clone())


def _child(seed: np.random.SeedSequence, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key))


@dataclass(frozen=True)
class _Steps:
    """Each player's step."""

    critic: Step
    generator: Step
    engine: str


def play(
    players: Players,
    plan: Plan,
    seed: np.random.SeedSequence,
    start: Standing,
    *,
    tier: Tier,
    progress: bool,
    device: torch.device = CPU,
    after_window: Callable[[Standing], Standing],
) -> Standing:
    """Play until ``num_steps`` are done, a number is not finite, a watcher stops it, or Ctrl-C.

    A window that meets a number that is not finite, or is interrupted, is undone. What ``after_window`` sees, and what
    is returned, is on the CPU.
    """
    at = replace(start.to(device).copied(), stop_reason="", converged=False, interrupted=False)
    batches = Batches(plan, seed)
    steps = _steps(players, plan, batches[0], at, tier)
    at = replace(at, engine=steps.engine)
    with (
        isolated(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        tqdm(total=plan.num_steps, initial=at.step, desc="train", disable=None if progress else True) as bar,
    ):
        while at.step < plan.num_steps and not at.stop_reason:
            before = at.copied()
            try:
                records = _window(players, plan, seed, batches, at, steps)
            except KeyboardInterrupt:
                at.overwrite(before)
                at = replace(at, interrupted=True, stop_reason=f"interrupted after {at.step} steps")
                break
            at = _judged(at, before, records)
            bar.update(len(records))
            if not at.stop_reason:
                seen = after_window(at.to(CPU))
                at = replace(seen, critic=at.critic, generator=at.generator, mean=at.mean)
            bar.set_postfix_str(_said(at, records), refresh=False)
    at = at.to(CPU)
    return at if at.stop_reason else replace(at, stop_reason=f"all {plan.num_steps} steps were done")


def _steps(players: Players, plan: Plan, index: torch.Tensor, at: Standing, tier: Tier) -> _Steps:
    feed = tuple(value.to(at.generator.device) for value in players.feed(generator(0), index, plan.jitter).tensors)
    calls = plan.num_steps - at.step
    engine, critic = make_update(
        players.critic_gradient, plan.critic_rule, at.critic, (*feed, *at.generator.params), tier=tier, calls=calls
    )
    _, own = make_update(
        players.generator_gradient,
        plan.generator_rule,
        at.generator,
        (*feed, *at.critic.params),
        tier=tier,
        calls=calls,
    )
    return _Steps(critic, own, engine)


def _seed(number: int, device: torch.device) -> None:
    """Of what networks draw by themselves, such as dropout: ``torch.manual_seed`` takes 2 % of a step."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(number)


def _window(
    players: Players, plan: Plan, seed: np.random.SeedSequence, batches: Batches, at: Standing, steps: _Steps
) -> Array:
    """Some steps, ``[steps, NAMES]``; parameters are overwritten."""
    records = []
    numbers = range(at.step, min(at.step + WINDOW - at.step % WINDOW, plan.num_steps))
    feeds, networks = _feeds(players, plan, seed, batches, numbers), as_int(_child(seed, 2))
    for step, given in zip(numbers, _there(feeds, at.generator.device), strict=True):
        share = plan.share(step)
        _seed(networks + step, at.generator.device)
        for feed in given[:-1]:
            first = steps.critic(at.critic, plan.critic_rate * share, (*feed, *at.generator.params)).clone()
            if plan.clip is not None:
                torch._foreach_clamp_max_(list(at.critic.params), plan.clip)
                torch._foreach_clamp_min_(list(at.critic.params), -plan.clip)
        second = steps.generator(at.generator, plan.generator_rate * share, (*given[-1], *at.critic.params))
        torch._foreach_lerp_(list(at.mean), list(at.generator.params), 1.0 - plan.decay(step))
        records.append(torch.cat([first, second]))
    return torch.stack(records).double().cpu().numpy()


def _feeds(
    players: Players, plan: Plan, seed: np.random.SeedSequence, batches: Batches, numbers: range
) -> Iterator[list[Tensors]]:
    """What each step takes: one feed for every step of the critic, and the last for that of the generator."""
    for step in numbers:
        rng, first = generator(_child(seed, 1, step)), step * plan.critic_steps
        rows = [batches[first + k] for k in range(plan.critic_steps)]
        yield [players.feed(rng, index, plan.noise(step)).tensors for index in (*rows, rows[-1])]


def _there(feeds: Iterator[list[Tensors]], device: torch.device) -> Iterator[list[Tensors]]:
    """The same on a device, in one copy for each kind of input: many small ones would take longer than the steps."""
    if device == CPU:
        yield from feeds
        return
    kept = list(feeds)
    together = [torch.stack(kind).to(device) for kind in zip(*(feed for step in kept for feed in step), strict=True)]
    flat = zip(*(kind.unbind() for kind in together), strict=True)
    for step in kept:
        yield [next(flat) for _ in step]


def _said(at: Standing, records: Array) -> str:
    """For the bar."""
    parts = [f"critic {records[:, 0].mean():.3f}", f"generator {records[:, -2].mean():.3f}"]
    parts += [f"distance {check['distance']:.3f}" for check in at.checks[-1:]]
    return ", ".join([*parts, *(alarm.kind.upper() for alarm in at.alarms if not alarm.until)])


def _judged(at: Standing, before: Standing, records: Array) -> Standing:
    params = (*at.critic.params, *at.generator.params)
    if bool(np.isfinite(records).all()) and all(bool(torch.isfinite(value).all()) for value in params):
        return replace(at, records=np.concatenate([at.records, records]))
    bad = np.argwhere(~np.isfinite(records))
    which, column = (int(v) for v in bad[0]) if len(bad) else (len(records) - 1, 1)
    at.overwrite(before)
    reason = (
        f"step {at.step + which} met a {NAMES[column]} that is not finite; the parameters before that window are kept"
    )
    return replace(at, stop_reason=reason)
