"""Pathfinder: normals along the way to the modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from phlogiston.engine.program.isolate import spawn
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import one_of, positive_int
from phlogiston.inference.method import Needs, Result, known_start
from phlogiston.inference.optimise.normal_approx import multipath, resampled
from phlogiston.inference.particles.weighted import values_of, weighted
from phlogiston.inference.starts import Start, proposal, spread_points
from phlogiston.model.model import Model


@dataclass(frozen=True, kw_only=True)
class Pathfinder:
    r"""Quick approximation: climb to the modes, and keep of each path the normal with the highest ELBO.

    Along each path the steps of L-BFGS give an estimate :math:`\Sigma_l` of the inverse Hessian; of the normals
    :math:`N(u_l + \Sigma_l \nabla \log p(u_l), \Sigma_l)` the one with the highest ELBO is kept. The draws come from
    the mixture of all paths' normals and carry their weights under it, so evidence and expectations are those of
    importance sampling, Pareto-smoothed.

    Args:
        num_samples: draws from the mixture.
        num_paths: climbers.
        max_steps: of each climber.
        elbo_draws: draws by which a normal along a path is judged.
        resample: whether to return draws that count the same, resampled in proportion to their weights.
        initial: where the climbers begin: "uniform", "prior", "median", or values by site.
        engine: the tier to use.

    References:
        Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder: parallel quasi-Newton variational inference,
        https://arxiv.org/abs/2108.03782

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), ph.Pathfinder(), seed=0)
        >>> bool(abs(post.log_evidence.value + 1.823658) < 0.01)
        True
    """

    num_samples: int = 2000
    num_paths: int = 8
    max_steps: int = 100
    elbo_draws: int = 16
    resample: bool = False
    initial: Start | Mapping[str, Any] = "uniform"
    engine: Tier = "auto"

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "Zhang et al. 2022"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(
            num_samples=self.num_samples,
            num_paths=self.num_paths,
            max_steps=self.max_steps,
            elbo_draws=self.elbo_draws,
        )
        one_of(TIERS, engine=self.engine)
        known_start(self.initial)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target = model.target(self.engine)
        starting, finding, picking, discrete = spawn(seed, 4)
        propose = proposal(target, self.initial, self.num_paths)
        start = spread_points(target, propose, starting, self.num_paths)
        paths = multipath(
            target,
            start,
            finding,
            num_draws=self.num_samples,
            elbo_draws=self.elbo_draws,
            max_steps=self.max_steps,
        )
        u = torch.from_numpy(paths.points)
        made = weighted(target, values_of(target, u, discrete), torch.from_numpy(paths.log_p - paths.log_q))
        if self.resample:
            kept = torch.from_numpy(resampled(paths, self.num_samples, picking))
            made["draws"] = values_of(target, kept, discrete)
            made["log_weights"] = None
        made["figures"]["paths"] = float(len(paths.normals))
        return Result(
            **made,
            engine=target.engine_of("density_and_grad"),
            history={"elbo": np.sort(paths.elbos)},
        )
