"""Hamiltonian Monte Carlo with a fixed, a jittered or a learnt trajectory length."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import positive, positive_int, unit_interval
from phlogiston.inference.mcmc.adaptation import MassMatrix
from phlogiston.inference.mcmc.hmc import HmcBlock
from phlogiston.inference.mcmc.run import ChainRun, check_hamiltonian, check_settings, run_chains
from phlogiston.inference.method import Needs
from phlogiston.inference.starts import Start
from phlogiston.model.model import Model


@dataclass(frozen=True, kw_only=True)
class HMC:
    r"""Trajectories of Hamiltonian dynamics, as long for all chains, accepted or rejected at their ends.

    From :math:`(u, p)`, :math:`p \sim N(0, I)`, the leapfrog integrator follows
    :math:`H(u, p) = -\log \pi(u) + \frac12 p^\top p` in standardised coordinates for a time :math:`s\,T`, and the end
    is accepted with probability :math:`\min(1, e^{-\Delta H})`. :math:`T` is learnt across chains in warm-up (ChEES),
    or given; the fraction :math:`s` runs through a Halton sequence, so that no period of the target is hit. In step,
    there is nothing but gradients: with many chains the fastest method where no trajectory must be much longer than
    others. Where it has not mixed, R-hat says so.

    Args:
        num_samples: draws per chain.
        num_warmup: warm-up transitions per chain, not kept.
        num_chains: chains; the trajectory length is learnt from all chains of a block, so many are better.
        target_accept_prob: acceptance that the step size is adapted to.
        step_size: at the start of the adaptation.
        trajectory_length: "adapt", or a time in units of the latents' standard deviations.
        num_steps: leapfrogs per trajectory, instead of a length.
        jitter: how much of the length varies: the fraction is spread over [1 - jitter, 1].
        mass_matrix: "dense" learns every correlation, "diag" none, "low_rank" the few that matter among many
            latents; "auto" is dense for up to 50 unconstrained numbers and diag beyond.
        chains_per_block: chains that share a warm-up; the draws depend on it, and not on where blocks run.
        initial: where chains begin: "uniform" in [-2, 2] (unconstrained), "prior" draws, near the prior "median",
            draws of "pathfinder", or values by site, ``[*site shape]`` or ``[num_chains, *site shape]``.
        dtype: "float64" or "float32".
        engine: the tier that evaluates the density.

    Raises:
        UnsupportedModel: a discrete latent cannot be enumerated.
        ModelError: no starting point has a finite density; names the site.

    References:
        Duane, Kennedy, Pendleton and Roweth (1987), https://doi.org/10.1016/0370-2693(87)91197-X; Hoffman, Radul and
        Sountsov (2021), https://proceedings.mlr.press/v130/hoffman21a.html

    Example:
        >>> model = ph.Model(lambda: pyro.sample("z", dist.Normal(3.0, 1.0)))
        >>> post = ph.infer(model, ph.HMC(num_samples=300, num_warmup=200), seed=0, progress=False)
        >>> post.draws["z"].shape
        torch.Size([64, 300])
    """

    num_samples: int = 500
    num_warmup: int = 500
    num_chains: int = 64
    target_accept_prob: float = 0.8
    step_size: float = 1.0
    trajectory_length: float | Literal["adapt"] = "adapt"
    num_steps: int | None = None
    jitter: float = 1.0
    mass_matrix: MassMatrix = "auto"
    chains_per_block: int = 64
    initial: Start | Mapping[str, Any] = "uniform"
    dtype: Literal["float64", "float32"] = "float64"
    engine: Tier = "auto"

    runs_chains: ClassVar[bool] = True
    paper: ClassVar[str] = "Duane et al. 1987; Hoffman et al. 2021"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        check_settings(self)
        check_hamiltonian(
            step_size=self.step_size,
            target_accept_prob=self.target_accept_prob,
            mass_matrix=self.mass_matrix,
            dtype=self.dtype,
        )
        positive_int(num_steps=1 if self.num_steps is None else self.num_steps)
        if self.trajectory_length != "adapt":
            positive(trajectory_length=self.trajectory_length)
        unit_interval(jitter=self.jitter)

    __call__ = run_chains

    def chain_run(self, model: Model, executor: Executor | None) -> ChainRun:
        """The sampler that the settings make, and what it samples."""
        sampler = HmcBlock(
            num_warmup=self.num_warmup,
            target_accept_prob=self.target_accept_prob,
            step_size=self.step_size,
            mass_matrix=self.mass_matrix,
            length=None if self.trajectory_length == "adapt" else float(self.trajectory_length),
            num_steps=self.num_steps,
            jitter=self.jitter,
        )
        return ChainRun(sampler=sampler, steps_per_draw=8, dtype=self.dtype)
