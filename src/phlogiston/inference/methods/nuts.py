"""The No-U-Turn sampler."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import positive_int
from phlogiston.inference.mcmc import precompile
from phlogiston.inference.mcmc.adaptation import MassMatrix
from phlogiston.inference.mcmc.nuts import NutsBlock
from phlogiston.inference.mcmc.run import ChainRun, check_hamiltonian, check_settings, run_chains
from phlogiston.inference.method import Needs
from phlogiston.inference.starts import Start
from phlogiston.model.model import Model


@dataclass(frozen=True, kw_only=True)
class NUTS:
    r"""Hamiltonian Monte Carlo whose trajectories stop when they turn back on themselves.

    Samples :math:`\pi(u) \propto p(x, T(u)) |\det T'(u)|` on the unconstrained scale. Every call of the compiled
    density advances all chains by one leapfrog, each at its own place in its own tree, so none waits for the
    longest. Chains of a block share step size and mass matrix, learnt from all of them in warm-up; afterwards they
    are independent. Discrete latents that can be enumerated are summed out, then drawn back, so they appear in the
    posterior.

    Args:
        num_samples: draws per chain.
        num_warmup: warm-up transitions per chain, not kept. Many chains learn faster: a hundred may do.
        num_chains: chains. Sixty-four cost little more than four.
        target_accept_prob: acceptance that the step size is adapted to; higher is slower and surer.
        max_tree_depth: trajectories have at most ``2**max_tree_depth - 1`` steps.
        step_size: at the start of the adaptation.
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
        Hoffman and Gelman (2014), https://arxiv.org/abs/1111.4246; Betancourt (2017), https://arxiv.org/abs/1701.02434;
        Dance, Glaser, Orbanz and Adams (2025), https://arxiv.org/abs/2503.17405

    Example:
        >>> model = ph.Model(lambda: pyro.sample("z", dist.Normal(3.0, 1.0)))
        >>> post = ph.infer(model, ph.NUTS(num_samples=1000, num_warmup=200), seed=0, progress=False)
        >>> post.draws["z"].shape
        torch.Size([4, 1000])
    """

    num_samples: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    target_accept_prob: float = 0.8
    max_tree_depth: int = 10
    step_size: float = 1.0
    mass_matrix: MassMatrix = "auto"
    chains_per_block: int = 64
    initial: Start | Mapping[str, Any] = "uniform"
    dtype: Literal["float64", "float32"] = "float64"
    engine: Tier = "auto"

    runs_chains: ClassVar[bool] = True
    paper: ClassVar[str] = "Hoffman and Gelman 2014"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        check_settings(self)
        check_hamiltonian(
            step_size=self.step_size,
            target_accept_prob=self.target_accept_prob,
            mass_matrix=self.mass_matrix,
            dtype=self.dtype,
        )
        positive_int(max_tree_depth=self.max_tree_depth)

    __call__ = run_chains

    def chain_run(self, model: Model, executor: Executor | None) -> ChainRun:
        """The sampler that the settings make, and what it samples."""
        sampler = NutsBlock(
            num_warmup=self.num_warmup,
            target_accept_prob=self.target_accept_prob,
            max_tree_depth=self.max_tree_depth,
            step_size=self.step_size,
            mass_matrix=self.mass_matrix,
            ready=precompile.begin(self.dtype) if executor is None else None,
        )
        return ChainRun(sampler=sampler, steps_per_draw=8, dtype=self.dtype)
