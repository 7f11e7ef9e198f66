"""The mode of a posterior, and the normal around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import ConvergenceWarning, one_of, positive_int, warn
from phlogiston.inference.method import Needs, Result, known_start
from phlogiston.inference.optimise.lbfgs import FAR, Evaluate, Paths, climb_paths
from phlogiston.inference.optimise.mixture import Mixture
from phlogiston.inference.optimise.normal_approx import at_mode, evaluated
from phlogiston.inference.particles.weighted import values_of, weighted
from phlogiston.inference.starts import Start, proposal, spread_points
from phlogiston.model.model import Model


def _climbed(
    target: Target,
    evaluate: Evaluate,
    initial: Start | Mapping[str, Any],
    seed: np.random.SeedSequence,
    count: int,
    max_steps: int,
) -> Paths:
    start = spread_points(target, proposal(target, initial, count), seed, count)
    return climb_paths(evaluate, start, max_steps=max_steps)


def _top(target: Target, paths: Paths) -> tuple[NDArray[Any], dict[str, float], str]:
    """The highest point, figures of its climb, and why the climb ended."""
    best = paths.best
    point, gradient = paths.points[-1, best], paths.gradients[-1, best]
    steepest = int(np.abs(gradient).argmax())
    figures = {
        "log_density": float(paths.values[-1, best]),
        "gradient": float(np.abs(gradient).max()),
        "converged": float(paths.level[best] and np.abs(point).max() < FAR),
        "steps": float(len(paths.points) - 1),
    }
    reason = f"no climber rose any more after {len(paths.points) - 1} steps"
    if not figures["converged"]:
        slot = next(slot for slot in target.slots if slot.start <= steepest < slot.stop)
        reason = (
            f"no mode was found in {len(paths.points) - 1} steps, the density still rises along site "
            f"{slot.site.name!r} (gradient {gradient[steepest]:.3g} at {point[steepest]:.3g}, unconstrained); a scale "
            "that runs to zero has no mode: write the hierarchy non-centred, or ask for the posterior with 'nuts'"
        )
    return point, figures, reason


@dataclass(frozen=True, kw_only=True)
class MAP:
    r"""The most probable point of the posterior: one draw, without any measure of spread.

    It is :math:`\arg\max_z p(z \mid x)`. The density is that of the latents as the program writes them (no Jacobian),
    so the mode of a scale depends on how the scale is written; ``jacobian=True`` takes the density on the unconstrained
    scale. Discrete latents that can be enumerated are summed out, then drawn back.

    Args:
        num_starts: points to climb from; the highest top is kept.
        max_steps: of each climb.
        jacobian: whether the mode is that of the unconstrained density.
        initial: where to begin: "uniform", "prior", "median", or values by site.
        engine: the tier to use.

    Example:
        >>> def coin():
        ...     p = pyro.sample("p", dist.Beta(2.0, 3.0))
        ...     pyro.sample("heads", dist.Binomial(10, p))
        >>> post = ph.infer(ph.Model(coin).observe(heads=7.0), "map", seed=0)
        >>> round(float(post.draws["p"]), 4)  # (2 + 7 - 1) / (2 + 3 + 10 - 2)
        0.6154
    """

    num_starts: int = 8
    max_steps: int = 500
    jacobian: bool = False
    initial: Start | Mapping[str, Any] = "uniform"
    engine: Tier = "auto"

    exact: ClassVar[bool] = False
    is_random: ClassVar[bool] = False
    paper: ClassVar[str] = "Bayes 1763; Nocedal 1980"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(num_starts=self.num_starts, max_steps=self.max_steps)
        one_of(TIERS, engine=self.engine)
        known_start(self.initial)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target = model.target(self.engine)
        starting, discrete = spawn(seed, 2)
        evaluate = evaluated(target) if self.jacobian else _without_jacobian(target)
        paths = _climbed(target, evaluate, self.initial, starting, self.num_starts, self.max_steps)
        point, figures, reason = _top(target, paths)
        values = values_of(target, torch.from_numpy(point[None].copy()), discrete)
        return Result(
            draws=values,
            figures=figures,
            engine=target.engine_of("density_and_grad" if self.jacobian else "joint_and_grad"),
            history={"log_density": paths.values[:, paths.best]},
            stop_reason=reason,
        )


def _without_jacobian(target: Target) -> Evaluate:
    def evaluate(points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        value, gradient = target.joint_and_grad(torch.from_numpy(np.ascontiguousarray(points)))
        return value.double().numpy(), gradient.double().numpy()

    return evaluate


@dataclass(frozen=True, kw_only=True)
class Laplace:
    r"""The normal with the posterior's mode and curvature, on the unconstrained scale.

    :math:`q = N(\hat u, [-\nabla^2 \log p(\hat u)]^{-1})`. Where the climbs end at several modes,
    :math:`q = \sum_k \pi_k q_k` mixes their normals, :math:`\pi_k \propto p(\hat u_k) \, |\Sigma_k|^{1/2}`; modes
    that no climb found stay unknown, so more starts are safer where there may be several. The draws carry their
    weights, so that k-hat, evidence and gap say how far the posterior is from the mixture.

    Args:
        num_samples: draws.
        num_starts: points to climb from.
        max_steps: of each climb.
        initial: where to begin: "uniform", "prior", "median", or values by site.
        engine: the tier to use.

    References:
        Tierney and Kadane (1986), https://doi.org/10.1080/01621459.1986.10478240

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), "laplace", seed=0)
        >>> bool(abs(post.gap.value) < 1e-5)
        True
    """

    num_samples: int = 2000
    num_starts: int = 8
    max_steps: int = 500
    initial: Start | Mapping[str, Any] = "uniform"
    engine: Tier = "auto"

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "Laplace 1774; Tierney and Kadane 1986"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(num_samples=self.num_samples, num_starts=self.num_starts, max_steps=self.max_steps)
        one_of(TIERS, engine=self.engine)
        known_start(self.initial)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target = model.target(self.engine)
        starting, drawing, discrete = spawn(seed, 3)
        evaluate = evaluated(target)
        paths = _climbed(target, evaluate, self.initial, starting, self.num_starts, self.max_steps)
        mode, figures, reason = _top(target, paths)
        normal, smallest = at_mode(evaluate, mode)
        mixture = Mixture.of(evaluate, paths, normal) if figures["converged"] else Mixture.single(normal)
        if (modes := len(mixture.normals)) > 1:
            reason += f"; they ended at {modes} modes, which were mixed in proportion to height times volume"
        if smallest <= 0.0 and figures["converged"]:
            warn(
                f"laplace: the density is flat or rises in some direction at its mode (curvature {smallest:.3g}); the "
                "normal there is as wide as in the flattest direction that falls; use 'pathfinder', 'svi' or 'nuts'",
                ConvergenceWarning,
            )
        points = mixture.draw(self.num_samples, generator(drawing))
        u = torch.from_numpy(points)
        log_weights = target.log_density(u) - torch.from_numpy(mixture.log_prob(points))
        made = weighted(target, values_of(target, u, discrete), log_weights)
        figures |= {"laplace_evidence": mixture.log_evidence(paths.values[-1, paths.best]), "modes": float(modes)}
        made["figures"] |= figures
        return Result(
            **made,
            engine=target.engine_of("density_and_grad"),
            history={"log_density": paths.values[:, paths.best]},
            stop_reason=reason,
        )
