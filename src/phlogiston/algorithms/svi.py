"""Stochastic variational inference: inference as optimisation of a bound on the evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from phlogiston.algorithms.approximate import weighted
from phlogiston.algorithms.needs import Needs, one_of, positive, positive_int, require
from phlogiston.engine import Target
from phlogiston.engine.batched import TIERS, Tier
from phlogiston.engine.isolate import generator, spawn
from phlogiston.errors import ConvergenceWarning, SettingError, problem, warn
from phlogiston.kernels.ascent import Climb, Objective, Schedule, climb
from phlogiston.kernels.bounds import Bound, Gradient, bound_and_gradient
from phlogiston.kernels.guides import Guide
from phlogiston.kernels.named_guides import GUIDES, first_point, named_guide
from phlogiston.kernels.optimisers import Adam
from phlogiston.kernels.starts import STARTS, Start
from phlogiston.model import Model
from phlogiston.posterior import Posterior

BOUNDS: tuple[str, ...] = ("elbo", "iwae", "renyi")
_OPTIM = Adam(learning_rate=0.05)


@dataclass(frozen=True, kw_only=True)
class SVI:
    r"""Fit a guide to the posterior by climbing a lower bound of the log evidence.

    For a guide :math:`q_\phi` maximises
    :math:`\mathcal L(\phi) = E_{q_\phi}[\log p(x, z) - \log q_\phi(z)] = \log p(x) - \mathrm{KL}[q_\phi, p(z \mid x)]`,
    or a tighter bound from several draws. The gap that is left is measured: ``post.gap``, from ``post.log_evidence``
    (importance-sampled from the guide) and ``post.elbo``; the draws carry their weights, and k-hat says whether they
    can be trusted. Discrete latents that can be enumerated are summed out, then drawn back.

    Args:
        guide: "normal" (independent), "multivariate_normal", "low_rank" (normals with any covariance, or one of
            ``rank`` directions beside the diagonal), "structured" (elements of a plate depend on what is outside it,
            not on each other), "delta" (a point): densities on the unconstrained scale.
        bound: "elbo"; "iwae", the importance-weighted bound of ``num_particles`` draws; "renyi", of order ``alpha``.
        gradient: "sticking" leaves the guide's own score out, whose mean is zero: sticking the landing, and DReG for
            the importance-weighted bound; "pathwise" keeps it.
        alpha: order of Rényi's bound, below 1.
        num_particles: draws a step.
        num_steps: at most.
        window: steps over which the bound is smoothed.
        tolerance: a rise of the smoothed bound that does not count, in nats.
        optim: the optimiser; its learning rate falls each time the bound stops rising.
        num_samples: draws from the guide, in the end.
        rank: of "low_rank".
        initial: where the guide starts: "uniform", "prior", "median", or values by site.
        engine: the tier to use.

    References:
        Kucukelbir et al. (2017), https://arxiv.org/abs/1603.00788; Roeder et al. (2017),
        https://arxiv.org/abs/1703.09194; Burda et al. (2016), https://arxiv.org/abs/1509.00519; Tucker et al. (2019),
        https://arxiv.org/abs/1810.04152; Li and Turner (2016), https://arxiv.org/abs/1602.02311

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), ph.SVI(engine="graph"), seed=0)
        >>> bool(post.gap.value < 0.001)
        True
    """

    guide: Literal["delta", "normal", "multivariate_normal", "low_rank", "structured"] = "normal"
    bound: Bound = "elbo"
    gradient: Gradient = "sticking"
    alpha: float = 0.5
    num_particles: int = 8
    num_steps: int = 20_000
    window: int = 200
    tolerance: float = 0.005
    optim: Adam = _OPTIM
    num_samples: int = 1000
    rank: int = 5
    initial: Start | Mapping[str, Any] = "uniform"
    engine: Tier = "auto"

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "Hoffman et al. 2013; Kucukelbir et al. 2017"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(
            num_particles=self.num_particles,
            num_steps=self.num_steps,
            window=self.window,
            num_samples=self.num_samples,
            rank=self.rank,
        )
        positive(tolerance=self.tolerance)
        one_of(GUIDES, guide=self.guide)
        one_of(BOUNDS, bound=self.bound)
        one_of(("sticking", "pathwise"), gradient=self.gradient)
        one_of(TIERS, engine=self.engine)
        if self.bound == "renyi" and not self.alpha < 1.0:
            raise SettingError(problem("alpha", found=repr(self.alpha), expected="a number below 1, for a lower bound"))
        if not isinstance(self.optim, Adam):
            raise SettingError(problem("optim", found=repr(self.optim), expected="ph.Adam(learning_rate=...)"))
        if not isinstance(self.initial, Mapping):
            one_of(STARTS, initial=self.initial)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Posterior:
        """Infer; see the class."""
        began = time.perf_counter()
        model = require(self, model)
        target = model.target(self.engine)
        starting, climbing, drawing, discrete = spawn(seed, 4)
        guide = named_guide(self.guide, target, first_point(target, self.initial, starting), self.rank)
        found = climb(
            _objective(self, guide, target),
            self.optim,
            Schedule(num_steps=self.num_steps, window=self.window, tolerance=self.tolerance),
            climbing,
            tier=self.engine,
            progress=progress,
        )
        params = dict(zip(guide.initial, found.averaged, strict=True))
        _warn(found, target, guide, params)
        noise = torch.from_numpy(generator(drawing).standard_normal((guide.width, self.num_samples)))
        u = guide.draw(params, noise)
        made = weighted(
            target, u.mT.contiguous(), guide.log_prob(params, u), discrete, lenient=found.bad_step is not None
        )
        made["figures"] |= {"converged": float(found.converged), "steps": float(found.steps)}
        return Posterior(
            **made,
            method="svi",
            model=model,
            seed=seed,
            seconds=time.perf_counter() - began,
            engine=found.engine,
            interrupted=found.interrupted,
            history={"elbo": found.bounds, "learning_rate": found.rates},
            stop_reason=found.stop_reason,
            state={f"guide/{name}": value.numpy() for name, value in params.items() if value.numel()},
        )

    @property
    def order(self) -> float:
        r"""The order :math:`\alpha` of the bound: 1 for the ELBO, 0 for the importance-weighted bound."""
        return {"elbo": 1.0, "iwae": 0.0, "renyi": self.alpha}[self.bound]


def _objective(settings: SVI, guide: Guide, target: Target) -> Objective:
    evaluate, reason = target.columns()
    names, sticking = tuple(guide.initial), settings.gradient == "sticking"

    def looped(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = target.value_and_grad(u.mT.contiguous())
        return value, gradient.mT

    def gradient(params: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...]) -> Any:
        own = dict(zip(names, params, strict=True))
        bound, found = bound_and_gradient(guide, evaluate or looped, own, inputs[0], settings.order, sticking)
        return bound, tuple(found[name] for name in names)

    def inputs(seed: np.random.SeedSequence, first: int, count: int) -> Any:
        noise = generator(seed).standard_normal((count, guide.width, settings.num_particles))
        yield (torch.from_numpy(noise),)

    return Objective(names, tuple(guide.initial.values()), gradient, inputs, reason)


def _warn(found: Climb, target: Target, guide: Guide, params: Mapping[str, torch.Tensor]) -> None:
    if found.bad_step is not None:
        noise = generator(0).standard_normal((guide.width, 1000))
        u = guide.draw(params, torch.from_numpy(noise)).mT.contiguous()
        value, gradient = target.value_and_grad(u)
        bad = ~(torch.isfinite(value) & torch.isfinite(gradient).all(-1))
        warn(
            f"svi: step {found.bad_step} met a bound or gradient that is not finite; the last finite parameters are "
            f"kept. {target.explain_no_start(u[bad][0] if bad.any() else u[0])}",
            ConvergenceWarning,
        )
    elif not found.converged and not found.interrupted:
        warn(f"svi: {found.stop_reason}; ph.SVI(num_steps=...) gives it more", ConvergenceWarning)
