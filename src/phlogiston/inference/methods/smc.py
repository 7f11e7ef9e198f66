"""Sequential Monte Carlo from the prior to the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from phlogiston.engine.program.isolate import generator
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import ImpossibleEvidence, SettingError, one_of, open_unit_interval, positive_int, problem
from phlogiston.inference.method import Needs, Result
from phlogiston.inference.particles.moves import Move, move_of
from phlogiston.inference.particles.tempering import Annealing, Stage, from_the_prior, seeds_for
from phlogiston.inference.particles.weighted import values_of
from phlogiston.model.model import Model
from phlogiston.stats.estimate import Estimate

_STAGES_EXPECTED = 8


@dataclass(frozen=True, kw_only=True)
class SMC:
    r"""Particles that follow the prior as it turns into the posterior: draws and evidence, several modes included.

    Through :math:`\pi_t(u) \propto p(u)\, p(x \mid u)^{\beta_t}` from :math:`\beta_0 = 0` to 1: each step is as long
    as leaves the wanted fraction of effective particles, the particles are resampled (systematically) and moved by
    kernels that keep :math:`\pi_t`, and :math:`\hat Z = \prod_t \frac1N \sum_i p(x \mid u_i)^{\beta_t - \beta_{t-1}}`.
    Waste-free, few particles are resampled and every state on their way is a particle of the next step.

    The particles live on islands that share temperatures and step sizes and nothing else. The evidence is the mean of
    theirs, its standard error their spread; the draws of an island are laid out as a chain, each walker's states
    together, so that R-hat and ESS see islands that disagree and walkers that hardly move.

    Args:
        num_particles: of all islands; a multiple of ``num_chains`` (and of ``num_steps`` times that, if waste-free).
        num_chains: islands; 16 give the standard error 15 degrees of freedom.
        num_steps: states of a walker (waste-free), else moves, at each temperature.
        moves: "hmc", "mh" for random walks without gradients, or a ``ph.Move`` of your own; step size and covariance
            are learned on the way.
        waste_free: whether all states on the way are kept.
        ess: fraction of effective particles that a step in temperature leaves; a larger one takes more steps.
        target_accept_prob: acceptance that the step size is adapted to; by default 0.8 for "hmc", and the
            best rate of a random walk for "mh".
        engine: the tier that evaluates the density.

    Raises:
        UnsupportedModel: a prior is improper, or a discrete latent cannot be enumerated.
        ImpossibleEvidence: the likelihood is zero at every draw from the prior.

    References:
        Del Moral, Doucet and Jasra (2006), https://doi.org/10.1111/j.1467-9868.2006.00553.x; Dau and Chopin (2022),
        Waste-free sequential Monte Carlo, https://arxiv.org/abs/2011.02328; Buchholz, Chopin and Jacob (2021),
        Adaptive tuning of Hamiltonian Monte Carlo within sequential Monte Carlo, https://arxiv.org/abs/1808.07730

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), "smc", seed=0, progress=False)
        >>> bool(abs(post.log_evidence.value + 1.823657) < 4 * post.log_evidence.se)
        True
    """

    num_particles: int = 4096
    num_chains: int = 16
    num_steps: int = 8
    moves: str | Move = "hmc"
    waste_free: bool = True
    ess: float = 0.5
    target_accept_prob: float | None = None
    engine: Tier = "auto"

    paper: ClassVar[str] = "Del Moral, Doucet and Jasra 2006, Dau and Chopin 2022"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", proper_prior=True, density=True)

    def __post_init__(self) -> None:
        positive_int(num_particles=self.num_particles, num_chains=self.num_chains, num_steps=self.num_steps)
        open_unit_interval(ess=self.ess)
        if self.target_accept_prob is not None:
            open_unit_interval(target_accept_prob=self.target_accept_prob)
        move_of(self.moves)
        one_of(TIERS, engine=self.engine)
        unit = self.num_chains * (self.num_steps if self.waste_free else 1)
        if self.num_chains < 2 or (self.waste_free and self.num_steps < 2):
            found = f"num_chains={self.num_chains}, num_steps={self.num_steps}"
            raise SettingError(problem("SMC", found=found, expected="at least 2 islands, and 2 states if waste-free"))
        if self.num_particles % unit or self.num_particles < 2 * unit:
            found = f"{self.num_particles} for {self.num_chains} islands" + f" x {self.num_steps}" * self.waste_free
            fix = f"num_particles={max(2, round(self.num_particles / unit)) * unit}"
            raise SettingError(problem("num_particles", found=found, expected="a multiple, at least twice", fix=fix))

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target, move = model.target(self.engine), move_of(self.moves)
        starting, moving, recovering, _ = seeds_for(seed)
        rows = self.num_particles // (self.num_steps if self.waste_free else 1)
        calls = _STAGES_EXPECTED * (self.num_steps + 1) * move.evaluations
        path = target.tempered(rows, calls)
        annealing = Annealing(
            move=move,
            islands=self.num_chains,
            num_steps=self.num_steps,
            waste_free=self.waste_free,
            ess=self.ess,
            acceptance=self.target_accept_prob,
        )
        with tqdm(total=1.0, desc="smc", unit="beta", disable=None if progress else True) as bar:
            walkers = from_the_prior(target, path, self.num_particles, starting)
            walkers, rates, stages = annealing.run(path, walkers, generator(moving), lambda beta: _show(bar, beta))
        u = torch.from_numpy(np.ascontiguousarray(walkers.u.T))
        shape = (self.num_chains, -1)
        values = values_of(target, u, recovering)
        return Result(
            draws={name: value.reshape(*shape, *value.shape[1:]) for name, value in values.items()},
            stats={
                "lp": torch.from_numpy(walkers.value(1.0).reshape(shape)),
                "acceptance_rate": torch.from_numpy(rates.reshape(shape)),
            },
            is_chain=True,
            log_evidence=evidence_of(stages),
            figures={
                "acceptance_rate": float(np.mean([stage.acceptance for stage in stages])),
                "num_temperatures": float(len(stages)),
                "num_particles": float(self.num_particles),
                "gradients": float(path.evaluations),
                "step_size": stages[-1].kernel.step_size,
            },
            engine=path.engine,
        )


def _show(bar: Any, beta: float) -> None:
    bar.n = round(beta, 4)
    bar.refresh()


def evidence_of(stages: list[Stage]) -> Estimate:
    """The mean of the islands' evidences, with the error that their spread gives it.

    Raises:
        ImpossibleEvidence: the likelihood became zero on every island.
    """
    logs: NDArray[np.float64] = np.sum([stage.log_increment for stage in stages], axis=0)
    top = float(logs.max())
    if top == -math.inf:
        raise ImpossibleEvidence("all islands came to likelihood zero; use more particles, or check the data")
    relative = np.exp(logs - top)
    error = float(relative.std(ddof=1)) / (float(relative.mean()) * math.sqrt(relative.size))
    return Estimate(top + math.log(float(relative.mean())), error)
