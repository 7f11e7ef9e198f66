"""Annealed importance sampling, and bounds from both sides on data whose latents are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from phlogiston.engine.densities.target import Target
from phlogiston.engine.densities.tempered import Tempered
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import UnsupportedModel, one_of, positive_int, problem
from phlogiston.inference.method import Needs, Result, require
from phlogiston.inference.particles.moves import Kernel, Move, Walkers, evaluate_at, move_of
from phlogiston.inference.particles.tempering import Annealing, from_the_prior, seeds_for
from phlogiston.inference.particles.weighted import values_of
from phlogiston.model.model import Model
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.weights import effective_sample_size, log_mean_at_least, log_mean_exp, pareto_smooth

Array = NDArray[np.float64]
_PILOT, _PILOT_STEPS, _PILOT_ESS = 512, 8, 0.5
_MISS = 0.025  # the probability with which each bound of a sandwich may be wrong
_UNTIED = 20  # moves that take walkers apart which start at one point


@dataclass(frozen=True)
class Sandwich:
    r"""The log evidence of simulated data, from below and from above.

    With weights :math:`w` of runs from the prior and :math:`v` of runs from a posterior draw, :math:`E[w] = p(x)` and
    :math:`E[1 / v] = 1 / p(x)` exactly, however badly the kernels mix. ``interval`` holds :math:`\log p(x)` with
    probability 0.95 at least: on each side a bound that is wrong with probability 0.025 at most. It asks for runs that
    are independent, not for normal errors or a finite variance; it costs about 2.7 standard errors on each side, and in
    practice misses much more rarely than it might (two standard errors would miss in 5 to 7 % of cases). Runs from the
    prior are independent; those from the posterior all begin at the only exact draw that there is, and 20 moves at beta
    one take them apart. ``guaranteed`` does without that: by Markov's inequality alone a mean weight exceeds
    :math:`p(x) / 0.025` with probability 0.025 at most, so it is 3.7 nats wider on each side than the means.

    Args:
        lower: log of the mean weight of runs from the prior to the posterior: too low on average.
        upper: minus the log of the mean inverse weight of runs from the posterior to the prior: too high on average.
        interval: that holds the log evidence with probability 0.95 at least.
        model: the model with the data that were simulated.

    References:
        Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
        https://arxiv.org/abs/2010.09686
    """

    lower: Estimate
    upper: Estimate
    interval: tuple[float, float]
    model: Model

    @classmethod
    def of(cls, forwards: Array, backwards: Array, model: Model) -> Sandwich:
        """The sandwich from the log weights of runs in both directions."""
        above = log_mean_exp(-backwards)
        return cls(
            lower=log_mean_exp(forwards),
            upper=Estimate(-float(above.value), above.se),
            interval=(log_mean_at_least(forwards, _MISS), -log_mean_at_least(-backwards, _MISS)),
            model=model,
        )

    @property
    def guaranteed(self) -> tuple[float, float]:
        """The interval without the assumption that runs are independent."""
        return float(self.lower.value) + math.log(_MISS), float(self.upper.value) - math.log(_MISS)

    @property
    def gap(self) -> Estimate:
        """Upper minus lower: an upper bound, on average, of how far either is off."""
        return Estimate(self.upper.value - self.lower.value, float(np.hypot(self.lower.se, self.upper.se)))

    def __str__(self) -> str:
        low, high = self.interval
        return f"log evidence in [{low:.4f}, {high:.4f}] (from below {self.lower}, from above {self.upper})"


@dataclass(frozen=True, kw_only=True)
class AIS:
    r"""Independent runs from the prior to the posterior, each with an importance weight: an unbiased evidence.

    A run moves through :math:`\pi_t(u) \propto p(u)\, p(x \mid u)^{\beta_t}` by kernels :math:`K_t` that keep
    :math:`\pi_t`, and its weight is :math:`w = \prod_t p(x \mid u_{t-1})^{\beta_t - \beta_{t-1}}`, with
    :math:`E[w] = p(x)` however badly the kernels mix. Temperatures, step sizes and covariances are learnt in a pilot
    run of ``SMC`` and fixed. The draws are the runs' ends with their weights, so that k-hat and ESS apply to them.

    Args:
        num_particles: runs; they are independent.
        num_temperatures: steps from the prior to the posterior, spread over the stages of the pilot.
        num_steps: moves at each.
        moves: "hmc", "mh" for random walks without gradients, or a ``ph.Move`` of your own.
        engine: the tier that evaluates the density.

    Raises:
        UnsupportedModel: a prior is improper, or a discrete latent cannot be enumerated.
        ImpossibleEvidence: the likelihood is zero at every draw from the prior.

    References:
        Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008; Grosse, Ghahramani and Adams
        (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo, https://arxiv.org/abs/1511.02543

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> model = ph.Model(program).observe(y=1.0)
        >>> post = ph.infer(model, ph.AIS(num_temperatures=30), seed=0, progress=False)
        >>> bool(abs(post.log_evidence.value + 1.823657) < 4 * post.log_evidence.se)
        True
        >>> both = ph.AIS(num_temperatures=30).sandwich(model, seed=0)
        >>> both.interval[0] < both.interval[1]
        True
    """

    num_particles: int = 512
    num_temperatures: int = 100
    num_steps: int = 1
    moves: str | Move = "hmc"
    engine: Tier = "auto"

    paper: ClassVar[str] = "Neal 2001"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", proper_prior=True, density=True)

    def __post_init__(self) -> None:
        positive_int(num_particles=self.num_particles, num_temperatures=self.num_temperatures, num_steps=self.num_steps)
        move_of(self.moves)
        one_of(TIERS, engine=self.engine)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target = model.target(self.engine)
        starting, moving, recovering, piloting = seeds_for(seed)
        path = self._path(target)
        ladder = self._ladder(target, path, piloting)
        walkers = from_the_prior(target, path, self.num_particles, starting)
        walkers, weights, rate = self._forwards(path, walkers, ladder, generator(moving), progress)
        values = values_of(target, torch.from_numpy(np.ascontiguousarray(walkers.u.T)), recovering)
        evidence = log_mean_exp(weights)
        return Result(
            draws=values,
            log_weights=torch.from_numpy(weights),
            log_evidence=Estimate(evidence.value, evidence.se),
            figures={
                "pareto_k": pareto_smooth(weights)[1],
                "ess": effective_sample_size(weights),
                "num_particles": float(self.num_particles),
                "acceptance_rate": rate,
                "gradients": float(path.evaluations),
            },
            engine=path.engine,
        )

    def sandwich(self, model: Model, *, seed: int | None = None) -> Sandwich:
        r"""Bounds from both sides on data simulated from the model: how far this method is off, measured.

        Latents and data are drawn together, so the latents are an exact draw from the posterior of the data; runs
        backwards from there estimate :math:`1 / p(x)` without bias. What the gap is for simulated data is what it is
        likely to be for the data at hand.

        Args:
            model: a model with proper priors; what it observes is replaced.
            seed: of the data and of all runs.

        Raises:
            UnsupportedModel: as for the method; or a factor or a scaled site cannot be simulated.
        """
        model = require(self, model)
        for site in model.structure.sites:
            if site.role == "factor" or site.scaled:
                found = f"a {'factor' if site.role == 'factor' else 'scaled density'}, which is no distribution of data"
                raise UnsupportedModel(problem(f"site {site.name!r}", found=found, expected="observed sites only"))
        simulating, starting, moving, piloting = spawn(seed, 4)
        drawn = model.target(self.engine).simulate({}, 1, simulating)
        data: dict[str, Any] = {site.name: drawn[site.name][0] for site in model.structure.observable}
        simulated = model.observe(**data)
        target = simulated.target(self.engine)
        path = self._path(target)
        ladder = self._ladder(target, path, piloting)
        rng = generator(moving)
        walkers = from_the_prior(target, path, self.num_particles, starting)
        _, forwards, _ = self._forwards(path, walkers, ladder, rng, False)
        truth = target.unconstrain({site.name: drawn[site.name] for site in target.structure.continuous})
        backwards = self._backwards(path, np.repeat(truth.double().numpy().T, self.num_particles, 1), ladder, rng)
        return Sandwich.of(forwards, backwards, simulated)

    def _path(self, target: Target) -> Tempered:
        per_move = move_of(self.moves).evaluations
        return target.tempered(self.num_particles, self.num_temperatures * (1 + self.num_steps * per_move))

    def _ladder(self, target: Target, path: Tempered, seed: np.random.SeedSequence) -> list[Kernel]:
        """The kernel at every temperature, the last at beta one: each stage of a pilot is divided evenly."""
        starting, moving = spawn(seed, 2)
        annealing = Annealing(
            move=move_of(self.moves),
            islands=2,
            num_steps=_PILOT_STEPS,
            waste_free=True,
            ess=_PILOT_ESS,
            acceptance=None,
        )
        walkers = from_the_prior(target, path, _PILOT, starting)
        *_, stages = annealing.run(path, walkers, generator(moving), lambda beta: None)
        knots = np.array([0.0, *(stage.kernel.beta for stage in stages)])
        betas = np.interp(np.linspace(0.0, len(stages), self.num_temperatures + 1)[1:], np.arange(knots.size), knots)
        places = np.minimum(np.searchsorted(knots[1:], betas - 1e-15), len(stages) - 1)
        return [replace(stages[p].kernel, beta=float(b)) for p, b in zip(places, betas, strict=True)]

    def _forwards(
        self, path: Tempered, walkers: Walkers, ladder: list[Kernel], rng: np.random.Generator, progress: bool
    ) -> tuple[Walkers, Array, float]:
        """Run from the prior to beta one; return the ends, their log weights, and the mean acceptance."""
        weights, beta, rates = np.zeros(walkers.prior.size), 0.0, []
        for move in tqdm(ladder, desc="ais", unit="beta", disable=None if progress else True):
            weights += (move.beta - beta) * walkers.likelihood
            beta = move.beta
            walkers, rate = self._moved(path, walkers, move, rng)
            rates.append(rate)
        return walkers, weights, float(np.mean(rates))

    def _backwards(self, path: Tempered, u: Array, ladder: list[Kernel], rng: np.random.Generator) -> Array:
        """Run from a posterior draw to the prior; return the log weights that the same runs would have forwards."""
        walkers = evaluate_at(path, u, 1.0)
        for _ in range(_UNTIED):
            walkers, _ = self._moved(path, walkers, ladder[-1], rng)
        weights = np.zeros(walkers.prior.size)
        below = [0.0, *(move.beta for move in ladder[:-1])]
        for move, beta in zip(reversed(ladder), reversed(below), strict=True):
            walkers, _ = self._moved(path, walkers, move, rng)
            weights += (move.beta - beta) * walkers.likelihood
        return weights

    def _moved(self, path: Tempered, walkers: Walkers, move: Kernel, rng: np.random.Generator) -> tuple[Walkers, float]:
        """Apply reversible kernels, so that runs in both directions mirror each other."""
        walkers = replace(walkers, grad=path(walkers.u, move.beta)[2])
        rates = []
        for _ in range(self.num_steps):
            walkers, rate = move(path, walkers, rng)
            rates.append(float(rate.mean()))
        return walkers, float(np.mean(rates))
