"""Bounds on the likelihood of each datum under a model with an amortised guide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from phlogiston.engine.program.isolate import as_int, isolated, seed_sequence, spawn
from phlogiston.errors import positive_int
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.weights import pareto_smooth
from phlogiston.training.evaluate.annealing import annealed_weights
from phlogiston.training.evaluate.pairs import PAIRS, Encoded, chunks_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Likelihood:
    r"""Log likelihood of each datum, bounded from below by importance sampling, in nats.

    Args:
        per_datum: :math:`\log\frac1K\sum_k w_k`, ``[N]``, with :math:`w_k = p(x, z_k) / q(z_k \mid x)`, or with the
            weights of annealed chains.
        se: Monte Carlo standard error of each, ``[N]``, from the spread of the weights.
        spread: standard deviation over repeats, ``[N]``; None for a single one.
        pareto_k: of each datum's weights, ``[N]``; None for too few of them.
        num_samples: K.
    """

    per_datum: np.ndarray
    se: np.ndarray
    spread: np.ndarray | None
    pareto_k: np.ndarray | None
    num_samples: int

    @property
    def mean(self) -> Estimate:
        """Per datum, averaged over the data, with its Monte Carlo error (not that of having seen only these data)."""
        return Estimate(float(self.per_datum.mean()), float(np.sqrt((self.se**2).sum())) / len(self.se), "lower bound")

    @property
    def total(self) -> Estimate:
        """Of all data together."""
        return Estimate(float(self.per_datum.sum()), float(np.sqrt((self.se**2).sum())), "lower bound")

    def __repr__(self) -> str:
        return f"Likelihood({self.mean} nats a datum, {len(self.per_datum)} data, K = {self.num_samples})"


def likelihood(
    encoded: Encoded,
    num_samples: int,
    *,
    repeats: int,
    seed: int | np.random.SeedSequence | None,
    num_steps: int = 1,
) -> Likelihood:
    """Bounds from the weights of exactly ``num_samples`` draws for each datum, ``repeats`` times.

    The draws are those of the guide, or of chains that were annealed from it in ``num_steps`` steps.
    """
    positive_int(num_samples=num_samples, repeats=repeats, num_steps=num_steps)
    runs = []
    for own in spawn(seed_sequence(seed), repeats):
        found = (
            encoded.weights(num_samples, own)
            if num_steps == 1
            else annealed_weights(encoded, num_samples, num_steps, own)
        )
        runs.append([_bounded(log_w) for _, log_w in found])
    bounds, errors, shapes = (np.stack([np.concatenate([part[i] for part in run]) for run in runs]) for i in range(3))
    return Likelihood(
        per_datum=bounds.mean(0),
        se=np.sqrt((errors**2).mean(0) / repeats),
        spread=bounds.std(0, ddof=1) if repeats > 1 else None,
        pareto_k=None if np.isnan(shapes).all() else np.nanmean(shapes, 0),
        num_samples=num_samples,
    )


def _bounded(log_w: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``log_w [K, B]`` -> the bound, its standard error by the delta method, and Pareto k-hat."""
    count = len(log_w)
    bound = torch.logsumexp(log_w, 0) - math.log(count)
    relative = torch.exp(log_w - bound)  # mean one
    error = relative.std(0) / math.sqrt(count) if count > 1 else torch.full_like(bound, torch.nan)
    shape = [pareto_smooth(column.numpy())[1] if count >= 100 else np.nan for column in log_w.T]
    return bound.numpy(), error.numpy(), np.array(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bound:
    r"""The evidence lower bound of each datum and its two parts, in nats: ``elbo = reconstruction - kl``.

    Args:
        elbo: :math:`E_q[\log p(x, z) - \log q(z \mid x)]`, at weight one whatever the training weighed, ``[N]``.
        reconstruction: :math:`E_q[\log p(x \mid z)]`, ``[N]``; NaN where discrete latents were summed out.
        se: Monte Carlo standard error of the bound of each datum, ``[N]``.
    """

    elbo: np.ndarray
    reconstruction: np.ndarray
    se: np.ndarray

    @property
    def kl(self) -> np.ndarray:
        """``[N]``."""
        found: np.ndarray = self.reconstruction - self.elbo
        return found

    @property
    def mean(self) -> Estimate:
        """The bound per datum, averaged over the data, with its Monte Carlo error."""
        return Estimate(float(self.elbo.mean()), float(np.sqrt((self.se**2).sum())) / len(self.se), "lower bound")


def bound(encoded: Encoded, num_samples: int, seed: int | None) -> Bound:
    """The evidence lower bound, datum by datum."""
    positive_int(num_samples=num_samples)
    elbo, likely, error = np.empty((3, encoded.count))
    chunks = chunks_of(encoded.count, PAIRS // num_samples)
    for rows, own in zip(chunks, spawn(seed_sequence(seed), len(chunks)), strict=True):
        with isolated(as_int(own), torch.float32), torch.no_grad():
            pairs = encoded.at(rows, *encoded.parameters(rows), num_samples)
        log_w = (pairs["log_joint"] - pairs["log_q"]).double()
        elbo[rows], likely[rows] = log_w.mean(0).numpy(), pairs["log_likelihood"].double().mean(0).numpy()
        error[rows] = (log_w.std(0) / math.sqrt(num_samples)).numpy() if num_samples > 1 else np.nan
    return Bound(elbo=elbo, reconstruction=likely, se=error)
