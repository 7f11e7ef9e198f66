"""What a check is given: a posterior, with the quantities that several checks need, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.errors import ModelError
from phlogiston.inference.improper import coordinates
from phlogiston.model.model import Model
from phlogiston.posterior.labels import Labels, numbered
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.verdict import Check

Array = NDArray[Any]
Made = TypeVar("Made")

MOST_DRAWS = 2_000  # draws at which the density is evaluated
MOST_DRAWS_IN_A_LOOP = 400  # the same where the density is evaluated draw by draw
MOST_WEIGHTED_DRAWS = 20_000  # the same for weighted draws, many of which have next to no weight
MOST_NUMBERS = 2_000_000


class Diagnostic(Protocol):
    """A diagnostic of a posterior; give an object with these methods to ``posterior.diagnose(extra=[...])``.

    Example:
        >>> class SignOfSlope:
        ...     def applies(self, subject):
        ...         return "slope" in subject.posterior.draws
        ...     def checks(self, subject):
        ...         share = subject.posterior.expect(lambda draw: draw["slope"] > 0).value
        ...         return [ph.Check("sign of the slope", f"positive with probability {share:.2f}")]
        >>> model = ph.Model(lambda: pyro.sample("slope", dist.Normal(9.0, 1.0)))
        >>> found = ph.infer(model, "importance", seed=0).diagnose(extra=[SignOfSlope()])
        >>> found.checks[-1].outcome
        'positive with probability 1.00'
    """

    def applies(self, subject: Subject) -> bool:
        """Whether this diagnostic has anything to say about the posterior."""

    def checks(self, subject: Subject) -> Sequence[Check]:
        """The outcome of each check that was made, or the reason why it could not be made."""


@dataclass(frozen=True)
class Evaluated:
    """The density of a model at some of the draws of a posterior.

    Args:
        target: the density.
        u: the draws on the unconstrained scale, ``[chain, draw, D]``; NaN outside the support.
        gradient: the gradient of the log density there, ``[chain, draw, D]``.
        weights: the weights of the draws, ``[chain, draw]``, or None.
    """

    target: Target
    u: Array
    gradient: Array
    weights: Array | None

    @property
    def is_slow(self) -> bool:
        """Whether the density is evaluated point by point."""
        return self.target.engine_of("density_and_grad").startswith("loop")

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which draws, in every chain, have finite coordinates and a finite gradient, ``[draw]``."""
        return np.asarray((np.isfinite(self.u).all(2) & np.isfinite(self.gradient).all(2)).all(0))

    def log_density(self, rows: Array) -> Array:
        """Log density at points ``[N, D]``, ``[N]``."""
        return np.asarray(self.target.log_density(torch.from_numpy(rows).to(self.target.dtype)).double().numpy())


@dataclass(frozen=True, eq=False)
class Subject:
    """A posterior that is judged.

    Args:
        posterior: the posterior.
        thorough: whether checks may evaluate the model.
    """

    posterior: Posterior
    thorough: bool = True
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[Subject], Made]) -> Made:
        """What a function makes of this posterior, made when it is first asked for under this name."""
        if name not in self._made:
            self._made[name] = make(self)
        made: Made = self._made[name]
        return made

    @cached_property
    def labels(self) -> Labels:
        """What each position along each dimension of a site is called."""
        return self.posterior.model.labels if self.posterior.model is not None else numbered

    @cached_property
    def draws(self) -> dict[str, Array]:
        """Site -> draws ``[chain, draw, ...]``."""
        return {name: value.numpy() for name, value in self.posterior.draws.items()}

    @cached_property
    def weights(self) -> Array | None:
        """Normalised weights ``[chain, draw]``, or None."""
        return None if self.posterior.weights is None else self.posterior.weights.numpy()

    @property
    def model(self) -> Model | None:
        """The model, where the posterior has one."""
        return self.posterior.model

    @cached_property
    def why_not_evaluated(self) -> str:
        """Why the density of the model cannot be evaluated at the draws; "" where it can."""
        try:
            return "" if self.evaluated is not None else self._missing
        except ModelError as error:  # for instance, discrete latents that cannot be summed out
            return str(error).partition(";")[0]

    @property
    def _missing(self) -> str:
        if self.model is None:
            return "no model; ph.load(path, model=model)"
        return next((f"no draws of {s.name}" for s in self.model.structure.continuous if s.name not in self.draws), "")

    @cached_property
    def evaluated(self) -> Evaluated | None:
        """The density at some of the draws; None without a model or where draws of a continuous latent are missing.

        Raises:
            ModelError: the density cannot be evaluated.
        """
        if self.model is None or self._missing or not self.model.structure.continuous:
            return None
        posterior, target = self.posterior, self.model.target()
        names = [site.name for site in target.structure.continuous]
        chains, draws = posterior.draws[names[0]].shape[:2]
        target.value_and_grad(torch.zeros(1, target.dim, dtype=target.dtype))  # decides which tier evaluates
        slow = target.engine_of("density_and_grad").startswith("loop")
        wanted = MOST_DRAWS if self.weights is None else MOST_WEIGHTED_DRAWS
        most = MOST_DRAWS_IN_A_LOOP if slow else min(wanted, max(MOST_NUMBERS // max(target.dim, 1), 200))
        step = max(1, -(-chains * draws // most))
        u = target.unconstrain({name: posterior.draws[name][:, ::step] for name in names})
        finite = torch.isfinite(u).all(-1)
        _, gradient = target.value_and_grad(torch.where(finite[..., None], u, 0.0))
        gradient = torch.where(finite[..., None], gradient, torch.nan)
        weights = None if self.weights is None else self.weights[:, ::step].astype(float)
        return Evaluated(target, u.numpy().astype(float), gradient.numpy().astype(float), weights)

    def coordinates(self, target: Target) -> Callable[[int], str]:
        """Position in the unconstrained vector -> the name of the component."""
        return coordinates(target, self.labels)
