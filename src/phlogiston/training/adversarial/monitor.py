"""What is looked at while the game goes on: held-out data against draws, and what the critic says of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.learning.adam import Tensors
from phlogiston.engine.program.isolate import generator, isolated, spawn
from phlogiston.stats.divergence.points import squared_distances
from phlogiston.stats.divergence.slices import along
from phlogiston.training.adversarial.critics import Critic, Standard
from phlogiston.training.adversarial.data import Comparison
from phlogiston.training.adversarial.loop import Alarm, GanState
from phlogiston.training.adversarial.losses import Loss
from phlogiston.training.adversarial.steps import RECORD, GanSteps, Regularisers
from phlogiston.training.loop import Ending

Array = NDArray[np.float64]

FEWEST, _MOST = 50, 1000  # rows that are looked at
_CELLS, _ROWS_OF_A_CELL, _LLOYD = 32, 16, 10
_EMPTY = 0.1  # a cell with a smaller share of its draws is left out
_DIRECTIONS = 50
_NUMBERS_OF_A_FRAME = 100_000
_BINS = 10
_PAIRS = RECORD[2:].index("right_pairs")
MISSING, MEMORY = 0.4, 0.2  # fractions of the data; of pairs


def faults(check: Mapping[str, float], loss: Loss) -> dict[str, float]:
    """The failures at one check: kind -> the measured value.

    A critic that is nearly always right teaches the generator nothing where its loss is flat there. That happens soon
    with the saturating loss, later with the others, and never with Wasserstein's, whose outputs are no odds.
    """
    found = {}
    if check["missing"] >= MISSING:
        found["mode collapse"] = check["missing"]
    right = check["right_pairs"] if loss.threshold is None else min(check["right_data"], check["right_draws"])
    if right >= loss.won:
        found["critic wins"] = right
    if check["memory"] >= MEMORY:
        found["critic memorises"] = check["memory"]
    return found


def updated_alarms(
    alarms: tuple[Alarm, ...], before: Mapping[str, float] | None, now: Mapping[str, float], loss: Loss
) -> tuple[Alarm, ...]:
    """The alarms after a check: raised when two checks in a row fail, closed when one passes."""
    found, earlier, step = faults(now, loss), {} if before is None else faults(before, loss), int(now["step"])
    kept = []
    for alarm in alarms:
        if alarm.until:
            kept.append(alarm)
        elif alarm.kind in found:
            kept.append(replace(alarm, number=max(alarm.number, found[alarm.kind])))
        else:
            kept.append(replace(alarm, until=step))
    lasting = {alarm.kind for alarm in kept if not alarm.until}
    fresh = [kind for kind in found if kind in earlier and kind not in lasting]
    return (*kept, *(Alarm(kind=kind, since=step, number=found[kind]) for kind in fresh))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The intervals of checks and of saved frames.

    Args:
        every: steps between two checks; 0 for none.
        patience: steps without a smaller distance after which training stops; 0 for no such rule.
        frames: pictures of the draws that are kept.
        steps: of the whole run.
    """

    every: int
    patience: int
    frames: int
    steps: int

    def due(self, kept: int) -> float:
        """The step from which the next picture is due: often at first, when most happens."""
        if kept >= self.frames:
            return float("inf")
        return self.steps * (kept / max(self.frames - 1, 1)) ** 2


