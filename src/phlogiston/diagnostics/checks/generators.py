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
_LEAST_EXPLAINED, _MOST_ERROR = 0.1, 4.0  # fraction of the variance; times the noise that the model predicts


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
    """Equally many rows of both, each flattened."""
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


def check_reconstruction(site: str, data: Array, predictions: Array) -> Check:
    r"""Whether data are reconstructed from their latents better than by their mean, as far as the model expects it.

    With the mean :math:`\hat x_n` of the predictions and the mean :math:`\bar x` of the data, the explained fraction
    is :math:`1 - \sum_n (x_n - \hat x_n)^2 / \sum_n (x_n - \bar x)^2`. A low fraction alone is no fault, as data may
    be mostly noise: it is one where the errors are far larger than the noise that the model itself predicts.

    Args:
        site: name of the observed site.
        data: ``[N, ...]``.
        predictions: draws of the site from the posterior predictive of the same data, ``[S, N, ...]``.
    """
    name = f"reconstruction of {site}"
    error = float(np.square(data - predictions.mean(0)).mean())
    spread, noise = float(np.square(data - data.mean(0)).mean()), float(predictions.var(0, ddof=1).mean())
    explained = 1.0 - error / spread if spread > 0.0 else 1.0
    if explained >= _LEAST_EXPLAINED or error <= _MOST_ERROR * noise:
        return Check(name, f"{explained:.0%} of the variance explained")
    finding = Finding(
        f"site {site!r}: latents explain {explained:.0%} of the data's variance (limit {_LEAST_EXPLAINED:.0%}), with a "
        f"mean squared error of {error:.3g} where the model predicts {noise:.3g}",
        "bring the data to the scale of the likelihood (x / x.std()), or learn its scale; then raise num_steps",
        number=explained,
        threshold=_LEAST_EXPLAINED,
        meaning="What is reconstructed is no better than the mean of the data, and the likelihood claims far more.",
        severity="do not use",
    )
    return failed(name, finding)
