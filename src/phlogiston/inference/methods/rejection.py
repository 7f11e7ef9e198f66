"""Rejection sampling and approximate Bayesian computation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import (
    ImpossibleEvidence,
    RejectionWarning,
    SettingError,
    UnknownName,
    UnsupportedModel,
    did_you_mean,
    one_of,
    positive,
    positive_int,
    problem,
    warn,
)
from phlogiston.inference.method import Needs, Result
from phlogiston.inference.particles.proposals import checked
from phlogiston.inference.particles.rejection import Accepted, likelihood_bound
from phlogiston.model.model import Model
from phlogiston.stats.estimate import Estimate

Values = dict[str, torch.Tensor]
_ROUND = 65_536
_HOPELESS_AFTER = 500_000
_FEWEST_AFTER_A_RISE = 30


@dataclass(frozen=True, kw_only=True)
class Rejection:
    r"""Draw from the prior, keep a draw with probability proportional to its likelihood.

    A draw z is accepted with probability :math:`L(z)/M`, where :math:`L(z) = p(x \mid z)` and M bounds L from
    above; accepted draws are independent and exactly from the posterior, and the acceptance rate times M is an
    unbiased estimate of the evidence. With ``likelihood_bound="match"`` data are simulated and a draw is accepted
    when they equal the observations (a 0/1 likelihood; discrete data only). With ``tolerance`` it is accepted when
    they come close: the answer is then approximate (ABC).

    Args:
        num_samples: draws wanted.
        likelihood_bound: log M in nats; "find" (maximise the likelihood; if a draw exceeds what was found, the bound
            is raised and what was accepted so far is thinned to match); or "match".
        tolerance: ABC: observed site -> largest root-mean-square distance between simulated and observed values;
            a number serves every site.
        max_attempts: prior draws at most.
        engine: the tier to use.

    Raises:
        UnsupportedModel: "match" with continuous data, whose exact repetition has probability zero.
        SettingError: the bound given is exceeded by a draw.
        ImpossibleEvidence: nothing was accepted.

    References:
        von Neumann (1951), Various techniques used in connection with random digits;
        Beaumont (2019), Approximate Bayesian computation, https://doi.org/10.1146/annurev-statistics-030718-105212

    Example:
        >>> def coin():
        ...     p = pyro.sample("p", dist.Beta(2.0, 3.0))
        ...     pyro.sample("heads", dist.Binomial(10, p))
        >>> post = ph.infer(ph.Model(coin).observe(heads=7.0), ph.Rejection(likelihood_bound="match"), seed=0)
        >>> bool(abs(post.figures["acceptance_rate"] - 0.07992) < 0.01)  # the rate is the evidence
        True
    """

    num_samples: int = 1000
    likelihood_bound: float | Literal["find", "match"] = "find"
    tolerance: float | Mapping[str, float] | None = None
    max_attempts: int = 20_000_000
    engine: Tier = "auto"

    paper: ClassVar[str] = "von Neumann 1951"
    needs: ClassVar[Needs] = Needs(proper_prior=True)

    def __post_init__(self) -> None:
        positive_int(num_samples=self.num_samples, max_attempts=self.max_attempts)
        one_of(TIERS, engine=self.engine)
        if isinstance(self.likelihood_bound, str):
            if self.likelihood_bound not in ("find", "match"):
                raise SettingError(
                    problem("likelihood_bound", found=repr(self.likelihood_bound), expected="'find', 'match' or log M")
                )
        elif not isinstance(self.likelihood_bound, (int, float)) or not math.isfinite(self.likelihood_bound):
            raise SettingError(
                problem("likelihood_bound", found=repr(self.likelihood_bound), expected="a finite log M")
            )
        tolerances = self.tolerance.values() if isinstance(self.tolerance, Mapping) else [self.tolerance]
        for value in tolerances:
            if value is not None:
                positive(tolerance=value)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target = model.target(self.engine)
        finding, drawing, accepting = spawn(seed, 3)
        simulates = self.tolerance is not None or self.likelihood_bound == "match"
        bound = 0.0 if simulates else self._bound(target, finding)
        rounds = self._simulated(model, target, drawing) if simulates else self._weighted(target, drawing)
        accepted = Accepted(bound, may_rise=self.likelihood_bound == "find" and not simulates)
        self._run(rounds, accepted, generator(accepting), progress)
        if not accepted.count:
            raise ImpossibleEvidence(self._nothing(accepted))
        if accepted.rises and accepted.count < _FEWEST_AFTER_A_RISE:
            raise SettingError(
                problem(
                    "likelihood_bound",
                    found=f"no bound that holds (raised {accepted.rises} times, to {accepted.bound:.4f})",
                    expected="a proven log M, or another method",
                    fix="ph.Rejection(likelihood_bound=...)",
                )
            )
        self._report(accepted, simulates)
        values = accepted.values(self.num_samples)
        return Result(
            draws=values,
            log_evidence=self._evidence(accepted) if self.tolerance is None else None,
            figures={
                "acceptance_rate": accepted.rate,
                "attempts": float(accepted.attempts),
                **({} if simulates else {"log_likelihood_bound": accepted.bound}),
            },
            engine=target.engine_of("simulate:" if simulates else "propose"),
        )

    def _bound(self, target: Target, seed: np.random.SeedSequence) -> float:
        if isinstance(self.likelihood_bound, str):
            return likelihood_bound(target, seed)
        return float(self.likelihood_bound)

    def _weighted(self, target: Target, seed: np.random.SeedSequence) -> Iterator[Values]:
        """Prior draws with their log likelihood, for as long as they are asked for."""
        yield from checked(target, target.propose(self.max_attempts, seed, expected=_ROUND))

    def _simulated(self, model: Model, target: Target, seed: np.random.SeedSequence) -> Iterator[Values]:
        """Prior draws with log likelihood 0 where simulated and observed data agree, else -inf."""
        tolerances = self._tolerances(model)
        names = [site.name for site in model.structure.of("latent", "deterministic")]
        sizes = [min(_ROUND, self.max_attempts - start) for start in range(0, self.max_attempts, _ROUND)]
        for size, child in zip(sizes, spawn(seed, len(sizes)), strict=True):
            drawn = target.simulate({}, size, child)
            near = torch.ones(size, dtype=torch.bool)
            for name, observed in model.structure.observations.items():
                gap = (drawn[name].double() - observed.double()).reshape(size, -1)
                near &= gap.square().mean(-1).sqrt() <= tolerances[name]
            yield {**{name: drawn[name] for name in names}, "log_weight": torch.where(near, 0.0, -math.inf)}

    def _tolerances(self, model: Model) -> dict[str, float]:
        observed = model.structure.of("observed")
        for name in self.tolerance if isinstance(self.tolerance, Mapping) else ():
            if name not in {site.name for site in observed}:
                hint = did_you_mean(name, [site.name for site in observed])
                raise UnknownName(f"tolerance: program {model.name!r} observes no site {name!r}; {hint}")
        if model.structure.of("factor"):
            name = model.structure.of("factor")[0].name
            raise UnsupportedModel(
                problem(f"factor {name!r}", found="no way to simulate it", expected='likelihood_bound="find"')
            )
        tolerances: dict[str, float] = {}
        for site in observed:
            given = self.tolerance.get(site.name) if isinstance(self.tolerance, Mapping) else self.tolerance
            if given is None and not site.discrete:
                raise UnsupportedModel(
                    problem(
                        f"site {site.name!r}",
                        found="continuous observations, which a simulation repeats with probability zero",
                        expected="a tolerance or a bound on the likelihood",
                        fix=f'ph.Rejection(tolerance={{"{site.name}": 0.5}}) or ph.Rejection(likelihood_bound="find")',
                    )
                )
            tolerances[site.name] = float(given or 0.0)
        return tolerances

    def _run(self, rounds: Iterator[Values], accepted: Accepted, rng: np.random.Generator, progress: bool) -> None:
        with tqdm(total=self.num_samples, desc="rejection", unit="draw", disable=None if progress else True) as bar:
            for chunk in rounds:
                before = accepted.count
                excess = accepted.add(chunk, rng)
                if excess is not None:
                    raise SettingError(
                        problem(
                            "likelihood_bound",
                            found=f"a draw with log likelihood {excess:.6f}",
                            expected=f"none above {accepted.bound}",
                        )
                    )
                bar.update(min(accepted.count, self.num_samples) - min(before, self.num_samples))
                if accepted.count >= self.num_samples or self._is_hopeless(accepted):
                    return

    def _is_hopeless(self, accepted: Accepted) -> bool:
        """Whether all attempts would not do at an acceptance rate that is optimistic, judged after enough of them."""
        if accepted.attempts < _HOPELESS_AFTER:
            return False
        optimistic = (accepted.count + 3.0) / accepted.attempts
        return optimistic * self.max_attempts < self.num_samples

    def _evidence(self, accepted: Accepted) -> Estimate:
        error = math.sqrt((1.0 - accepted.rate) / accepted.count)
        return Estimate(accepted.bound + math.log(accepted.rate), error)

    def _nothing(self, accepted: Accepted) -> str:
        ceiling = accepted.bound + math.log(3.0 / accepted.attempts)
        advice = "raise the tolerance" if self.tolerance is not None else "use 'importance' or 'nuts'"
        return (
            f"rejection: none of {accepted.attempts} prior draws was accepted (log evidence below {ceiling:.1f} with "
            f"95 % confidence); check the data with model.check(), or {advice}"
        )

    def _report(self, accepted: Accepted, simulates: bool) -> None:
        if accepted.count < self.num_samples:
            warn(
                f"rejection: {accepted.count} of {self.num_samples} draws after {accepted.attempts} attempts "
                f"(acceptance rate {accepted.rate:.2g}); raise max_attempts, or use 'importance' or 'nuts'",
                RejectionWarning,
            )
        if accepted.rises and not simulates:
            warn(
                f"rejection: the likelihood bound found was exceeded {accepted.rises} times and raised to "
                f"{accepted.bound:.4f}; "
                f"give a proven one: likelihood_bound=...",
                RejectionWarning,
            )
