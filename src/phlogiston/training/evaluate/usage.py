"""Which of its latents an amortised guide uses, and how much they say of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from phlogiston.engine.program.isolate import as_int, isolated, seed_sequence, spawn
from phlogiston.errors import AmortisationWarning, problem, warn
from phlogiston.training.evaluate.pairs import PAIRS, Encoded, chunks_of

_ACTIVE = 0.01  # variance of the posterior mean over the data, in Burda et al.
_DRAWS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Usage:
    r"""What each coordinate of the latents carries.

    Args:
        names: of the coordinates.
        variance: :math:`\mathrm{Var}_x E_q[u_d \mid x]`, over the data, ``[dim]``.
        kl: :math:`E_x\,\mathrm{KL}[q(u_d \mid x), p(u_d)]` in nats, ``[dim]``; NaN where the prior of a latent does not
            fall into one of each coordinate.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders. https://arxiv.org/abs/1509.00519
    """

    names: tuple[str, ...]
    variance: np.ndarray
    kl: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """Whether each coordinate's mean moves with the data (variance above 0.01), ``[dim]``."""
        found: np.ndarray = self.variance > _ACTIVE
        return found

    @property
    def active_units(self) -> int:
        """Coordinates that move with the data."""
        return int(self.active.sum())

    def __repr__(self) -> str:
        return f"Usage({self.active_units} of {len(self.names)} latent coordinates active, KL {self.kl.sum():.2f} nats)"


def usage(encoded: Encoded, seed: int | None) -> Usage:
    """Variance of the means over the data, and the KL of each coordinate; warns where nothing is carried."""
    guide, count = encoded.guide, encoded.count
    means, kl = [], np.zeros(guide.split.dim)
    chunks = chunks_of(count, PAIRS // _DRAWS)
    for rows, own in zip(chunks, spawn(seed_sequence(seed), len(chunks)), strict=True):
        with isolated(as_int(own), torch.float32), torch.no_grad():
            loc, scale = encoded.parameters(rows)
            means.append(loc.double())
            kl += _kl(encoded, rows, loc, scale) / count
    spread = torch.cat(means).var(0, correction=0).numpy()
    found = Usage(names=_names(encoded), variance=spread, kl=kl)
    if not found.active_units:
        warn(
            problem(
                "Amortized",
                found=f"none of {len(spread)} latent coordinates that moves with the data (posterior collapse)",
                expected="latents that carry something of the data",
                fix="ph.SVI(..., kl_warmup=num_steps // 2) or free_bits=0.1, or a weaker decoder",
            ),
            AmortisationWarning,
        )
    return found


def _names(encoded: Encoded) -> tuple[str, ...]:
    names: list[str] = []
    for local in encoded.guide.split.local:
        whole = local.stop - local.start
        names += [local.site.name if whole == 1 else f"{local.site.name}[{i}]" for i in range(whole)]
    return tuple(names)


def _kl(encoded: Encoded, rows: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """The sum over some data of each coordinate's KL: the normal's entropy is exact, the prior's part is averaged."""
    marginal = scale if scale.ndim == 2 else torch.linalg.vector_norm(scale, dim=-1)
    pairs = encoded.at(rows, loc, scale, _DRAWS)
    prior = encoded.coordinate_prior(rows, pairs, _DRAWS)
    entropy = 0.5 * np.log(2.0 * np.pi * np.e) + torch.log(marginal.double())
    found: np.ndarray = (-entropy - prior.double().mean(0)).sum(0).numpy()
    return found
