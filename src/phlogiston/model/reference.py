"""The answer that a model file carries with it: what a correct method must find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Means, spreads and evidence of a model's posterior, with their errors and their source.

    Args:
        mean: site name -> posterior mean, of the site's shape.
        sd: site name -> posterior standard deviation, of the site's shape.
        mean_se: site name -> standard error of ``mean``; a site that is absent is exact.
        sd_se: site name -> standard error of ``sd``; a site that is absent is exact.
        log_evidence: log p(observed) in nats, or None where it is unknown or has no meaning.
        probabilities: discrete site -> posterior probabilities, of shape ``[*site shape, states]``.
        source: where the numbers come from.
        regenerate: how to get them again.

    Example:
        >>> Reference(mean={"mu": 0.8}, sd={"mu": 0.436436}, source="closed form").standard_error("mu")
        (0.0, 0.0)
    """

    mean: Mapping[str, ArrayLike]
    sd: Mapping[str, ArrayLike]
    mean_se: Mapping[str, ArrayLike] = field(default_factory=dict)
    sd_se: Mapping[str, ArrayLike] = field(default_factory=dict)
    log_evidence: float | None = None
    probabilities: Mapping[str, ArrayLike] = field(default_factory=dict)
    source: str
    regenerate: str = ""

    def standard_error(self, site: str) -> tuple[ArrayLike, ArrayLike]:
        """Standard errors of the mean and of the standard deviation of ``site``; zero where exact."""
        return self.mean_se.get(site, 0.0), self.sd_se.get(site, 0.0)

    def __post_init__(self) -> None:
        for name in self.mean:
            if np.shape(self.mean[name]) != np.shape(self.sd.get(name, np.nan)):
                raise ValueError(
                    f"Reference: site {name!r} has a mean of shape {np.shape(self.mean[name])}; "
                    f"expected an sd of the same shape, found {np.shape(self.sd.get(name, np.nan))}"
                )
