"""``reparam``: a model in coordinates that samplers can move in, its sites under their own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from phlogiston.engine.program.locscale import PARAMETER, Centred, Recentred, centred_sites
from phlogiston.errors import SettingError, UnknownName, UnsupportedModel, did_you_mean, problem
from phlogiston.model.model import Model

_ALL_BUT = 0.05  # so near to one of the ends, a learned value stands for it

Centredness = Literal["learn"] | float | Mapping[str, float]


def reparam(model: Model | Callable[..., Any], centred: Centredness = "learn", *, seed: int = 0) -> Model:
    r"""The same model with its hierarchical latents drawn on another scale.

    A latent :math:`\theta \sim p(\mu, \tau)` of a location-scale family becomes
    :math:`\tilde\theta \sim p(\lambda \mu, \tau^\lambda)`, :math:`\theta = \mu + \tau^{1 - \lambda} (\tilde\theta -
    \lambda \mu)`: centred, as written, at :math:`\lambda = 1`, non-centred at 0. Where :math:`\tau` is a latent that
    may come near zero, the first is a funnel, which no step size fits. The density is that of the same model: evidence,
    predictions and the posterior of :math:`\theta`, which keeps its name, do not change. The latent that is drawn is
    called ``theta_decentered``. What is changed is what Pyro's ``AutoReparam`` would change, where the location or the
    scale is a latent.

    Args:
        model: a model, observed or not.
        centred: :math:`\lambda`: "learn" finds that of each site in which independent normals fit the posterior best;
            a number from 0 to 1 for all sites; or one by site, the others as they are written.
        seed: of the learning.

    Returns:
        the model in its new coordinates, with the same inputs, observations and labels.

    Raises:
        UnsupportedModel: no latent's location or scale is a latent; or a discrete latent forbids learning.
        UnknownName: a named site is not one of these.
        SettingError: a number is not between 0 and 1.

    References:
        Papaspiliopoulos, Roberts and Sköld (2007), https://doi.org/10.1214/088342307000000014; Gorinova, Moore and
        Hoffman (2020), Automatic reparameterisation of probabilistic programs, https://arxiv.org/abs/1906.03028

    Example:
        >>> def program():
        ...     tau = pyro.sample("tau", dist.HalfNormal(2.0))
        ...     with pyro.plate("group", 3):
        ...         theta = pyro.sample("theta", dist.Normal(0.0, tau))
        ...         pyro.sample("y", dist.Normal(theta, 1.0))
        >>> model = reparam(ph.Model(program).observe(y=[0.3, -0.2, 0.1]), 0.0)
        >>> {name: site.role for name, site in model.sites.items()}
        {'tau': 'latent', 'theta_decentered': 'latent', 'theta': 'deterministic', 'y': 'observed'}
    """
    model = model if isinstance(model, Model) else Model(model)
    found = {site.site: site for site in centred_sites(model, model.structure)}
    if not found:
        raise UnsupportedModel(
            problem(
                f"reparam: program {model.name!r}",
                found="no latent of a location-scale family whose location or scale is a latent",
                expected="a hierarchy, such as theta ~ Normal(mu, tau)",
            )
        )
    values: Mapping[str, float | torch.Tensor]
    if isinstance(centred, Mapping):
        values = {name: _checked(name, value, found) for name, value in centred.items()}
    elif centred == "learn":
        values = _learned(model, tuple(found), seed)
    else:
        values = {name: _checked(name, centred, found) for name in found}
    return model.rewritten(Recentred(model.program, values))


def _checked(name: str, value: float, found: Mapping[str, Centred]) -> float:
    if name not in found:
        raise UnknownName(f"reparam: found site {name!r}; {did_you_mean(name, found)}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 1.0:
        raise SettingError(
            problem(f"reparam, site {name!r}", found=repr(value), expected="'learn' or a number from 0 to 1")
        )
    return float(value)


def _learned(model: Model, names: tuple[str, ...], seed: int) -> dict[str, float | torch.Tensor]:
    """How centred each site is where independent normals come nearest to the posterior."""
    from phlogiston.inference.methods.svi import SVI
    from phlogiston.training.train import train

    unmet = SVI.needs.unmet(model.structure)
    if unmet is not None:
        raise UnsupportedModel(f"reparam: centredness cannot be learned with {unmet}; write: ph.reparam(model, 0.0)")
    free = model.rewritten(Recentred(model.program, dict.fromkeys(names)))
    learning = SVI(num_steps=1000, window=100, num_samples=10, engine="graph")
    fitted = train(free, learning, seed=seed, progress=False)
    return {name: _snapped(fitted.params[name + PARAMETER]) for name in names}


def _snapped(value: torch.Tensor) -> float | torch.Tensor:
    """A learned value, at the end of the interval that it has all but reached; a number where it is one."""
    snapped = torch.where(value < _ALL_BUT, 0.0, torch.where(value > 1.0 - _ALL_BUT, 1.0, value)).double()
    first = snapped.reshape(-1)[0]
    return float(first) if bool((snapped == first).all()) else snapped
