"""What a method needs of a model, and the refusal where it is not met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from phlogiston.engine.program.repeatable import insist_on_repeatable
from phlogiston.engine.program.sites import Site, Structure
from phlogiston.errors import UnsupportedModel, one_of, problem
from phlogiston.inference import registry
from phlogiston.inference.starts import STARTS, Start
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior


class Method(Protocol):
    """Settings that can be called on a model."""

    needs: Needs

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Posterior:
        """The posterior of the model's latents."""


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
        checks: list[tuple[Callable[[Site], bool], str, str]] = [
            (
                lambda s: self.continuous == "none" and not s.discrete,
                "a continuous latent ({0})",
                "finitely many values",
            ),
            (
                lambda s: self.discrete == "enumerable" and s.discrete and not s.enumerable,
                "a discrete latent that cannot be enumerated ({0})",
                "a continuous latent or finitely many values",
            ),
            (
                lambda s: self.discrete == "enumerable" and s.discrete and bool(s.unplated),
                "a discrete latent with a batch outside any plate",
                "a plate for each batch dimension",
            ),
            (
                lambda s: self.continuous == "some" and not structure.continuous,
                "a discrete latent ({0}) and no continuous one",
                "a continuous latent to move",
            ),
            (lambda s: self.proper_prior and s.improper, "an improper flat prior", "a prior that can be drawn from"),
            (
                lambda s: self.proper_prior and s.missing is not None and bool(s.event_dim),
                "missing entries within an event ({0}), which its prior draws together with the observed ones",
                "events that are observed or missing as a whole",
            ),
            (lambda s: self.density and s.masked, "a masked latent, whose density is improper", "no mask on latents"),
        ]
        for site in structure.of("latent"):
            for forbids, found, expected in checks:
                if forbids(site):
                    return problem(f"site {site.name!r}", found=found.format(site.distribution), expected=expected)
        return None


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
    insist_on_repeatable(model, model.structure)
    unmet = method.needs.unmet(model.structure)
    if unmet is not None:
        able = registry.methods_for(model.structure)
        raise UnsupportedModel(f"method {registry.name_of(method)!r} cannot treat {unmet}; methods that can: {able}")
    return model


def known_start(initial: Start | Mapping[str, Any]) -> None:
    """Refuse a name that stands for no way to begin; values by site are judged against the model."""
    if not isinstance(initial, Mapping):
        one_of(STARTS, initial=initial)
