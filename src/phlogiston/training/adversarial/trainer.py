"""``Adversarial``: settings of the game, checked, and what is returned."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from phlogiston.engine.learning.adam import AdamState
from phlogiston.engine.program.isolate import as_int, seed_sequence, spawn
from phlogiston.engine.trace import devices
from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import (
    ConvergenceWarning,
    DataFileError,
    SettingError,
    non_negative,
    non_negative_int,
    one_of,
    positive,
    positive_int,
    problem,
    unit_interval,
    warn,
)
from phlogiston.model.model import Model
from phlogiston.training.adam import Adam
from phlogiston.training.adversarial.critics import Critic, Standard
from phlogiston.training.adversarial.data import Comparison, compared
from phlogiston.training.adversarial.loop import NAMES, GanRun, GanState, play
from phlogiston.training.adversarial.losses import LOSSES, Loss, loss_of
from phlogiston.training.adversarial.monitor import Monitor, Schedule, split
from phlogiston.training.adversarial.steps import GanSteps, Regularisers
from phlogiston.training.fitted import Fitted
from phlogiston.training.networks import in_evaluation, refuse_batch_statistics


def _optimiser() -> Adam:
    return Adam(learning_rate=2e-3, beta1=0.0, beta2=0.99)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    r"""Train a program's output against a critic that tells its draws from data: a GAN.

    Critic :math:`D` and generator :math:`G` alternate, each with one loss and the gradient by its own parameters only:

    .. math:: \min_G \max_D \; E_{x \sim \text{data}}\, h(D(x)) + E_{z \sim p}\, \tilde h(D(G(z)))

    The default pairs data with draws (relativistic) and penalises the critic's squared gradient at both (R1 + R2),
    which makes the game converge; learning rates fall to nothing along a cosine and the mean of the generator's
    parameters is what the result holds. It was set on ``models/gan_ring.py`` and ``models/gan_grid.py``: many small
    steps, as sharp edges between modes take steps and not rows.

    Args:
        critic: a module of data ``[B, ...]`` (then one argument for each other observed site of the plate, such as a
            class) that gives ``[B]`` or ``[B, 1]``; None for two hidden layers of 128.
        loss: "relativistic", "non_saturating", "minimax" (saturating), "hinge", "least_squares", "wasserstein" (with
            ``gradient_penalty`` or ``clip_weights``), or the variational bound of an f-divergence: "f_kl",
            "f_reverse_kl", "f_js", "f_pearson", "f_hellinger". Or a ``ph.Loss`` of your own.
        r1: weight of the critic's squared gradient at data, halved, for data measured in their own standard deviation.
        r2: the same at draws.
        gradient_penalty: weight of the squared distance of the gradient's norm from one, between data and draws.
        spectral_norm: divide each of the critic's matrices by its largest singular value.
        clip_weights: largest absolute parameter of the critic.
        instance_noise: standard deviation of noise on data and draws, at the start.
        instance_noise_steps: in which that noise falls to nothing; 0 keeps it.
        label_smoothing: share of the label of data that is given away.
        packing: rows that the critic judges together (PacGAN).
        num_steps: of the generator.
        critic_steps: of the critic before each of them.
        batch_size: rows a step.
        optim: of the generator.
        critic_optim: of the critic; None for the generator's.
        final_rate: what learning rates fall to along a cosine, as a share.
        ema: decay of the mean of the generator's parameters; 0 keeps the last ones.
        check_every: steps between two looks at held-out data (a tenth of the rows, at most 1,000, where 50 can be
            spared): sliced Wasserstein distance, data left out, and how the critic does; 0 for none.
        patience: steps without a smaller distance to held-out data after which training stops; 0 for no such rule.
        frames: pictures of the draws that are kept for ``Fitted.film``.
        site: the site that is compared, where more than one was observed.
        precision: "float32", "float64" or "bfloat16" (networks compute in it, parameters stay float32).
        engine: "auto" compiles where there are many steps; "compiled", "graph" and "loop" insist.
        device: where steps run: "cpu", "cuda", "cuda:1", or "auto", the first GPU where there is one and a step has
            work enough for it. Data and players are moved; random numbers are drawn on the CPU, where results are too.

    Raises:
        ModelError: data that are not finite or out of the output's range, or a critic with another output.
        UnsupportedModel: a program without a latent, or without an output to compare.
        SettingError: a batch larger than the data.

    References:
        Goodfellow et al. (2014), Generative adversarial networks. https://arxiv.org/abs/1406.2661
        Huang, Gokaslan, Kuleshov and Tompkin (2024), The GAN is dead. https://arxiv.org/abs/2501.05441

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def program():
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     with pyro.plate("n", 256):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.deterministic("x", loc + z)
        >>> data = 2.0 + torch.randn(256, generator=torch.Generator().manual_seed(0))
        >>> model = ph.Model(program).observe(x=data)
        >>> quick = ph.Adversarial(num_steps=300, batch_size=64, engine="graph", optim=ph.Adam(learning_rate=0.03))
        >>> fitted = ph.train(model, quick, seed=0, progress=False)
        >>> bool(abs(fitted.params["loc"] - data.mean()) < 0.5)
        True
    """

    critic: torch.nn.Module | None = None
    loss: str | Loss = "relativistic"
    r1: float = 0.02
    r2: float = 0.02
    gradient_penalty: float = 0.0
    spectral_norm: bool = False
    clip_weights: float | None = None
    instance_noise: float = 0.0
    instance_noise_steps: int = 0
    label_smoothing: float = 0.0
    packing: int = 1
    num_steps: int = 15_000
    critic_steps: int = 1
    batch_size: int = 128
    optim: Adam = field(default_factory=_optimiser)
    critic_optim: Adam | None = None
    final_rate: float = 0.0
    ema: float = 0.999
    check_every: int = 100
    patience: int = 0
    frames: int = 16
    site: str | None = None
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    engine: Tier = "auto"
    device: str = "cpu"

    paper: ClassVar[str] = "Goodfellow et al. 2014; Huang et al. 2024"

    def __post_init__(self) -> None:
        if isinstance(self.loss, str):
            one_of(tuple(LOSSES), loss=self.loss)
        loss = loss_of(self.loss)
        one_of(("float32", "float64", "bfloat16"), precision=self.precision)
        one_of(("auto", "compiled", "graph", "loop"), engine=self.engine)
        devices.check(self.device)
        positive_int(
            num_steps=self.num_steps,
            critic_steps=self.critic_steps,
            batch_size=self.batch_size,
            packing=self.packing,
        )
        non_negative_int(
            instance_noise_steps=self.instance_noise_steps,
            check_every=self.check_every,
            patience=self.patience,
            frames=self.frames,
        )
        if self.clip_weights is not None:
            positive(clip_weights=self.clip_weights)
        non_negative(r1=self.r1, r2=self.r2, gradient_penalty=self.gradient_penalty, instance_noise=self.instance_noise)
        unit_interval(label_smoothing=self.label_smoothing, ema=self.ema, final_rate=self.final_rate)
        self._check_kinds()
        if self.label_smoothing and not loss.smoothable:
            able = ", ".join(name for name in LOSSES if LOSSES[name].smoothable)
            raise SettingError(problem("label_smoothing", found=f"loss={self.loss!r}", expected=f"one of {able}"))
        if self.batch_size % self.packing:
            raise SettingError(
                problem("packing", found=f"{self.packing} for batches of {self.batch_size}", expected="a divisor of it")
            )

    def _check_kinds(self) -> None:
        """Refuse networks and optimisers of another kind."""
        given: dict[str, Any] = {"optim": self.optim, "critic_optim": self.critic_optim or self.optim}
        for name, optim in given.items():
            if not isinstance(optim, Adam):
                fix = f"{name}=ph.Adam(learning_rate=1e-3)"
                raise SettingError(problem(name, found=repr(optim), expected="a ph.Adam", fix=fix))
        critic: Any = self.critic
        if critic is not None and not isinstance(critic, torch.nn.Module):
            fix = f"critic={critic.__name__}()" if isinstance(critic, type) else ""
            raise SettingError(problem("critic", found=repr(critic), expected="a torch.nn.Module", fix=fix))

    def fit(
        self,
        model: Model,
        *,
        seed: int,
        progress: bool = True,
        resume_from: Fitted | None = None,
        checkpoint: Path | None = None,
    ) -> Fitted:
        """Train; see the class."""
        began, before = time.perf_counter(), 0.0 if resume_from is None else resume_from.seconds
        seed = seed if resume_from is None or resume_from.seed is None else resume_from.seed
        playing, making, watching = spawn(seed_sequence(seed), 3)
        refuse_batch_statistics(model, self.critic)
        table = compared(model, self.site, torch.float64 if self.precision == "float64" else torch.float32)
        self._fits(len(table.data), table.generator.site.name)
        training, held_out = split(len(table.data), self.batch_size, watching)
        run = self._run(training)
        critic = self._critic(table, as_int(making))
        players = self._players(table, critic)
        monitor = Monitor(table, critic, loss_of(self.loss), training, held_out, self._schedule, watching)
        start = self._start(table, critic, resume_from, run, monitor.data)
        networks = (*critic.initial, *start.generator.params)
        device = devices.chosen(self.device, devices.operations_of(self.batch_size, networks))

        def finished(at: GanState) -> Fitted:
            return self._fitted(model, table, at, monitor, seed, before + time.perf_counter() - began)

        def watched(at: GanState) -> GanState:
            at = monitor(at)
            if checkpoint is not None:
                finished(at).save(checkpoint)
            return at

        found = play(
            players,
            run,
            playing,
            monitor(start),
            tier=self.engine,
            progress=progress,
            device=device,
            after_window=watched,
        )
        if found.ending.bad_step is not None:
            warn(f"train: {found.ending.reason}; write: a tenth of the learning rate, or clip=1.0", ConvergenceWarning)
        for alarm in found.alarms:
            if not alarm.until:
                warn(f"train: {alarm}; try {alarm.action}", ConvergenceWarning)
        return finished(found)

    def _players(self, table: Comparison, critic: Critic) -> GanSteps:
        regularisers = Regularisers(
            r1=self.r1,
            r2=self.r2,
            gradient_penalty=self.gradient_penalty,
            unit=critic.standard.scale,
            smooth=self.label_smoothing,
            half=self.precision == "bfloat16",
        )
        graph = table.generator.traced(self.batch_size)
        return GanSteps(
            table.generator,
            critic,
            loss_of(self.loss),
            regularisers,
            table.data,
            table.conditions,
            graph,
            instance_noise=self.instance_noise > 0.0,
        )

    @property
    def _schedule(self) -> Schedule:
        return Schedule(every=self.check_every, patience=self.patience, frames=self.frames, steps=self.num_steps)

    def _fits(self, rows: int, site: str) -> None:
        if self.batch_size > rows:
            raise SettingError(
                problem(
                    "batch_size",
                    found=f"{self.batch_size} for {rows} rows of {site!r}",
                    expected="at most as many as there are data",
                    fix=f"batch_size={rows - rows % self.packing}",
                )
            )

    def _run(self, training: torch.Tensor) -> GanRun:
        other = self.critic_optim or self.optim
        return GanRun(
            num_steps=self.num_steps,
            training=training,
            batch_size=self.batch_size,
            critic_steps=self.critic_steps,
            critic_optim=other.config,
            generator_optim=self.optim.config,
            critic_rate=other.learning_rate,
            generator_rate=self.optim.learning_rate,
            final=self.final_rate,
            ema=self.ema,
            instance_noise=self.instance_noise,
            instance_noise_steps=self.instance_noise_steps,
            clip=self.clip_weights,
        )

    def _critic(self, table: Comparison, seed: int) -> Critic:
        index = torch.arange(2 * self.packing) % len(table.data)
        return Critic(
            self.critic,
            table.data[index],
            tuple(value[index] for value in table.conditions),
            standard=Standard.of(table.data),
            classes=table.classes,
            packing=self.packing,
            spectral=self.spectral_norm,
            seed=seed,
        )

    def _start(
        self, table: Comparison, critic: Critic, before: Fitted | None, run: GanRun, rows: torch.Tensor
    ) -> GanState:
        own = tuple(param.unconstrained.to(table.data.dtype) for param in table.generator.learned.values())
        fresh = GanState(
            AdamState.at(critic.initial), AdamState.at(own), tuple(v.clone() for v in own), np.zeros((0, len(NAMES)))
        )
        if before is None:
            return fresh
        if "ema" not in before.state:
            raise DataFileError(
                problem("resume_from", found=f"a {before.method} training", expected="an adversarial one")
            )
        if not torch.equal(torch.as_tensor(before.state["data"]).to(rows.dtype), rows):
            found = "a training on other data, or with another batch_size"
            raise DataFileError(problem("resume_from", found=found, expected="the data that it was trained on"))
        at = GanState.from_state(before.state)
        shapes = [[tuple(v.shape) for v in (*s.critic.params, *s.generator.params)] for s in (at, fresh)]
        if shapes[0] != shapes[1]:
            raise DataFileError(
                problem("resume_from", found="players of another shape", expected="this program and this critic")
            )
        if at.step >= run.num_steps:
            found = f"{run.num_steps}, and {at.step} steps done already"
            raise SettingError(problem("num_steps", found=found, expected="more", fix=f"num_steps={2 * at.step}"))
        return at

    def _fitted(
        self, model: Model, table: Comparison, at: GanState, monitor: Monitor, seed: int, seconds: float
    ) -> Fitted:
        kept, reason = at.mean if self.ema else at.generator.params, at.ending.reason
        lasting = [alarm.kind for alarm in at.alarms if not alarm.until]
        if at.best and (at.ending.converged or lasting):
            kept, why = at.best, "" if at.ending.converged else f" under an alarm ({', '.join(lasting)})"
            reason = f"{reason}{why}; the parameters of step {at.best_step}, nearest to the data, are kept"
        learned = table.generator.learned.items()
        params = {name: param.constrained(value) for (name, param), value in zip(learned, kept, strict=True)}
        draws = monitor.drawn(kept)
        last = at.records[-200:].mean(0) if at.step else np.full(len(NAMES), np.nan)
        figures = {"steps": float(at.step), **{name: float(v) for name, v in zip(NAMES, last, strict=True)}}
        if at.checks:
            figures |= {"distance": monitor.distance(draws), "left_out": monitor.left_out(draws)}
        return Fitted(
            model=in_evaluation(table.without(model)).with_parameters(params),
            method="adversarial",
            history=_curves(at),
            converged=at.ending.converged,
            stop_reason=reason,
            figures=figures,
            state=at.state() | {"site": table.generator.site.name, "data": monitor.data, "draws": draws},
            seed=seed,
            seconds=seconds,
            engine=at.engine,
            interrupted=at.ending.interrupted,
            warnings=tuple(map(str, at.alarms)),
        )


def _curves(at: GanState) -> dict[str, np.ndarray]:
    """Of every step, and, by "check_step", of every check."""
    of_steps = {name: at.records[:, i] for i, name in enumerate(NAMES)}
    steps = {
        "step": np.arange(at.step),
        **{n: of_steps[n] for n in sorted(NAMES, key=lambda n: n[-4:] not in ("loss", "norm"))},
    }
    names = dict.fromkeys(name for check in at.checks for name in check)  # another loss may have other checks
    return {f"check_{name}": np.array([check.get(name, np.nan) for check in at.checks]) for name in names} | steps
