"""What a method needs of a model, the check that a model meets it, and the run of a method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch

from phlogiston.engine.program.sites import Site, Structure
from phlogiston.errors import UnsupportedModel, one_of, problem
from phlogiston.inference import registry
from phlogiston.inference.starts import STARTS, Start
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.stats.estimate import Estimate


class Method(Protocol):
    """Settings that can be called on a model; whatever has these two members can be given to ``ph.infer``.

    ``ph.infer`` checks the model against ``needs``, draws the seed, takes the time, and puts the name and the settings
    of the method (its fields, where it is a dataclass) into the posterior.

    Example:
        >>> from dataclasses import dataclass, field, fields, is_dataclass, replace
        >>> @dataclass(frozen=True)
        ... class PriorDraws:
        ...     num_samples: int = 1000
        ...     needs = ph.Needs(proper_prior=True)
        ...     def __call__(self, model, *, seed, progress=True):
        ...         target = model.target()
        ...         draws = next(iter(target.propose(self.num_samples, np.random.SeedSequence(seed))))
        ...         return ph.Result(log_weights=draws.pop("log_weight"), draws=draws)
        >>> model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
        >>> ph.infer(model, PriorDraws(num_samples=500), seed=0).draws["z"].shape
        torch.Size([1, 500])
        >>> ph.register("method", "prior_draws", PriorDraws)
        >>> ph.infer(model, "prior_draws", num_samples=200, seed=0).settings
        {'num_samples': 200}
        >>> from phlogiston.inference.registry import METHODS
        >>> METHODS.unregister("prior_draws")
    """

    @property
    def needs(self) -> Needs:
        """The needs that a model must meet."""

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result | Posterior:
        """Draws of the latents of a model that meets its needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a method found; ``ph.infer`` makes a ``Posterior`` of it.

    Args:
        draws: site -> ``[draw, *site shape]``, constrained; ``[chain, draw, *site shape]`` where ``is_chain``.
        is_chain: whether successive draws depend on each other.
        log_weights: unnormalised log importance weights ``[draw]``, or None.
        others: as in ``Posterior``.
    """

    draws: Mapping[str, torch.Tensor]
    is_chain: bool = False
    log_weights: torch.Tensor | None = None
    stats: Mapping[str, torch.Tensor] = field(default_factory=dict)
    log_evidence: Estimate | None = None
    marginals: Mapping[str, torch.Tensor] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    interrupted: bool = False
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    history: Mapping[str, np.ndarray] = field(default_factory=dict)
    stop_reason: str = ""


@dataclass(frozen=True)
class Needs:
    """What a method needs of a model's latents.

    Args:
        continuous: whether continuous latents are allowed ("any"), ruled out ("none") or needed ("some").
        discrete: which discrete latents are allowed: those that can be enumerated, or any.
        proper_prior: whether every latent must have a prior that can be drawn from.
        density: whether latents must have densities everywhere (no masked latents, no subsampled plates).
    """

    continuous: Literal["any", "none", "some"] = "any"
    discrete: Literal["enumerable", "any"] = "any"
    proper_prior: bool = False
    density: bool = False

    def __str__(self) -> str:
        latents = {
            ("any", "any"): "any latents",
            ("any", "enumerable"): "continuous latents; discrete ones that can be enumerated",
            ("some", "enumerable"): "continuous latents; beside them discrete ones that can be enumerated",
            ("some", "any"): "continuous latents; beside them any discrete ones",
            ("none", "enumerable"): "discrete latents that can be enumerated",
            ("none", "any"): "discrete latents",
        }[self.continuous, self.discrete]
        return latents + ("; proper priors" if self.proper_prior else "")

    def unmet(self, structure: Structure) -> str | None:
        """The first latent that forbids the method, as a message; None if there is none."""
        for site in structure.of("latent"):
            for requirement in _REQUIREMENTS:
                if requirement.is_broken(self, site, structure):
                    found = requirement.found.format(site.distribution)
                    return problem(f"site {site.name!r}", found=found, expected=requirement.expected)
        return None


@dataclass(frozen=True)
class _Requirement:
    """A condition that a method may put on every latent.

    Args:
        is_broken: whether a latent of a program breaks it, if the method has these needs.
        found: what the message says of the latent; ``{0}`` is the name of its distribution.
        expected: what the method could treat.
    """

    is_broken: Callable[[Needs, Site, Structure], bool]
    found: str
    expected: str


_REQUIREMENTS = (
    _Requirement(
        lambda needs, site, _: needs.continuous == "none" and not site.discrete,
        "a continuous latent ({0})",
        "finitely many values",
    ),
    _Requirement(
        lambda needs, site, _: needs.discrete == "enumerable" and site.discrete and not site.enumerable,
        "a discrete latent that cannot be enumerated ({0})",
        "a continuous latent or finitely many values",
    ),
    _Requirement(
        lambda needs, site, _: needs.discrete == "enumerable" and site.discrete and bool(site.unplated),
        "a discrete latent with a batch outside any plate",
        "a plate for each batch dimension",
    ),
    _Requirement(
        lambda needs, _, structure: needs.continuous == "some" and not structure.continuous,
        "a discrete latent ({0}) and no continuous one",
        "a continuous latent to move",
    ),
    # A scaled latent stands for copies of itself, of which a single draw tells nothing.
    _Requirement(
        lambda needs, site, _: needs.discrete == "any" and site.discrete and site.enumerable and site.scaled,
        "a discrete latent under poutine.scale ({0})",
        "a method that sums it out",
    ),
    _Requirement(
        lambda needs, site, _: needs.proper_prior and site.improper,
        "an improper flat prior",
        "a prior that can be drawn from",
    ),
    _Requirement(
        lambda needs, site, _: needs.proper_prior and site.missing is not None and bool(site.event_dim),
        "missing entries within an event ({0}), which its prior draws together with the observed ones",
        "events that are observed or missing as a whole",
    ),
    _Requirement(
        lambda needs, site, _: needs.density and site.masked,
        "a masked latent, whose density is improper",
        "no mask on latents",
    ),
)


def require(method: Any, model: Model) -> Model:
    """The model, checked; refuses what the method's ``needs`` rule out and says which methods would do.

    Raises:
        UnsupportedModel: a site forbids the method.
        ModelError: the model itself has a problem.
    """
    model = model.validated()
    if model.implicit:
        name = model.implicit[0]
        raise UnsupportedModel(
            problem(
                f"site {name!r}",
                found="a value for an output that is computed and has no density",
                expected="an observation with a density around it",
                fix=f"ph.measured(model, {name}=..., noise=0.1), which puts one around it, or "
                f"ph.train(model, ph.Adversarial())",
            )
        )
    if not model.structure.of("latent"):
        raise UnsupportedModel(
            problem(
                f"program {model.name!r}",
                found="no latent site",
                expected="at least one pyro.sample that is not observed",
            )
        )
    model.require_repeatable()
    unmet = method.needs.unmet(model.structure)
    if unmet is not None:
        able = registry.methods_for(model.structure)
        raise UnsupportedModel(f"method {registry.name_of(method)!r} cannot treat {unmet}; methods that can: {able}")
    return model


def run_method(
    method: Method, model: Model, *, seed: int | None, progress: bool, resume_from: Posterior | None = None, **more: Any
) -> Posterior:
    """Run a method on a model that meets its needs, and note which it was, its settings, its seed and its time.

    A method that runs others, such as ``Auto``, returns a posterior that holds what it has to say.
    """
    began = time.perf_counter()
    model = require(method, model)
    if resume_from is not None:
        more["resume_from"] = resume_from
    result = method(model, seed=seed, progress=progress, **more)
    names: list[str] = [each.name for each in fields(method)] if is_dataclass(method) else []
    settings = {name: _plain(getattr(method, name)) for name in names}
    if isinstance(result, Posterior):
        return result if result.plan is not None else replace(result, settings=settings)
    content = {each.name: getattr(result, each.name) for each in fields(result)}
    if not result.is_chain:  # draws that do not depend on each other are laid out as one chain
        for name in ("draws", "stats"):
            content[name] = {site: value.unsqueeze(0) for site, value in content[name].items()}
        content["log_weights"] = None if result.log_weights is None else result.log_weights.unsqueeze(0)
    return Posterior(
        **content,
        method=registry.name_of(method),
        settings=settings,
        model=model,
        seed=seed if resume_from is None else resume_from.seed,
        seconds=time.perf_counter() - began + (0.0 if resume_from is None else resume_from.seconds),
    )


def _plain(value: Any) -> Any:
    """A setting in a form that can be stored: posteriors and models become text."""
    return repr(value) if isinstance(value, (Posterior, Model)) else value


def known_start(initial: Start | Mapping[str, Any]) -> None:
    """Refuse an unknown name of a start; values by site are checked later, against the model."""
    if not isinstance(initial, Mapping):
        one_of(STARTS, initial=initial)
