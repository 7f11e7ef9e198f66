"""Modes captured, against draws of the mixture itself and against samples with known faults."""

from __future__ import annotations

import math

import numpy as np
import pytest

import phlogiston as ph
from phlogiston.stats.divergence import modes

ANGLES = 2.0 * math.pi * np.arange(8) / 8
RING = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def ring(which: np.ndarray, sd: float = 0.01) -> np.ndarray:
    return RING[which] + sd * np.random.default_rng(1).standard_normal((len(which), 2))


def test_the_mixture_itself_scores_what_it_must() -> None:
    found = modes(ring(np.random.default_rng(0).integers(0, 8, 20_000)), RING, sd=0.01)
    assert (found.captured, found.total) == (8, 8)
    assert abs(found.high_quality.value - (1.0 - math.exp(-4.5))) < 4 * found.high_quality.se
    assert 0.0 < found.reverse_kl < 0.002  # its mean is 7 / 40,000


def test_lost_modes_and_wide_ones_are_seen() -> None:
    half = modes(ring(np.arange(8_000) % 4), RING, sd=0.01)
    assert half.captured == 4
    assert half.counts[4:] == (0, 0, 0, 0)
    assert half.reverse_kl == pytest.approx(math.log(2.0))
    wide = modes(ring(np.arange(20_000) % 8, sd=0.02), RING, sd=0.01)
    assert abs(wide.high_quality.value - (1.0 - math.exp(-9.0 / 8.0))) < 4 * wide.high_quality.se


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modes\(x\): found 1 of 4 numbers that are NaN"):
        modes([[0.0, math.nan], [0.0, 0.0]], RING, sd=0.01)
    with pytest.raises(ValueError, match="points of 3 dimensions and centres of 2"):
        modes(np.zeros((4, 3)), RING, sd=0.01)
    with pytest.raises(ValueError, match=r"found shape \(4,\)"):
        modes(np.zeros(4), RING, sd=0.01)
    with pytest.raises(ph.SettingError, match=r"sd=0\.0"):
        modes(np.zeros((4, 2)), RING, sd=0.0)
