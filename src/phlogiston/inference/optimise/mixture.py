"""Several modes of one density: which climbs ended at different ones, and the mixture of their normals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.inference.optimise.lbfgs import Evaluate, Paths
from phlogiston.inference.optimise.normal_approx import Normal, at_mode
from phlogiston.stats.weights import systematic_resample

Array = NDArray[Any]
_APART = 2.0  # standard deviations between two ends of climbs that are different modes
_NEGLIGIBLE = 1e-4  # the fraction of the mass below which a mode is left out
_LEAST_FRACTION = 0.02  # of the draws: a fraction that curvature alone underestimates must not be left to few draws


@dataclass(frozen=True)
class Mixture:
    """Normals at modes.

    Args:
        normals: one per mode, the first at the highest.
        log_masses: log of density times volume of each mode, relative to the density at the highest.
    """

    normals: tuple[Normal, ...]
    log_masses: Array

    @classmethod
    def single(cls, normal: Normal) -> Mixture:
        """The mixture of a single mode."""
        return cls((normal,), np.array([normal.log_volume]))

    @classmethod
    def of(cls, evaluate: Evaluate, paths: Paths, highest: Normal) -> Mixture:
        """The mixture of the modes at which climbs ended, without those of negligible mass.

        See ``modes_among`` for what counts as another mode.
        """
        top = paths.values[-1][paths.best]
        normals, masses = [highest], [highest.log_volume]
        for normal, height in modes_among(evaluate, paths, known=(highest,)):
            mass = float(height - top) + normal.log_volume
            if mass > max(masses) + math.log(_NEGLIGIBLE):
                normals.append(normal)
                masses.append(mass)
        return cls(tuple(normals), np.array(masses))

    @property
    def _log_fractions(self) -> Array:
        fractions = np.exp(self.log_masses - np.logaddexp.reduce(self.log_masses))
        fractions = np.maximum(fractions, _LEAST_FRACTION)
        return np.asarray(np.log(fractions / fractions.sum()))

    def log_evidence(self, log_density: float) -> float:
        """Laplace's approximation, from the log density at the highest mode."""
        return float(log_density + np.logaddexp.reduce(self.log_masses))

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Points ``[count, D]``, from each normal in proportion to its mass."""
        dim = len(self.normals[0].loc)
        if len(self.normals) == 1:
            return self.normals[0].draw(rng.standard_normal((count, dim)))
        owners = systematic_resample(self._log_fractions, count, rng)
        noise = rng.standard_normal((count, dim))
        return np.concatenate([normal.draw(noise[owners == k]) for k, normal in enumerate(self.normals)])

    def log_prob(self, points: Array) -> Array:
        """Log density of the mixture at points ``[N, D]``."""
        pairs = zip(self.normals, self._log_fractions, strict=True)
        parts = [normal.log_prob(points) + log_fraction for normal, log_fraction in pairs]
        return np.asarray(np.logaddexp.reduce(parts, 0))


def modes_among(
    evaluate: Evaluate, paths: Paths, most: int | None = None, *, known: tuple[Normal, ...] = ()
) -> list[tuple[Normal, float]]:
    """The modes at which climbs ended, each once, as a normal and the log density; the highest first.

    An end of a climb is another mode where it lies further than ``_APART`` from every mode so far, in standard
    deviations of that mode's normal, and the density falls from it in every direction.

    Args:
        evaluate: the log density and its gradient.
        paths: of the climbs.
        most: how many modes to return at most; None is all.
        known: modes that are not returned again.
    """
    values, level, ends = paths.values[-1], paths.level, paths.points[-1]
    seen, modes = list(known), list[tuple[Normal, float]]()
    for i in np.argsort(-np.where(np.isfinite(values), values, -np.inf)):
        if not level[i] or any(normal.distances(ends[[i]])[0] < _APART for normal in seen):
            continue
        normal, smallest = at_mode(evaluate, ends[i])
        if smallest > 0.0:
            seen.append(normal)
            modes.append((normal, float(values[i])))
        if len(modes) == most:
            break
    return modes
