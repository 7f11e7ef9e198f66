"""Data before an amortised guide: pairs of a datum and a draw, with their densities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from phlogiston.engine.learning.element_terms import ElementTerms
from phlogiston.engine.program.isolate import as_int, isolated, spawn
from phlogiston.errors import ModelError, UnsupportedModel, problem
from phlogiston.model.inputs import as_input
from phlogiston.model.model import Model
from phlogiston.training.amortised.guide import AmortizedGuide

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
PAIRS = 8192  # of a datum and a draw that are evaluated in one call


def chunks_of(count: int, size: int) -> list[torch.Tensor]:
    """The numbers from zero to ``count`` in chunks of at most ``size`` (and at least one)."""
    return list(torch.split(torch.arange(count), max(1, size)))


class Encoded:
    """A model's data before an amortised guide: pairs of a datum and a draw, with their densities.

    Args:
        model: with its parameters held and its data observed.
        guide: an amortised guide that was trained beside it.
        dtype: precision of the evaluation.

    Raises:
        UnsupportedModel: there are latents outside of the plate.
    """

    def __init__(self, model: Model, guide: AmortizedGuide, dtype: torch.dtype = torch.float32) -> None:
        if guide.split.rest:
            raise UnsupportedModel(
                problem(
                    f"site {guide.split.rest[0]!r}",
                    found="a latent outside of the plate, which all data share",
                    expected="latents of single data only: then each datum has a likelihood of its own",
                    fix="ph.infer(model, ph.SVI(guide=ph.Amortized())) and its .log_evidence",
                )
            )
        self.model, self.guide = model, guide
        self.terms = ElementTerms(model, model.structure, guide.split.plate, dtype)
        self._dtype = dtype

    @property
    def count(self) -> int:
        """Of data."""
        return self.guide.split.plate.size

    def parameters(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and scale at some data."""
        loc, scale = self.guide.encoder(self.guide.features[rows])
        return loc, scale

    def at(self, rows: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, draws: int) -> dict[str, torch.Tensor]:
        """Draws from the normals with these parameters: ``log_joint``, ``log_likelihood``, ``log_q``, ``[draws, B]``.

        The latents' values are there too, by site, the draws first.
        """
        made = self.guide.from_parameters(loc, scale)
        count, values, log_q = len(rows), {}, torch.zeros(draws, len(rows))
        for name, distribution in made.items():
            values[name] = distribution.rsample((draws,))
            axis = 1 + self.terms.axis(name)
            log_prob = distribution.log_prob(values[name]).movedim(axis, 1)
            log_q = log_q + log_prob.reshape(draws, count, -1).sum(-1)
        found = self.terms(rows.repeat(draws), {name: self._elements(values, name) for name in values})
        return {**values, "log_q": log_q, **{key: value.reshape(draws, count) for key, value in found.items()}}

    def at_noise(self, rows: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``log p(x, z) - log q(z | x)``, ``[draws, B]``, at the guide's draws from ``noise [draws, B, dim]``.

        Gradients pass through to the noise.
        """
        draws, count = noise.shape[:2]
        full = scale.ndim == 3
        u = loc + ((scale @ noise.unsqueeze(-1)).squeeze(-1) if full else scale * noise)
        diagonal = torch.diagonal(scale, dim1=-2, dim2=-1) if full else scale
        log_q = -(0.5 * noise.square() + torch.log(diagonal) + _HALF_LOG_TAU).sum(-1)
        values = {}
        for local in self.guide.split.local:
            value = own = local.columns(u)
            if not local.is_real:
                value, jacobian = local.constrained(own)
                log_q = log_q - jacobian.movedim(1 + local.axis, 1).reshape(draws, count, -1).sum(-1)
            values[local.site.name] = value
        found = self.terms(rows.repeat(draws), {name: self._elements(values, name) for name in values})
        return found["log_joint"].reshape(draws, count) - log_q

    def coordinate_prior(self, rows: torch.Tensor, pairs: dict[str, torch.Tensor], draws: int) -> torch.Tensor:
        """The log prior of each coordinate in ``at``'s draws, ``[draws, B, dim]``; else NaN."""
        found = []
        index = rows.repeat(draws)
        priors = self.terms.coordinate_priors(index, {name: self._elements(pairs, name) for name in self.terms.local})
        for local in self.guide.split.local:
            width, given = local.stop - local.start, priors.get(local.site.name)
            nothing = torch.full((draws, len(rows), width), torch.nan)
            found.append(nothing if given is None else given.reshape(draws, len(rows), width))
        return torch.cat(found, -1)

    def _elements(self, pairs: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        """``[draws, *shape with B along the plate]`` -> ``[draws * B, *shape with one element in the plate]``."""
        axis = self.terms.axis(name)
        return pairs[name].movedim(1 + axis, 1).flatten(0, 1).unsqueeze(1 + axis)

    def draws(self, num_samples: int, seed: np.random.SeedSequence) -> dict[str, torch.Tensor]:
        """Draws of every latent for all data, ``[num_samples, *site shape]``.

        With them ``log_joint``, ``log_likelihood`` and ``log_q``, ``[num_samples, N]``.
        """
        parts: list[dict[str, torch.Tensor]] = []
        chunks = chunks_of(self.count, PAIRS // num_samples)
        for rows, own in zip(chunks, spawn(seed, len(chunks)), strict=True):
            with isolated(as_int(own), self._dtype), torch.no_grad():
                parts.append(self.at(rows, *self.parameters(rows), num_samples))
        axes = {name: 1 + self.terms.axis(name) for name in self.terms.local}
        return {
            name: torch.cat([part[name] for part in parts], axes.get(name, 1)).to(torch.float64) for name in parts[0]
        }

    def weights(self, num_samples: int, seed: np.random.SeedSequence) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Chunk by chunk of data: their numbers ``[B]``, and ``log p(x, z) - log q(z)``, ``[num_samples, B]``."""
        chunks = chunks_of(self.count, PAIRS // min(num_samples, 64))
        for rows, own in zip(chunks, spawn(seed, len(chunks)), strict=True):
            with isolated(as_int(own), self._dtype), torch.no_grad():
                loc, scale = self.parameters(rows)
                found = []
                for start in range(0, num_samples, step := max(1, PAIRS // len(rows))):
                    pairs = self.at(rows, loc, scale, min(step, num_samples - start))
                    found.append((pairs["log_joint"] - pairs["log_q"]).double())
                yield rows, torch.cat(found)


def with_data(model: Model, guide: AmortizedGuide, data: Mapping[str, Any]) -> tuple[Model, AmortizedGuide]:
    """The trained program and its guide before other data, given by site or by input; none for the training data.

    A whole number among the program's inputs that is the size of the plate becomes that of the new data.

    Raises:
        ModelError: the new data do not have one row each.
    """
    if not data:
        return model, guide
    sites = {name for name, site in model.sites.items() if site.role in ("latent", "observed")}
    values = {name: as_input(np.asarray(value) if isinstance(value, list) else value) for name, value in data.items()}
    size = _size_of(model, guide, values, sites)
    inputs = {name: value for name, value in values.items() if name not in sites}
    fresh = {**_counts(model, guide.split.plate.size, size), **inputs}
    _require_inputs(guide, fresh, size, next(iter(data)))
    bare = model.unobserved()
    changed = bare.with_inputs(**fresh) if fresh else bare
    seen = changed.observe(**{name: value for name, value in values.items() if name in sites})
    return seen, guide.at(seen)


def _size_of(model: Model, guide: AmortizedGuide, values: Mapping[str, Any], sites: set[str]) -> int:
    """The number of new data, which every site and every input with one row for each datum has to share."""
    sizes = {
        name: value.shape[guide.axis(model.sites[name]) if name in sites else 0]
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and value.ndim and (name in sites or name in guide.split.inputs)
    }
    if len(set(sizes.values())) != 1:
        where = f"plate {guide.split.plate.name!r}"
        found = f"data of sizes {sizes or 'none'}"
        raise ModelError(problem(where, found=found, expected="one size, that of the data"))
    return int(next(iter(sizes.values())))


def _counts(model: Model, before: int, size: int) -> dict[str, int]:
    """The whole numbers among the program's inputs that were the size of the plate, with the new size."""
    given = model.inputs.items()
    return {n: size for n, v in given if isinstance(v, int) and not isinstance(v, bool) and v == before}


def _require_inputs(guide: AmortizedGuide, fresh: Mapping[str, Any], size: int, beside: str) -> None:
    if size == guide.split.plate.size:
        return
    for name in guide.split.inputs:
        if name not in fresh:
            found = f"none for the {size} new data"
            fix = f"{name}=... beside {beside}=..."
            raise ModelError(problem(f"input {name!r}", found=found, expected="one row a datum", fix=fix))
