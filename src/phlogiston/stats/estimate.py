"""A number with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["exact", "estimate", "lower bound"]


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, and what kind of statement it is.

    Args:
        value: a float, or an array where the quantity has a shape.
        se: Monte Carlo standard error, of the same shape; zero for an exact value.
        kind: "exact", "estimate" (unbiased or consistent), or "lower bound".

    Example:
        >>> print(Estimate(-31.3113, 0.0010))
        -31.3113 ± 0.0010
    """

    value: float | NDArray[np.float64]
    se: float | NDArray[np.float64] = 0.0
    kind: Kind = "estimate"

    def __str__(self) -> str:
        if np.ndim(self.value):
            with np.printoptions(precision=4, suppress=True):
                return f"{self.value} ± {self.se}"
        error = {"exact": " (exact)", "lower bound": " (lower bound)"}.get(self.kind, f" ± {float(self.se):.4f}")
        return f"{float(self.value):.4f}{error}"