def split(rows: int, batch: int, seed: np.random.SeedSequence) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to learn from and rows held out: a tenth, at most 1,000, none where too few could be spared."""
    order = torch.from_numpy(generator(seed).permutation(rows))
    count = min(rows // 10, _MOST, rows - batch)
    return (order[:-count].sort().values, order[-count:]) if count >= FEWEST else (torch.arange(rows), order[:0])


class Monitor:
    """Checks of a game on the same rows and the same noise each time.

    Args:
        table: program and data.
        critic: as a function of its parameters.
        loss: of the game.
        learnt: rows that the players learn from.
        rows: held-out rows; without any, some that the players learn from.
        schedule: when to look.
        seed: of noise, cells and directions.
    """

    def __init__(
        self,
        table: Comparison,
        critic: Critic,
        loss: Loss,
        learnt: torch.Tensor,
        rows: torch.Tensor,
        schedule: Schedule,
        seed: np.random.SeedSequence,
    ) -> None:
        noise, cells, directions = spawn(seed, 3)
        seen = learnt[torch.from_numpy(generator(seed).permutation(len(learnt)))]
        rows = rows if len(rows) else seen[:_MOST]
        rows = rows[: len(rows) - len(rows) % critic.packing]
        graph = table.generator.traced(len(rows))
        self._players = GanSteps(table.generator, critic, loss, Regularisers(), table.data, table.conditions, graph)
        self._loss, self._schedule = loss, schedule
        self._inputs = self._players.inputs(generator(noise), rows, 0.0)
        self._seen = replace(self._inputs, index=seen[: len(rows)])
        self.data = table.data[rows]
        self._flat = _flat(self.data)
        self._scale = Standard.of(self.data).scale
        count = max(2, min(_CELLS, len(rows) // _ROWS_OF_A_CELL))
        self._cells = centres(self._flat, count, generator(cells))
        self._shares = occupied(self._flat, self._cells)
        towards = generator(directions).standard_normal((self._flat.shape[1], _DIRECTIONS))
        self._directions = towards / np.linalg.norm(towards, axis=0)

    def __call__(self, at: GanState) -> GanState:
        """If a check is due, make it; update the alarms and the best parameters, and give a reason to stop."""
        every = self._schedule.every
        last = int(at.checks[-1]["step"]) if at.checks else 0
        looks = every > 0 and at.step // every > last // every
        pictures = at.step >= self._schedule.due(len(at.frames)) or at.step == self._schedule.steps
        if not looks and not pictures:
            return at
        draws = self.drawn(at.mean)
        if pictures and self._schedule.frames:
            size = max(1, _NUMBERS_OF_A_FRAME // max(1, draws[0].numel()))
            at = replace(at, frames=(*at.frames, (at.step, draws[:size].clone())))
        return self._checked(at, draws) if looks else at

    def _checked(self, at: GanState, draws: torch.Tensor) -> GanState:
        if not bool(torch.isfinite(draws).all()):
            return replace(at, ending=Ending(f"draws were not finite at step {at.step}"))
        distance = self.distance(draws)
        check: dict[str, float] = {
            "step": float(at.step),
            "distance": distance,
            "missing": self.left_out(draws),
            "spread": float(_flat(draws).std(0).mean() / max(self._flat.std(0).mean(), 1e-12)),
            **self._of_critic(at),
        }
        raised = updated_alarms(at.alarms, at.checks[-1] if at.checks else None, check, self._loss)
        at = replace(at, checks=(*at.checks, check), alarms=raised)
        if not at.best or distance < at.best_distance:
            kept = tuple(value.clone() for value in at.mean)
            return replace(at, best=kept, best_step=at.step, best_distance=distance)
        patience = self._schedule.patience
        if patience and at.step - at.best_step >= patience:
            reason = f"no smaller distance to held-out data in {at.step - at.best_step} steps"
            return replace(at, ending=Ending(reason, converged=True))
        return at

    def _of_critic(self, at: GanState) -> Mapping[str, float]:
        """The accuracy, calibration and memorisation of the critic on held-out rows and fresh draws."""
        params = (at.critic.params, at.generator.params)
        with isolated(seed=0):  # networks may draw by themselves
            real, fake, scores = self._players.judged(*params, self._inputs)
            of_seen = self._players.judged(*params, self._seen)[2]
        found = dict(zip(RECORD[2:], scores, strict=True))
        memory = of_seen[_PAIRS] - found["right_pairs"]
        odds = [real, -fake] if self._loss.logistic else [real - fake] if self._loss.pairs else []
        kept = {name: found[name] for name in ("right_data", "right_draws", "right_pairs")}
        error = {"calibration": calibration_error(torch.cat(odds).double().numpy())} if odds else {}
        return {**kept, **error, "memory": memory}

    def drawn(self, params: Tensors) -> torch.Tensor:
        """As many draws as there are rows, always of the same noise."""
        with isolated(seed=0), torch.no_grad():
            return self._players.generated(params, self._inputs)

    def distance(self, draws: torch.Tensor) -> float:
        """Sliced Wasserstein distance to the rows, in their standard deviations."""
        return float(along(self._flat, _flat(draws), self._directions).value) / self._scale

    def left_out(self, draws: torch.Tensor) -> float:
        """The share of the rows in cells that next to no draw reaches."""
        empty = occupied(_flat(draws), self._cells) < _EMPTY * self._shares
        return float(self._shares[empty].sum())


def _flat(values: torch.Tensor) -> Array:
    return np.asarray(values.reshape(len(values), -1).double().numpy())


def centres(points: Array, count: int, rng: np.random.Generator) -> Array:
    """The centres of clusters of about equally many points: k-means from far-apart starts.

    References:
        Arthur and Vassilvitskii (2007), k-means++, https://dl.acm.org/doi/10.5555/1283383.1283494
        Richardson and Weiss (2018), On GANs and GMMs (draws counted in such cells). https://arxiv.org/abs/1805.12462
    """
    found = points[[int(rng.integers(len(points)))]]
    while len(found) < count:
        away = squared_distances(points, found).min(1)
        if not away.sum() > 0.0:
            break
        found = np.concatenate([found, points[[int(rng.choice(len(points), p=away / away.sum()))]]])
    for _ in range(_LLOYD):
        nearest = squared_distances(points, found).argmin(1)
        kept = [points[nearest == k].mean(0) if (nearest == k).any() else found[k] for k in range(len(found))]
        found = np.stack(kept)
    return found


def occupied(points: Array, middles: Array) -> Array:
    """The share of points in each cell."""
    nearest = squared_distances(points, middles).argmin(1)
    return np.asarray(np.bincount(nearest, minlength=len(middles)) / len(points))


def calibration_error(odds: Array) -> float:
    """Mean distance between how sure a critic is and how often it is right, over bins of equal counts.

    Args:
        odds: log odds that it gives to what is true.
    """
    sure = 1.0 / (1.0 + np.exp(-np.abs(np.clip(odds, -50.0, 50.0))))
    order = np.array_split(np.argsort(sure), _BINS)
    errors = [abs(float(sure[part].mean() - (odds[part] > 0.0).mean())) for part in order if part.size]
    weights = [part.size for part in order if part.size]
    return float(np.average(errors, weights=weights))
