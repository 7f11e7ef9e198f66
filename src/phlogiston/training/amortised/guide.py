"""``Amortized``: a guide that reads each datum and says where its latents are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from phlogiston.engine.densities.coupling import tied_latents
from phlogiston.engine.learning.minibatch_terms import Encoding
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.plates import axis_of
from phlogiston.engine.program.sites import Site
from phlogiston.errors import AmortisationWarning, ModelError, SettingError, UnsupportedModel, problem, warn
from phlogiston.model.model import Model
from phlogiston.training.amortised.encoders import Encoder
from phlogiston.training.amortised.features import Kind, body_for, features_of, kind_of
from phlogiston.training.amortised.latents import LatentSplit, data_of, split_of
from phlogiston.training.networks import in_evaluation

Parts = dict[str, torch.Tensor]
KINDS = ("auto", "mlp", "conv", "set")
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, kw_only=True)
class Amortized:
    r"""A guide with one network for all data, :math:`q(z_n \mid x_n) = N(\mu(x_n), \Sigma(x_n))`.

    The latents that the program draws once a datum, in a plate, are read off the datum by an encoder, which is built
    for the model: a perceptron for numbers, convolutions for images, pooling over sets for plates within the plate,
    ragged ones too. It is a plain ``torch.nn.Module``, ``x [B, ...]`` -> ``loc [B, dim], scale [B, dim]`` on the
    unconstrained scale. Latents outside of the plate get an ordinary guide beside it; discrete ones are summed out.

    Args:
        encoder: "auto", "mlp", "conv", "set", or a module of your own.
        hidden: widths of the encoder's layers.
        channels: of the first convolution.
        covariance: "diag", or "full" for correlated latents within a datum.
        plate: the plate of the data; the outermost that holds latents and observations by default.
        inputs: the data that the encoder reads: observed sites, and inputs of the program with one row a datum; all of
            them by default.
        rest: the guide of the latents outside of the plate.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes. https://arxiv.org/abs/1312.6114
        Margossian and Blei (2024), Amortized variational inference: when and why? https://arxiv.org/abs/2307.11018

    Example:
        >>> def program(weights):
        ...     with pyro.plate("datum", 100):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1))
        >>> model = ph.Model(program, torch.ones(2, 5)).observe(x=torch.randn(100, 5))
        >>> guide = Amortized(hidden=(16,)).build(model, seed=0)
        >>> [tuple(part.shape) for part in guide.encoder(torch.zeros(7, 5))]
        [(7, 2), (7, 2)]
    """

    encoder: str | nn.Module = "auto"
    hidden: tuple[int, ...] = (256,)
    channels: int = 16
    covariance: Literal["diag", "full"] = "diag"
    plate: str | None = None
    inputs: tuple[str, ...] | None = None
    rest: str = "normal"

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str) and self.encoder not in KINDS:
            raise SettingError(
                problem("encoder", found=repr(self.encoder), expected=f"one of {', '.join(KINDS)}, or an nn.Module")
            )
        if self.covariance not in ("diag", "full"):
            raise SettingError(problem("covariance", found=repr(self.covariance), expected="'diag' or 'full'"))
        if not all(isinstance(width, int) and width > 0 for width in (*self.hidden, self.channels)):
            raise SettingError(
                problem(
                    "hidden, channels", found=f"{self.hidden}, {self.channels}", expected="whole numbers above zero"
                )
            )

    def build(self, model: Model, *, seed: int = 0) -> AmortizedGuide:
        """The guide for a model, with an encoder that has not learned anything yet.

        Raises:
            UnsupportedModel: no plate holds both continuous latents and observations.
            ModelError: a module of your own does not give what it should.
        """
        split = split_of(model, self.plate, self.inputs)
        self._require_one_vector(split)
        if (tied := tied_latents(in_evaluation(model), model.structure, split.plate)) is not None:
            warn(
                problem(
                    f"Amortized: site {tied[0]!r}",
                    found=f"elements of plate {split.plate.name!r} that site {tied[1]!r} ties together",
                    expected="elements that are independent given the rest: an encoder that reads one datum at a time "
                    "cannot close the gap",
                    fix='ph.SVI(guide="normal") or "multivariate_normal"',
                ),
                AmortisationWarning,
            )
        data = data_of(model, split)
        own = isinstance(self.encoder, nn.Module)
        kind: Kind = kind_of(data, self.encoder if isinstance(self.encoder, str) else "auto", own=own)
        features = features_of(data, kind)
        with isolated(seed=seed, dtype=torch.float32):
            if isinstance(self.encoder, nn.Module):
                encoder = self.encoder
            else:
                body = body_for(data, kind, features, self.hidden, self.channels)
                encoder = Encoder(body.module, body.width, split.dim, full=self.covariance == "full")
        guide = AmortizedGuide(encoder, split, features, kind, self.covariance)
        _require_output(encoder, guide)
        return guide

    def _require_one_vector(self, split: LatentSplit) -> None:
        if self.covariance == "full" and (len(split.local) > 1 or split.local[0].site.event_dim != 1):
            names = ", ".join(local.site.name for local in split.local)
            raise UnsupportedModel(
                problem(
                    f"Amortized(covariance='full'): plate {split.plate.name!r}",
                    found=f"latents {names} that are not one vector a datum",
                    expected="one latent vector",
                    fix='Amortized(covariance="diag")',
                )
            )


class AmortizedGuide(nn.Module):
    """A Pyro guide for the latents of a plate: called as the program is, or asked for its distributions.

    Args:
        encoder: data -> mean and scale.
        split: which latents, which data.
        features: what the encoder reads of each element of the plate, ``[N, ...]``.
        kind: how the data are laid out for it.
        covariance: of the normal.
    """

    features: torch.Tensor

    def __init__(
        self, encoder: nn.Module, split: LatentSplit, features: torch.Tensor, kind: Kind, covariance: str
    ) -> None:
        super().__init__()
        self.encoder, self.split, self.kind, self.covariance = encoder, split, kind, covariance
        self.register_buffer("features", features, persistent=False)

    def at(self, model: Model) -> AmortizedGuide:
        """The same encoder before the data of another model of the same form."""
        split = split_of(model, self.split.plate.name, (*self.split.observed, *self.split.inputs))
        features = features_of(data_of(model, split), self.kind)
        if features.shape[1:] != self.features.shape[1:] and self.kind != "set":
            raise ModelError(
                problem(
                    f"plate {split.plate.name!r}",
                    found=f"data of shape {tuple(features.shape[1:])} each",
                    expected=f"{tuple(self.features.shape[1:])}, as the encoder was trained on",
                )
            )
        return AmortizedGuide(self.encoder, split, features, self.kind, self.covariance)

    def axis(self, site: Site) -> int:
        """Along which a site's values run over the elements of the plate."""
        return axis_of(site, self.split.plate)

    def distributions(self, features: torch.Tensor) -> dict[str, Any]:
        """Data ``[B, ...]`` -> the distribution of every encoded latent, by site."""
        return self.from_parameters(*self.encoder(features))

    def from_parameters(self, loc: torch.Tensor, scale: torch.Tensor) -> dict[str, Any]:
        """Means ``[B, dim]`` and scales -> the distribution of every encoded latent, by site."""
        found = {}
        for local in self.split.local:
            event = local.site.event_dim
            if self.covariance == "full":
                base: Any = dist.MultivariateNormal(loc, scale_tril=scale)
            else:
                base = dist.Normal(local.columns(loc), local.columns(scale)).to_event(event)
            found[local.site.name] = local.over(base)
        return found

    def drawn(self, loc: torch.Tensor, scale: torch.Tensor, noise: torch.Tensor) -> tuple[dict[str, Encoding], Parts]:
        """Means and scales ``[B, ...]`` and noise ``[B, dim]`` -> each latent, and ``E log q`` of each, as priors come.

        Of latents on the real line it is exact, ``[B, coordinates]``; of others it is that of the draw, ``[B]``.
        """
        full = scale.ndim == 3
        u = loc + ((scale @ noise.unsqueeze(-1)).squeeze(-1) if full else scale * noise)
        marginal = torch.linalg.vector_norm(scale, dim=-1) if full else scale
        diagonal = torch.diagonal(scale, dim1=-2, dim2=-1) if full else scale
        latents, densities = {}, {}
        for local in self.split.local:
            columns = slice(local.start, local.stop)
            own = local.columns(u)
            if local.is_real:
                latents[local.site.name] = Encoding(own, local.columns(loc), local.columns(marginal))
                densities[local.site.name] = -torch.log(diagonal[:, columns]) - _HALF_LOG_TAU - 0.5
                continue
            value, jacobian = local.constrained(own)
            latents[local.site.name] = Encoding(value)
            log_q = (-torch.log(diagonal) - _HALF_LOG_TAU - 0.5 * noise.square())[:, columns].sum(-1)
            densities[local.site.name] = log_q - jacobian.movedim(local.axis, 0).reshape(len(loc), -1).sum(-1)
        return latents, densities

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Draw every encoded latent at the elements of the plate that are asked for."""
        pyro.module("encoder", self.encoder)
        plate, inner = self.split.plate, {p for local in self.split.local for p in local.site.plates}
        others = {p.name: pyro.plate(p.name, p.size, dim=p.dim) for p in inner if p.name != plate.name}
        with pyro.plate(plate.name, plate.size, dim=plate.dim) as index:
            for local, made in zip(self.split.local, self.distributions(self.features[index]).values(), strict=True):
                _sample(local.site.name, made, [others[p.name] for p in local.site.plates if p.name in others])


def _sample(name: str, made: Any, plates: Sequence[Any]) -> None:
    if not plates:
        pyro.sample(name, made)
        return
    with plates[0]:
        _sample(name, made, plates[1:])


def _require_output(encoder: Callable[[torch.Tensor], Any], guide: AmortizedGuide) -> None:
    """A module of the user's own may give anything: try it on two data."""
    two, dim = guide.features[:2], guide.split.dim
    count = len(two)
    shape = (count, dim, dim) if guide.covariance == "full" else (count, dim)
    what = f"a pair of tensors, loc {(count, dim)} and scale {shape}, for data of shape {tuple(two.shape)}"
    try:
        with torch.no_grad():
            given = encoder(two)
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelError(
            problem("Amortized: encoder", found=f"{type(error).__name__}: {first}", expected=what)
        ) from error
    pair = isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, torch.Tensor) for part in given)
    if not pair or tuple(given[0].shape) != (count, dim) or tuple(given[1].shape) != shape:
        found = [tuple(part.shape) for part in given] if pair else type(given).__name__
        raise ModelError(problem("Amortized: encoder", found=f"output {found}", expected=what))
    if not bool((torch.diagonal(given[1], dim1=-2, dim2=-1) if len(shape) == 3 else given[1]).gt(0).all()):
        raise ModelError(
            problem("Amortized: encoder", found="a scale that is not positive", expected=what, fix="scale.exp()")
        )
