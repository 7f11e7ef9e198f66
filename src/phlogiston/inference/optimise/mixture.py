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
_LEVEL = 1e-3  # a gradient, relative to the log density, at which the end of a climb counts as a mode
_NEGLIGIBLE = 1e-4  # the share of the mass below which a mode is left out
_LEAST_SHARE = 0.02  # of the draws: a share that curvature alone underestimates must not be left to few draws


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
        """One mode."""
        return cls((normal,), np.array([_log_volume(normal)]))

    @classmethod
    def of(cls, evaluate: Evaluate, paths: Paths, highest: Normal) -> Mixture:
        """The modes at which climbs ended, each once, without those of negligible mass.

        An end of a climb is another mode where it lies further than ``_APART`` from every mode so far, in standard
        deviations of that mode's normal, and its curvature is that of a top in every direction.
        """
        values, gradients, ends = paths.values[-1], paths.gradients[-1], paths.points[-1]
        top = values[paths.best]
        normals, masses = [highest], [_log_volume(highest)]
        for i in np.argsort(-np.where(np.isfinite(values), values, -np.inf)):
            level = np.isfinite(values[i]) and np.abs(gradients[i]).max() <= _LEVEL * max(1.0, abs(float(values[i])))
            if not (paths.arrived[i] and level) or any(_distance(normal, ends[i]) < _APART for normal in normals):
                continue
            normal, smallest = at_mode(evaluate, ends[i])
            mass = float(values[i] - top) + _log_volume(normal)
            if smallest > 0.0 and mass > max(masses) + math.log(_NEGLIGIBLE):
                normals.append(normal)
                masses.append(mass)
        return cls(tuple(normals), np.array(masses))

    @property
    def _log_shares(self) -> Array:
        shares = np.exp(self.log_masses - np.logaddexp.reduce(self.log_masses))
        shares = np.maximum(shares, _LEAST_SHARE)
        return np.asarray(np.log(shares / shares.sum()))

    def log_evidence(self, log_density: float) -> float:
        """Laplace's approximation, from the log density at the highest mode."""
        return float(log_density + np.logaddexp.reduce(self.log_masses))

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Points ``[count, D]``, of each normal its share."""
        dim = len(self.normals[0].loc)
        if len(self.normals) == 1:
            return self.normals[0].draw(rng.standard_normal((count, dim)))
        owners = systematic_resample(self._log_shares, count, rng)
        noise = rng.standard_normal((count, dim))
        return np.concatenate([normal.draw(noise[owners == k]) for k, normal in enumerate(self.normals)])

    def log_prob(self, points: Array) -> Array:
        """``[N, D]`` -> ``[N]``."""
        parts = [normal.log_prob(points) + share for normal, share in zip(self.normals, self._log_shares, strict=True)]
        return np.asarray(np.logaddexp.reduce(parts, 0))


def _log_volume(normal: Normal) -> float:
    return normal.half_log_det + 0.5 * len(normal.loc) * math.log(2.0 * math.pi)


def _distance(normal: Normal, point: Array) -> float:
    """How many standard deviations a point lies from the mean."""
    at_mean, at_point = normal.log_prob(np.stack([normal.loc, point]))
    return math.sqrt(max(2.0 * float(at_mean - at_point), 0.0))
