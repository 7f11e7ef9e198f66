"""Metropolis-Hastings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import (
    SettingError,
    one_of,
    open_unit_interval,
    positive,
    positive_int,
    problem,
)
from phlogiston.inference.mcmc.gibbs import GibbsBlock, can_be_summed_out, on_all_latents, values_of_all
from phlogiston.inference.mcmc.metropolis import (
    CustomBlock,
    IndependenceBlock,
    OnPool,
    Source,
    UserProposal,
    WalkBlock,
    on_the_marginal,
    on_values,
    values_of_latents,
)
from phlogiston.inference.mcmc.run import ChainRun, check_settings, run_chains
from phlogiston.inference.method import Needs, require
from phlogiston.inference.particles.proposals import from_posterior, from_prior, from_program
from phlogiston.inference.starts import Start
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior

_SUMMED_OUT = Needs(continuous="some", discrete="enumerable")
_LARGEST_TABLE = 1_000_000


def _require_values_and_rng(proposal: Callable[..., Any]) -> None:
    try:
        inspect.signature(proposal).bind({}, None)
    except TypeError as error:
        found = f"a function of ({', '.join(inspect.signature(proposal).parameters)})"
        fix = "def proposal(values, rng): return proposed, log_q_forth - log_q_back; or proposal=ph.Model(program)"
        raise SettingError(problem("proposal", found=found, expected="one of (values, rng)", fix=fix)) from error


@dataclass(frozen=True, kw_only=True)
class MH:
    r"""Propose a point, and accept or reject it.

    A proposal :math:`z' \sim q(\cdot \mid z)` is accepted with probability
    :math:`\min\{1, p(z', x) q(z \mid z') / (p(z, x) q(z' \mid z))\}`; all chains are proposed to and decided on in one
    call of the density. A density that is NaN is a rejection, counted in ``stats["num_nan"]``.

    ``proposal="random_walk"`` adds a normal step on the unconstrained scale; its size and its covariance are learnt
    in warm-up from all chains of a block and fixed afterwards. Discrete latents that can be enumerated are summed out,
    then drawn back. Where that cannot be done, or there is no continuous latent, each discrete one moves by symmetric
    steps of its own: up or down by an integer, or to any other state.

    ``proposal="independence"`` draws all latents from the prior, and the weight is the likelihood. A ``Posterior``
    proposes from a Student-t density with its moments, a ``Model`` from its own prior.

    A function ``proposal(values, rng)`` is given all latents by site, ``[chains, *site shape]``, on their own scale,
    and a NumPy generator, and returns new values (sites that it leaves out stay) with
    :math:`\log q(z' \mid z) - \log q(z \mid z')`, one number per chain; 0.0 for a symmetric one.

    Args:
        num_samples: draws per chain.
        num_warmup: draws before, not kept.
        num_chains: chains. Hundreds cost little more than four.
        num_steps: proposals per draw; all but the last are forgotten.
        proposal: "random_walk", "independence", a posterior, a model, or a function.
        step_size: of the random walk at first, as the standard deviation of a step; without warm-up, for good.
        target_accept_prob: acceptance that the random walk adapts to; by default 0.44 for one number, less for more,
            0.234 for many.
        chains_per_block: chains that share a warm-up; the draws depend on it, and not on where blocks run.
        initial: where chains begin, as for ``NUTS``; independent proposals begin at one of their own.
        engine: the tier that evaluates the density.

    Raises:
        SettingError: a proposal returns what it should not; says what.
        ModelError: no starting point has a finite density; names the site.
        ImpossibleEvidence: no independent proposal has a finite density.

    References:
        Metropolis et al. (1953), https://doi.org/10.1063/1.1699114; Hastings (1970),
        https://doi.org/10.1093/biomet/57.1.97; Haario, Saksman and Tamminen (2001), https://doi.org/10.2307/3318737;
        Roberts, Gelman and Gilks (1997), https://doi.org/10.1214/aoap/1034625254

    Example:
        >>> model = ph.Model(lambda: pyro.sample("n", dist.Poisson(4.0)))
        >>> def up_or_down(values, rng):
        ...     step = torch.from_numpy(rng.choice([-1.0, 1.0], size=len(values["n"])))
        ...     return {"n": values["n"] + step}, 0.0
        >>> method = ph.MH(proposal=up_or_down, num_chains=64, num_samples=500, num_warmup=100, num_steps=5)
        >>> post = ph.infer(model, method, seed=0, progress=False)
        >>> bool(abs(post.expect("n").value - 4.0) < 0.1)
        True
    """

    num_samples: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    num_steps: int = 1
    proposal: Literal["random_walk", "independence"] | Posterior | Model | UserProposal = "random_walk"
    step_size: float | None = None
    target_accept_prob: float | None = None
    chains_per_block: int = 64
    initial: Start | Mapping[str, Any] = "uniform"
    engine: Tier = "auto"

    runs_chains: ClassVar[bool] = True
    paper: ClassVar[str] = "Metropolis et al. 1953, Hastings 1970"
    needs: ClassVar[Needs] = Needs(continuous="any", discrete="any", density=True)

    def __post_init__(self) -> None:
        check_settings(self)
        positive_int(num_steps=self.num_steps)
        if self.step_size is not None:
            positive(step_size=self.step_size)
        if self.target_accept_prob is not None:
            open_unit_interval(target_accept_prob=self.target_accept_prob)
        if isinstance(self.proposal, str):
            one_of(("random_walk", "independence"), proposal=self.proposal)
            return
        given: Any = self.proposal
        if not isinstance(given, (Posterior, Model)) and not callable(given):
            found, expected = type(given).__name__, "a name, a posterior, a model or a function"
            raise SettingError(problem("proposal", found=found, expected=expected))
        if not isinstance(given, (Posterior, Model)):
            _require_values_and_rng(given)

    __call__ = run_chains

    def chain_run(self, model: Model, executor: Executor | None) -> ChainRun:
        """The sampler that the proposal asks for, and how its draws become values."""
        run = functools.partial(ChainRun, steps_per_draw=self.num_steps)
        if self.proposal == "random_walk":
            return self._random_walk(model, run)
        source = self._source()
        if source is not None:
            independent = IndependenceBlock(num_warmup=self.num_warmup, num_steps=self.num_steps)
            return run(sampler=independent, setup=OnPool(source), to_values=values_of_latents)
        proposal: Any = self.proposal
        custom = CustomBlock(proposal=proposal, num_warmup=self.num_warmup, num_steps=self.num_steps)
        return run(sampler=custom, setup=on_values, to_values=values_of_latents)

    def _random_walk(self, model: Model, run: Callable[..., ChainRun]) -> ChainRun:
        """A walk on the continuous latents alone where the discrete ones can be summed out, else on all."""
        require(self, model)
        target = model.target(self.engine)
        length, step, wanted = self.num_warmup, self.step_size, self.target_accept_prob
        if _SUMMED_OUT.unmet(model.structure) is None and can_be_summed_out(target, _LARGEST_TABLE):
            walk = WalkBlock(num_warmup=length, num_steps=self.num_steps, step_size=step, target_accept_prob=wanted)
            return run(sampler=walk, setup=on_the_marginal)
        walks = GibbsBlock(
            num_warmup=length, sweeps=self.num_steps, walks_only=True, step_size=step, target_accept_prob=wanted
        )
        return run(sampler=walks, setup=on_all_latents, to_values=values_of_all)

    def _source(self) -> Source | None:
        proposal = self.proposal
        if proposal == "independence":
            return from_prior
        if isinstance(proposal, Posterior):
            return lambda model, tier: from_posterior(model, proposal, 5.0, tier)
        if isinstance(proposal, Model):
            return lambda model, tier: from_program(model, proposal, tier)
        return None
