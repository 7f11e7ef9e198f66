"""The gap of an amortised guide, split into what its family cannot do and what its encoder does not do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from phlogiston.engine.program.isolate import as_int, isolated, seed_sequence, spawn
from phlogiston.errors import positive_int
from phlogiston.stats.estimate import Estimate
from phlogiston.training.evaluate.likelihood import likelihood
from phlogiston.training.evaluate.pairs import PAIRS, Encoded, chunks_of

_DRAWS = 32  # a step of a datum's own guide
_RATE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class GapSplit:
    r"""log p(x) - ELBO, in nats a datum, averaged over the data, each part with its Monte Carlo error.

    .. math:: \log p(x) - L[q_\phi] = \underbrace{\log p(x) - L[q^*]}_{\text{approximation}}
        + \underbrace{L[q^*] - L[q_\phi]}_{\text{amortisation}}

    with :math:`q^*` the best normal for each datum by itself, found by going on from the encoder's.

    Args:
        log_likelihood: the importance-sampled :math:`\log p(x)`.
        elbo: of the amortised guide.
        refined: the bound of each datum's own best guide.
        approximation: what no guide of the family can close.
        amortisation: what another encoder could close.

    References:
        Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders.
        https://arxiv.org/abs/1801.03558
    """

    log_likelihood: Estimate
    elbo: Estimate
    refined: Estimate
    approximation: Estimate
    amortisation: Estimate

    @property
    def total(self) -> Estimate:
        """The whole gap."""
        se = float(np.hypot(self.log_likelihood.se, self.elbo.se))
        return Estimate(float(self.log_likelihood.value) - float(self.elbo.value), se)

    def __repr__(self) -> str:
        parts = f"approximation {self.approximation}, amortisation {self.amortisation}"
        return f"GapSplit({self.total} nats a datum = {parts})"


def gap_split(encoded: Encoded, *, num_samples: int, num_steps: int, seed: int | None) -> GapSplit:
    """Measure the gap with ``num_samples`` draws a datum, refining each datum's guide for ``num_steps`` steps."""
    positive_int(num_samples=num_samples, num_steps=num_steps)
    for_likelihood, for_refining = spawn(seed_sequence(seed), 2)
    exact = likelihood(encoded, num_samples, repeats=1, seed=for_likelihood)
    first, best = [], []
    parts = chunks_of(encoded.count, PAIRS // _DRAWS)
    for part, own in zip(parts, spawn(for_refining, len(parts)), strict=True):
        with isolated(as_int(own), torch.float32):
            with torch.no_grad():
                loc, scale = encoded.parameters(part)
            refined = _refined(encoded, part, loc, scale, num_steps)
            with torch.no_grad():
                first.append(_elbo(encoded, part, loc, scale, num_samples))
                best.append(_elbo(encoded, part, *refined, num_samples))
    amortised, refined_bound = np.concatenate(first, -1), np.concatenate(best, -1)
    return GapSplit(
        log_likelihood=exact.mean,
        elbo=_mean(amortised),
        refined=_mean(refined_bound),
        approximation=_difference(exact.mean, _mean(refined_bound)),
        amortisation=_difference(_mean(refined_bound), _mean(amortised)),
    )


def _mean(values: np.ndarray) -> Estimate:
    """``[2, N]``, a bound and its error for each datum."""
    return Estimate(float(values[0].mean()), float(np.sqrt((values[1] ** 2).sum()) / values.shape[1]), "lower bound")


def _difference(more: Estimate, less: Estimate) -> Estimate:
    return Estimate(float(more.value) - float(less.value), float(np.hypot(more.se, less.se)))


def _elbo(encoded: Encoded, rows: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, num_samples: int) -> np.ndarray:
    found = []
    for start in range(0, num_samples, step := max(1, PAIRS // len(rows))):
        pairs = encoded.at(rows, loc, scale, min(step, num_samples - start))
        found.append((pairs["log_joint"] - pairs["log_q"]).double())
    log_w = torch.cat(found)
    return torch.stack([log_w.mean(0), log_w.std(0) / len(log_w) ** 0.5]).numpy()


def _refined(
    encoded: Encoded, rows: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, num_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each datum's own mean and scale, from the encoder's, by gradients of its bound; the mean of the last half."""
    diagonal = scale if scale.ndim == 2 else torch.diagonal(scale, dim1=-2, dim2=-1)
    below = torch.zeros(0) if scale.ndim == 2 else torch.tril(scale, -1)
    free = [part.detach().clone().requires_grad_() for part in (loc, diagonal.log(), below)]
    optimiser = torch.optim.Adam([part for part in free if part.numel()], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps, eta_min=_RATE / 50)

    def assembled() -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_scale, lower = free
        if scale.ndim == 2:
            return mean, log_scale.exp()
        return mean, torch.diag_embed(log_scale.exp()) + torch.tril(lower, -1)

    total, kept = [torch.zeros_like(part) for part in (loc, scale)], 0
    for step in range(num_steps):
        optimiser.zero_grad()
        pairs = encoded.at(rows, *assembled(), _DRAWS)
        (-(pairs["log_joint"] - pairs["log_q"]).mean(0).sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if 2 * step >= num_steps:
            total = [a + b.detach() for a, b in zip(total, assembled(), strict=True)]
            kept += 1
    return total[0] / kept, total[1] / kept
