"""From settings to a ``Fitted``: what ``ph.train`` runs for ``ph.SVI``."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from phlogiston.engine.program.isolate import seed_sequence, spawn
from phlogiston.engine.trace import devices
from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import ConvergenceWarning, DataFileError, SettingError, problem, warn
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.training.adam import Adam
from phlogiston.training.amortised.epochs import EpochRun, EpochState, learn
from phlogiston.training.amortised.guide import Amortized, AmortizedGuide
from phlogiston.training.amortised.objective import RECORD, MinibatchObjective, Weighing
from phlogiston.training.fitted import Fitted
from phlogiston.training.networks import in_evaluation, refuse_batch_statistics

Precision = Literal["float32", "float64", "bfloat16"]
_AN_AVERAGE = 100  # steps, at the end of training, that the reported bound is averaged over


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What of a method's settings concerns the learning of parameters; see ``ph.SVI``."""

    guide: Amortized
    num_steps: int
    batch_size: int | None
    optim: Adam
    cosine: bool
    stop: bool
    tolerance: float
    kl_warmup: int
    free_bits: float
    precision: Precision
    engine: Tier
    device: str

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def plan(self, objective: MinibatchObjective, dim: int) -> EpochRun:
        """The course of training.

        Raises:
            SettingError: a batch that is larger than the data, or a warm-up that does not end before training does.
        """
        rows = objective.plate.size
        if self.batch_size is not None and self.batch_size > rows:
            raise SettingError(
                problem(
                    "batch_size",
                    found=f"{self.batch_size}",
                    expected=f"at most {rows}, the size of the data",
                    fix=f"batch_size={rows}",
                )
            )
        if self.warms_too_long:
            raise SettingError(
                problem(
                    "kl_warmup",
                    found=f"{self.kl_warmup} steps of {self.num_steps}",
                    expected="fewer than num_steps: training has to end with the bound itself",
                    fix=f"kl_warmup={self.num_steps // 2}",
                )
            )
        return EpochRun(
            num_steps=self.num_steps,
            rows=rows,
            batch_size=self.batch_size or rows,
            dim=dim,
            rest=objective.rest,
            learning_rate=self.optim.learning_rate,
            cosine=self.cosine,
            kl_warmup=self.kl_warmup,
            tolerance=self.tolerance / rows if self.stop else None,
            optim=self.optim.config,
        )

    @property
    def warms_too_long(self) -> bool:
        """Whether the KL would not reach its full weight."""
        return self.kl_warmup >= self.num_steps


def fit(
    settings: Learning,
    model: Model,
    *,
    seed: int,
    progress: bool,
    resume_from: Fitted | None,
    checkpoint: Path | None,
    learns: bool = True,
) -> Fitted:
    """Learn the program's parameters, and the guide's, from its data."""
    began, before = time.perf_counter(), 0.0 if resume_from is None else resume_from.seconds
    seed = seed if resume_from is None or resume_from.seed is None else resume_from.seed
    model = model.validated()
    (learning,) = spawn(seed_sequence(seed), 1)
    encoder = settings.guide.encoder
    refuse_batch_statistics(model, encoder if isinstance(encoder, nn.Module) else None)
    guide = settings.guide.build(model, seed=seed)
    objective = MinibatchObjective(
        model,
        guide,
        Weighing(settings.free_bits, settings.precision == "bfloat16"),
        learns=learns,
        dtype=settings.dtype,
    )
    plan = settings.plan(objective, guide.split.dim)
    start = _resumed(resume_from, objective, plan)
    device = devices.chosen(settings.device, devices.operations_of(plan.batch_size, objective.initial))

    def finished(at: EpochState) -> Fitted:
        at = at.on_cpu()
        return _fitted(settings, model, objective, guide, at, seed=seed, seconds=before + time.perf_counter() - began)

    def keep(at: EpochState) -> None:
        if checkpoint is not None:
            finished(at).save(checkpoint)

    found = learn(
        objective,
        plan,
        learning,
        tier=settings.engine,
        progress=progress,
        start=start,
        device=device,
        after_window=keep,
    )
    if found.ending.bad_step is not None:
        warn(
            f"train: {found.ending.reason}; write: ph.Adam(learning_rate=...) a tenth of it, or clip=10.0",
            ConvergenceWarning,
        )
    return finished(found)


