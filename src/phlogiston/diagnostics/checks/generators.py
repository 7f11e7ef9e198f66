"""What a generator leaves out of the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.verdict import Check, Finding, failed, skipped
from phlogiston.stats.divergence import fidelity

Array = NDArray[np.float64]

DOUBTFUL, COLLAPSED = 0.75, 0.5
NEAR, FAR = 0.5, 0.25  # share of samples among the data
_MOST = 500
_FEWEST = 50
_SHARE = 25  # neighbours are the count over this


def check_coverage(data: Array, samples: Array, rng: np.random.Generator, name: str = "coverage of the data") -> Check:
    """Whether a generator reaches all of the data, or has collapsed onto a part.

    Judged by the share of the data with a sample no further away than their own k-th neighbour among the data.

    Args:
        data: ``[n, ...]``.
        samples: ``[m, ...]``.
        rng: picks which of them are looked at.
        name: of the check.
    """
    some, made, count = _picked(data, samples, rng)
    if count < _FEWEST:
        return skipped(name, f"{count} data and samples are too few")
    if not np.isfinite(made).all():
        finding = Finding(
            "some samples are not finite",
            "train again with a smaller learning rate",
            meaning="The generator has diverged.",
            severity="do not use",
        )
        return failed(name, finding)
    share = float(fidelity(some, made, neighbours=max(5, count // _SHARE)).coverage.value)
    if share >= DOUBTFUL:
        return Check(name, f"samples near {share:.0%} of the data, limit {DOUBTFUL:.0%}")
    finding = Finding(
        f"the samples come near {share:.0%} of the data only (limit {DOUBTFUL:.0%})",
        "use a loss or regulariser against collapse (relativistic with R1 and R2, packing), or a smaller learning rate",
        number=share,
        threshold=DOUBTFUL,
        meaning="The generator leaves out a part of the data: it has collapsed onto what it does best.",
        severity="do not use" if share < COLLAPSED else "caution",
    )
    return failed(name, finding)


def check_precision(data: Array, samples: Array, rng: np.random.Generator) -> Check:
    """Whether a generator draws what the data look like: the share of samples with a datum within its own ball.

    Args:
        data: ``[n, ...]``.
        samples: ``[m, ...]``.
        rng: picks which of them are looked at.
    """
    name = "samples among the data"
    some, made, count = _picked(data, samples, rng)
    if count < _FEWEST or not np.isfinite(made).all():
        return skipped(name, "too few" if count < _FEWEST else "some samples are not finite")
    share = float(fidelity(some, made, neighbours=max(5, count // _SHARE)).precision.value)
    if share >= NEAR:
        return Check(name, f"{share:.0%} of them, limit {NEAR:.0%}")
    finding = Finding(
        f"{share:.0%} of the samples lie among the data (limit {NEAR:.0%})",
        "train longer, or with a larger network, or weaken the regularisers",
        number=share,
        threshold=NEAR,
        meaning="The generator draws what the data do not look like.",
        severity="do not use" if share < FAR else "caution",
    )
    return failed(name, finding)


def _picked(data: Array, samples: Array, rng: np.random.Generator) -> tuple[Array, Array, int]:
    """As many of both, flat."""
    count = min(len(data), len(samples), _MOST)
    some, made = (
        np.asarray(x[rng.permutation(len(x))[:count]], dtype=float).reshape(count, -1) for x in (data, samples)
    )
    return some, made, count


def check_usage(active: NDArray[np.bool_], kl: Array) -> Check:
    """Whether the latents of an amortised guide carry anything of the data.

    Args:
        active: whether each coordinate's mean moves with the data.
        kl: of each coordinate, in nats.
    """
    name, used, total = "use of the latents", int(active.sum()), active.size
    if used >= 0.5 * total:
        return Check(name, f"{used} of {total} coordinates move with the data, KL {float(np.nansum(kl)):.2f} nats")
    finding = Finding(
        f"{used} of {total} latent coordinates move with the data (limit half of them)",
        "warm the KL up, allow free bits, take fewer latents, or a weaker decoder",
        number=float(used),
        threshold=0.5 * total,
        meaning="Posterior collapse: the decoder has learned to do without its latents."
        if not used
        else "The other coordinates say nothing: their posterior is the prior, whatever the datum.",
        severity="do not use" if not used else "caution",
    )
    return failed(name, finding)
