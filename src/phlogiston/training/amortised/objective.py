"""The bound that training climbs, of a minibatch, as a pure function of all parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from phlogiston.engine.learning.minibatch_terms import BatchTerms, Encoding, call_with, learned_parameters
from phlogiston.model.model import Model
from phlogiston.training.amortised.guide import AmortizedGuide

Tensors = tuple[torch.Tensor, ...]
GUIDE = "guide/"
_REST_LOC, _REST_SCALE = "guide/rest.loc", "guide/rest.log_scale"
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
RECORD = ("elbo", "reconstruction", "kl")  # per datum, what one step leaves; after them the KL of each latent


@dataclass(frozen=True)
class Weighing:
    """What training climbs beside the bound itself: a floor under each coordinate's KL, in nats."""

    free_bits: float = 0.0
    half: bool = False  # whether networks compute in bfloat16


class MinibatchObjective:
    r"""The evidence lower bound of a minibatch per datum, and its gradient.

    .. math:: \frac1B\sum_{b}\big(E_q[\log p(x_b \mid z_b)] - w\,\mathrm{KL}[q(z_b \mid x_b), p(z_b)]\big)
        + \frac1N E_q[\log p(g) - \log q(g)]

    with latents :math:`g` outside of the plate. The KL is exact where prior and guide are normals.

    Args:
        model: with its data.
        guide: an amortised guide for it.
        weighing: floor of the KL, and precision of the networks.
        learns: whether the program's own parameters are learned, or held.
        dtype: of the parameters.
    """

    def __init__(
        self,
        model: Model,
        guide: AmortizedGuide,
        weighing: Weighing,
        *,
        learns: bool = True,
        dtype: torch.dtype,
    ) -> None:
        self._guide, self._weighing, self._dtype = guide, weighing, dtype
        self.plate = guide.split.plate
        self._terms = BatchTerms(model, model.structure, self.plate, dtype)
        self._learned = learned_parameters(model, dtype)
        self._learns = learns
        own = {name: param.unconstrained for name, param in self._learned.items()} if learns else {}
        self._buffers = {name: value.to(dtype) for name, value in guide.encoder.named_buffers()}
        self._features = guide.features.to(dtype)
        named = guide.encoder.named_parameters()
        encoder = {GUIDE + name: value.detach().to(dtype) for name, value in named}
        self.rest = self._terms.shared[-1].stop if self._terms.shared else 0
        shared = {_REST_LOC: torch.zeros(self.rest), _REST_SCALE: torch.full((self.rest,), -2.0)} if self.rest else {}
        initial = {**own, **encoder, **{name: value.to(dtype) for name, value in shared.items()}}
        self.names, self.initial = tuple(initial), tuple(initial.values())

    @property
    def record_names(self) -> tuple[str, ...]:
        """What each number of a record is."""
        return (*RECORD, *(f"kl/{local.site.name}" for local in self._guide.split.local))

    def gradient(self, params: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """One step's record, and the gradient by parameter.

        Args:
            params: in the order of ``names``.
            inputs: rows ``[B]``, noise ``[B, dim]``, noise ``[rest]``, and the weight of the KL ``[]``.
        """
        leaves = tuple(value.detach().requires_grad_() for value in params)
        with torch.enable_grad():
            objective, record = self._bound(dict(zip(self.names, leaves, strict=True)), *inputs)
            found = torch.autograd.grad(objective, leaves, allow_unused=True)
        slopes = (torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True))
        return record.detach(), tuple(slopes)

    def _bound(
        self,
        params: dict[str, torch.Tensor],
        index: torch.Tensor,
        noise: torch.Tensor,
        shared: torch.Tensor,
        weight: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, total = index.shape[0], self.plate.size
        latents, densities = self._encoded(params, index, noise)
        u = params[_REST_LOC] + torch.exp(params[_REST_SCALE]) * shared if self.rest else shared
        own = {name: param.constrained(params.get(name, param.unconstrained)) for name, param in self._learned.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=self._weighing.half, cache_enabled=False):
            terms = self._terms(own, index, latents, u)
        likelihood = terms["likelihood"].to(self._dtype) / count
        by_site = {name: density - terms[f"prior/{name}"] for name, density in densities.items()}
        kl = sum((value.sum() / count for value in by_site.values()), torch.zeros((), dtype=self._dtype))
        entropy = params[_REST_SCALE].sum() + self.rest * (_HALF_LOG_TAU + 0.5) if self.rest else 0.0
        outside = (terms["shared"] + entropy) / total
        elbo = likelihood - kl + outside
        return likelihood - weight * self._floored(by_site, kl) + outside, torch.stack(
            [elbo, likelihood, kl, *(value.sum() / count for value in by_site.values())]
        )

    def _encoded(
        self, params: dict[str, torch.Tensor], index: torch.Tensor, noise: torch.Tensor
    ) -> tuple[dict[str, Encoding], dict[str, torch.Tensor]]:
        own = {name.removeprefix(GUIDE): params[name] for name in self.names if name.startswith(GUIDE)}
        weights = self._buffers | {name: value for name, value in own.items() if not name.startswith("rest.")}
        with torch.autocast("cpu", torch.bfloat16, enabled=self._weighing.half, cache_enabled=False):
            loc, scale = call_with(self._guide.encoder, weights, self._features.index_select(0, index))
        return self._guide.drawn(loc.to(self._dtype), scale.to(self._dtype), noise)

    def _floored(self, by_site: dict[str, torch.Tensor], kl: torch.Tensor) -> torch.Tensor:
        if not self._weighing.free_bits:
            return kl
        means = [value.mean(0).reshape(-1) for value in by_site.values()]
        return torch.cat(means).clamp_min(self._weighing.free_bits).sum()

    def constrained(self, params: Tensors) -> dict[str, torch.Tensor]:
        """The program's parameters by name, as the program has them."""
        values = dict(zip(self.names, params, strict=True))
        return {name: param.constrained(values.get(name, param.unconstrained)) for name, param in self._learned.items()}

    def encoder_weights(self, params: Tensors) -> dict[str, torch.Tensor]:
        """The encoder's parameters by name."""
        values = zip(self.names, params, strict=True)
        own = {name.removeprefix(GUIDE): value for name, value in values if name.startswith(GUIDE)}
        return {name: value for name, value in own.items() if not name.startswith("rest.")}