def infer_amortised(settings: Learning, model: Model, *, seed: int, progress: bool, num_samples: int) -> Posterior:
    """The posterior of the data's latents under a program whose parameters are held."""
    fitted = fit(settings, model, seed=seed, progress=progress, resume_from=None, checkpoint=None, learns=False)
    found = fitted.posterior(num_samples=num_samples, seed=seed)
    return dataclasses.replace(
        found,
        method="svi",
        history={"elbo": fitted.history["elbo"]},
        stop_reason=fitted.stop_reason,
        seconds=fitted.seconds + found.seconds,
        engine=fitted.engine,
        interrupted=fitted.interrupted,
        seed=seed,
    )


def _resumed(before: Fitted | None, objective: MinibatchObjective, plan: EpochRun) -> EpochState | None:
    if before is None:
        return None
    known = {name: tuple(value.shape) for name, value in zip(objective.names, objective.initial, strict=True)}
    found = {n.removeprefix("param/"): tuple(v.shape) for n, v in before.state.items() if n.startswith("param/")}
    if differ := sorted(set(found.items()) ^ set(known.items())):
        name = differ[0][0]
        raise DataFileError(
            problem(
                "resume_from",
                found=f"parameter {name!r} of shape {found.get(name, 'none')}, of another training",
                expected=f"{known.get(name, 'none')}, as this program and guide have it",
            )
        )
    at = EpochState.from_state(before.state, objective.names)
    if at.step >= plan.num_steps:
        raise SettingError(
            problem(
                "num_steps",
                found=f"{plan.num_steps}, and {at.step} steps done already",
                expected="more",
                fix=f"num_steps={2 * at.step}",
            )
        )
    return at


def _fitted(
    settings: Learning,
    model: Model,
    objective: MinibatchObjective,
    guide: AmortizedGuide,
    at: EpochState,
    *,
    seed: int,
    seconds: float,
) -> Fitted:
    params = objective.constrained(at.adam.params)
    last = at.records[-_AN_AVERAGE:].mean(0) if at.step else np.full(len(objective.record_names), np.nan)
    rows = guide.split.plate.size  # the history is of all data, as everywhere: a datum's bound N times
    state = at.state(objective.names)
    if isinstance(settings.guide.encoder, str):
        state["amortized"] = dataclasses.asdict(settings.guide)
    return Fitted(
        model=in_evaluation(model).with_parameters(params),
        method="svi",
        settings={"optim": settings.optim},
        guide=_trained(guide, objective.encoder_weights(at.adam.params)),
        history=_history(at, objective.record_names, rows, settings.kl_warmup),
        converged=at.ending.converged,
        stop_reason=at.ending.reason,
        figures={
            "steps": float(at.step),
            **{name: rows * float(value) for name, value in zip(RECORD, last, strict=False)},
            "elbo_per_datum": float(last[0]),
        },
        state=state,
        seed=seed,
        seconds=seconds,
        engine=at.engine,
        interrupted=at.ending.interrupted,
    )


def _history(at: EpochState, names: tuple[str, ...], rows: int, kl_warmup: int) -> dict[str, np.ndarray]:
    """The curves of a training, those of the bound for all data together."""
    curves = {name: rows * at.records[:, i] for i, name in enumerate(names)}
    weights = np.minimum(1.0, np.arange(1, at.step + 1) / kl_warmup) if kl_warmup else np.ones(at.step)
    return {"step": np.arange(at.step), **curves, "kl_weight": weights}


def _trained(guide: AmortizedGuide, weights: Mapping[str, torch.Tensor]) -> AmortizedGuide:
    """The guide with an encoder of its own, so that a module of the user's stays as it was."""
    encoder: nn.Module = copy.deepcopy(guide.encoder)
    encoder.load_state_dict({**encoder.state_dict(), **weights})
    return AmortizedGuide(encoder.eval(), guide.split, guide.features, guide.kind, guide.covariance)


def guide_from(state: Mapping[str, Any], model: Model) -> AmortizedGuide | None:
    """The trained guide that a training's state holds; None where it had none, or one with a module of the user's."""
    spec = state.get("amortized")
    if spec is None:
        return None
    given: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()}
    guide = Amortized(**given).build(model)
    names = {name: f"param/guide/{name}" for name, _ in guide.encoder.named_parameters()}
    return _trained(guide, {name: state[key] for name, key in names.items()})
