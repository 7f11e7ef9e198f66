"""Importance sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import SettingError, one_of, positive, positive_int
from phlogiston.inference.method import Needs, Result
from phlogiston.inference.particles.proposals import Proposal, checked, from_posterior, from_prior, from_program
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.weights import effective_sample_size, log_mean_exp, pareto_smooth, systematic_resample

Values = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Importance:
    r"""Draw from a proposal, weigh by what the model says of each draw.

    With :math:`z_i \sim q`, weights :math:`w_i = p(x, z_i) / q(z_i)` give the evidence
    :math:`\hat p(x) = \frac1N \sum_i w_i` (unbiased) and expectations :math:`\sum_i w_i f(z_i) / \sum_i w_i`
    (consistent), the latter with Pareto-smoothed weights. k-hat and the effective sample size say whether the
    weights can be trusted.

    Args:
        num_particles: draws from the proposal. They are evaluated in chunks: memory holds their weights, and at
            most ``max_draws`` of the particles themselves.
        proposal: "prior"; another program over the same sites (its other latents are drawn from the prior), as a
            function of the same inputs or of none, or as a ``Model``; or an earlier ``Posterior``, to which a density
            is fitted on the unconstrained scale.
        family: of the density fitted to an earlier posterior: "student_t" (wider tails, safer) or "normal".
        degrees_of_freedom: of that Student-t.
        max_draws: with more particles than this, that many are resampled in proportion to their weights and kept.
        engine: the tier to use.

    Raises:
        ImpossibleEvidence: every weight is zero.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, chapter 9, https://artowen.su.domains/mc/;
        Vehtari et al. (2024), https://arxiv.org/abs/1507.02646

    Example:
        >>> def coin():
        ...     p = pyro.sample("p", dist.Beta(2.0, 3.0))
        ...     pyro.sample("heads", dist.Binomial(10, p))
        >>> post = ph.infer(ph.Model(coin).observe(heads=7.0), ph.Importance(num_particles=100_000), seed=0)
        >>> bool(abs(post.log_evidence.value + 2.526728) < 4 * post.log_evidence.se)
        True
    """

    num_particles: int = 10_000
    proposal: Literal["prior"] | Callable[..., Any] | Model | Posterior = "prior"
    family: Literal["student_t", "normal"] = "student_t"
    degrees_of_freedom: float = 5.0
    max_draws: int = 1_000_000
    engine: Tier = "auto"

    paper: ClassVar[str] = "Kahn and Marshall 1953; Vehtari et al. 2024"
    needs: ClassVar[Needs] = Needs(proper_prior=True)

    def __post_init__(self) -> None:
        positive_int(num_particles=self.num_particles, max_draws=self.max_draws)
        positive(degrees_of_freedom=self.degrees_of_freedom)
        one_of(("student_t", "normal"), family=self.family)
        one_of(TIERS, engine=self.engine)
        if (
            self.proposal != "prior"
            and not callable(self.proposal)
            and not isinstance(self.proposal, (Model, Posterior))
        ):
            raise SettingError(
                f"proposal: found {self.proposal!r}; expected 'prior', a program, a Model or a Posterior"
            )

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        proposal = self._proposal(model)
        drawing, resampling = spawn(seed, 2)
        keep = self.num_particles <= self.max_draws
        log_weights, draws = self._first_pass(proposal, drawing, keep, progress)
        evidence = log_mean_exp(log_weights)
        smoothed, khat = pareto_smooth(log_weights)
        figures = {
            "pareto_k": khat,
            "ess": effective_sample_size(log_weights),
            "num_particles": float(self.num_particles),
        }
        if proposal.outside:
            figures["outside_proposal"] = proposal.outside
        if not keep:
            picked = systematic_resample(smoothed, self.max_draws, generator(resampling))
            draws = self._second_pass(proposal, drawing, picked, progress)
        return Result(
            draws=draws,
            log_weights=torch.from_numpy(log_weights) if keep else None,
            log_evidence=Estimate(evidence.value, evidence.se),
            figures=figures,
            engine=proposal.engine(),
        )

    def _proposal(self, model: Model) -> Proposal:
        if isinstance(self.proposal, str):
            return from_prior(model, self.engine)
        if isinstance(self.proposal, Posterior):
            degrees = self.degrees_of_freedom if self.family == "student_t" else None
            return from_posterior(model, self.proposal, degrees, self.engine)
        guide = self.proposal if isinstance(self.proposal, Model) else model.with_program(self.proposal)
        return from_program(model, guide, self.engine)

    def _chunks(self, proposal: Proposal, seed: np.random.SeedSequence, progress: bool, label: str) -> Iterator[Values]:
        with tqdm(total=self.num_particles, desc=label, unit="particle", disable=None if progress else True) as bar:
            for chunk in checked(proposal.target, proposal.draw(self.num_particles, seed)):
                bar.update(chunk["log_weight"].shape[0])
                yield chunk

    def _first_pass(
        self, proposal: Proposal, seed: np.random.SeedSequence, keep: bool, progress: bool
    ) -> tuple[np.ndarray, Values]:
        log_weights = np.empty(self.num_particles)
        kept: Values = {}
        start = 0
        for chunk in self._chunks(proposal, seed, progress, "importance"):
            stop = start + chunk["log_weight"].shape[0]
            log_weights[start:stop] = chunk.pop("log_weight").double().numpy()
            if keep:
                for name, value in chunk.items():
                    if name not in kept:
                        kept[name] = _empty(self.num_particles, value)
                    kept[name][start:stop] = value
            start = stop
        return log_weights, kept

    def _second_pass(
        self, proposal: Proposal, seed: np.random.SeedSequence, picked: np.ndarray, progress: bool
    ) -> Values:
        """Draw the same particles again and keep those that were picked (sorted indices)."""
        kept: dict[str, list[torch.Tensor]] = {}
        start = 0
        for chunk in self._chunks(proposal, seed, progress, "resampling"):
            stop = start + chunk.pop("log_weight").shape[0]
            first, last = np.searchsorted(picked, [start, stop])
            rows = torch.from_numpy(picked[first:last] - start)
            for name, value in chunk.items():
                kept.setdefault(name, []).append(value[rows])
            start = stop
        order = torch.from_numpy(generator(seed).permutation(picked.size))
        return {name: torch.cat(parts)[order] for name, parts in kept.items()}


def _empty(rows: int, like: torch.Tensor) -> torch.Tensor:
    """An empty tensor made by NumPy, whose large arrays come in large pages and are filled twice as fast."""
    return torch.from_numpy(np.empty((rows, *like.shape[1:]), dtype=like[:0].numpy().dtype))
