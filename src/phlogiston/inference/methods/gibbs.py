"""Gibbs sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar

from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import positive_int
from phlogiston.inference.mcmc.gibbs import GibbsBlock, on_all_latents, values_of_all
from phlogiston.inference.mcmc.run import ChainRun, check_settings, run_chains
from phlogiston.inference.method import Needs
from phlogiston.inference.starts import Start
from phlogiston.model.model import Model


@dataclass(frozen=True, kw_only=True)
class Gibbs:
    r"""Draw each latent in turn from its conditional given all others.

    A sweep draws :math:`z_b \sim p(z_b \mid z_{-b}, x)` for every block :math:`b`. Discrete latents with finitely many
    values are enumerated: :math:`p(z_b = k \mid \cdot) \propto p(z_b = k, z_{-b}, x)`. A continuous latent whose
    conditional is normal, gamma, inverse gamma, beta, Dirichlet or truncated normal is drawn from it, whichever
    prior and likelihood make it so: the conditional :math:`\exp(\eta \cdot \phi(z_b))` is read off the joint density
    at a few points, compared with it at others (to 1e-8) before the run, and every draw passes a Metropolis test
    that a right form always passes. The rest moves by random walks that adapt in warm-up.

    Which terms of the density each latent enters is found by moving it. Latents that share no term are independent
    given the rest and move in parallel, in a plate or out of it; every sweep compares the density with the sum of
    what its moves changed, and a sampler that finds a difference moves one at a time from then on.

    Args:
        num_samples: draws per chain.
        num_warmup: sweeps before, not kept.
        num_chains: chains. All of a block move in one call of the density.
        num_steps: sweeps per draw.
        blocks: site names that are drawn jointly, such as ``[["mu", "tau"], ["z"]]``: discrete ones by enumeration of
            their joint states, real ones from a joint normal where they have one, others by a joint walk. By default
            each element of each site is drawn on its own, and real vectors as a whole.
        chains_per_block: chains that share a warm-up; the draws depend on it, and not on where blocks run.
        initial: where chains begin, as for ``NUTS``; values by site may name discrete sites too, which are else drawn
            from the prior.
        engine: the tier that evaluates the density.

    Raises:
        SettingError: a block names an unknown site, or no block has some latent (named).
        ModelError: no starting point has a finite density; names the site.

    References:
        Geman and Geman (1984), https://doi.org/10.1109/TPAMI.1984.4767596; Gelfand and Smith (1990),
        https://doi.org/10.1080/01621459.1990.10476213; in parallel by colours: Gonzalez, Low, Gretton and
        Guestrin (2011), https://proceedings.mlr.press/v15/gonzalez11a.html

    Example:
        >>> def program():
        ...     weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
        ...     with pyro.plate("data", 3):
        ...         z = pyro.sample("z", dist.Bernoulli(weight))
        ...         pyro.sample("x", dist.Normal(2.0 * z - 1.0, 1.0))
        >>> model = ph.Model(program).observe(x=[-1.5, 0.3, 2.0])
        >>> post = ph.infer(model, ph.Gibbs(num_samples=500, num_warmup=100), seed=0, progress=False)
        >>> post.draws["z"].shape, float(post.stats["acceptance_rate"].min()) > 0.999  # all conditionals are exact
        (torch.Size([4, 500, 3]), True)
    """

    num_samples: int = 1000
    num_warmup: int = 500
    num_chains: int = 4
    num_steps: int = 1
    blocks: Sequence[Sequence[str]] | None = None
    chains_per_block: int = 64
    initial: Start | Mapping[str, Any] = "uniform"
    engine: Tier = "auto"

    runs_chains: ClassVar[bool] = True
    paper: ClassVar[str] = "Geman and Geman 1984"
    needs: ClassVar[Needs] = Needs(continuous="any", discrete="any", density=True)

    def __post_init__(self) -> None:
        check_settings(self)
        positive_int(num_steps=self.num_steps)

    __call__ = run_chains

    def chain_run(self, model: Model, executor: Executor | None) -> ChainRun:
        """The sampler that the settings make, and what it samples."""
        blocks = None if self.blocks is None else tuple(tuple(block) for block in self.blocks)
        sampler = GibbsBlock(num_warmup=self.num_warmup, sweeps=self.num_steps, blocks=blocks)
        return ChainRun(sampler=sampler, steps_per_draw=self.num_steps, setup=on_all_latents, to_values=values_of_all)
