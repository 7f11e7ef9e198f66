"""What warm-up learns from a block of chains together: the step size, and the scale of every direction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.chains import ChainDensity, Scale
from phlogiston.engine.native.call import NativeCall
from phlogiston.stats.leapfrog import leapfrogs

Array = NDArray[Any]
MassMatrix = Literal["auto", "diag", "dense", "low_rank"]
Density = Callable[[Array], tuple[Array, Array]]  # positions [D, C] -> log density [C], gradient [D, C]
_NEWTON, _SETTLING = 6, 3  # updates of the step size by whole steps; of these the average forgets so many
_RANK = 16  # directions that a low-rank scale corrects at most
DENSE = 50  # coordinates up to which every covariance is learnt by default: products with them cost little
_BULK = 50.0  # robust standard deviations from the median beyond which a draw or a gradient is an outlier
_FLOOR = 1e-12  # of an eigenvalue of a covariance, relative to the largest
_NOTABLE = 2.0  # a direction is corrected if its variance is this many times too large, or too small


@dataclass
class StepSearch:
    r"""Step size from acceptance rates by damped Newton steps.

    Energy errors that are normal, with a spread that grows as :math:`\epsilon^2`, are accepted at the rate
    :math:`a = 2 \Phi(-c \epsilon^2)`; the step that would be accepted at the rate wanted is then
    :math:`\epsilon \sqrt{q(a^*) / q(a)}` with :math:`q(a) = \Phi^{-1}(1 - a / 2)`. The first updates go there; later
    ones take the fraction :math:`t^{-1/2}` of its linear form, whose fixed point is the mean rate wanted, however noisy
    the rates of few chains are. The rates of many chains average to little noise, under which dual averaging with
    Stan's constants swings for long.

    References:
        Beskos, Pillai, Roberts, Sanz-Serna and Stuart (2013), Optimal tuning of the hybrid Monte Carlo algorithm,
        https://arxiv.org/abs/1001.4460 (the acceptance rate); Polyak and Juditsky (1992) (averaging)
    """

    start: float
    target: float
    count: int = 0
    log_step: float = 0.0
    log_average: float = 0.0

    @property
    def step_size(self) -> float:
        """The step size to use next."""
        return self.start * math.exp(self.log_step)

    @property
    def average(self) -> float:
        """The step size to keep when adaptation ends, an average that forgets the first updates."""
        return self.start * math.exp(self.log_average)

    def update(self, acceptance: float) -> None:
        """Learn from the mean acceptance rate of the transitions since the last update."""
        # Gains of order t^(-1/2) let the step go far from wherever it began, and the running average of the iterates
        # varies less than the last of them (Polyak and Juditsky, 1992). Rates near 0 and 1 are cut off, as they hardly
        # say how far to go.
        self.count += 1
        wanted = _spread(self.target)
        if self.count <= _NEWTON:
            change = 0.5 * math.log(wanted / _spread(min(max(acceptance, 0.02), 0.98)))
        else:
            slope = 4.0 * wanted * NormalDist().pdf(wanted)
            change = min(max((acceptance - self.target) / slope, -1.0), 1.0)
        self.log_step += self.count**-0.5 * change
        weight = max(self.count - _SETTLING, 1) ** -0.75
        self.log_average += weight * (self.log_step - self.log_average)


def _spread(acceptance: float) -> float:
    return NormalDist().inv_cdf(1.0 - 0.5 * acceptance)


def reasonable_step(
    density: Density, x: Array, value: Array, grad: Array, momentum: Array, step: float, target: float = 0.8
) -> float:
    """The step size, found by doubling or halving, at which one leapfrog of all chains is accepted as often as wanted.

    Args:
        density: of all chains.
        x: positions ``[D, C]`` with finite ``value [C]`` and ``grad [D, C]``.
        momentum: ``[D, C]``.
        step: to begin with.
        target: the acceptance rate.
    """

    def at(x: Array) -> tuple[Array, Array, Array]:
        value, grad = density(x)
        return x, grad, value

    before = value - 0.5 * np.square(momentum).sum(0)
    factor = 0.0
    # This is algorithm 4 of Hoffman and Gelman (2014), but with the mean rate of all chains, as a single chain may
    # begin where the density curves unusually.
    for _ in range(60):
        with np.errstate(over="ignore", invalid="ignore"):
            new_value, end = leapfrogs(x, momentum, grad, step, 1, at)
            after = new_value - 0.5 * np.square(end).sum(0)
            accepted = float(np.nan_to_num(np.exp(np.minimum(after - before, 0.0)), nan=0.0).mean())
        wanted = 2.0 if accepted > target else 0.5
        if factor and wanted != factor:
            break
        factor = wanted
        step *= factor
    return step


MANY_CHAINS = 16  # with so many, a few transitions are enough to learn the scale


@dataclass(frozen=True)
class Window:
    """A stretch of warm-up: transitions per chain, whether the scale is learnt at its end, and its largest trees."""

    transitions: int
    learns: bool
    max_depth: int = 64


def windows(num_warmup: int, num_chains: int) -> list[Window]:
    """Windows each twice as long as the one before, after Stan; the last one tunes the step size for the final scale.

    The first window lets the chains find the typical set. A block of ``MANY_CHAINS`` or more has found it before, and
    learns a scale from few transitions.

    Example:
        >>> [w.transitions for w in windows(1000, 1)]
        [75, 25, 50, 100, 200, 500, 50]
        >>> [w.transitions for w in windows(120, 64)]
        [16, 94, 10]
    """
    if num_warmup < 30:
        return [Window(num_warmup, False)] if num_warmup else []
    last = max(10, round(0.05 * num_warmup))
    if num_chains >= MANY_CHAINS:
        first, size = [], 16
    else:
        first = [Window(max(5, round(0.075 * num_warmup)), num_chains > 1, 8)]
        size = max(5, round(0.025 * num_warmup))
    left = num_warmup - last - sum(window.transitions for window in first)
    sizes = []
    while left:
        size = left if left < 3 * size else size
        sizes.append(size)
        left -= size
        size *= 2
    return [*first, *(Window(n, True, 8 + i) for i, n in enumerate(sizes)), Window(last, False)]


def unit_scale(kind: MassMatrix, dim: int, dtype: torch.dtype) -> Scale:
    """The scale of a kind that changes nothing; "auto" is dense for 2 to 50 coordinates."""
    if kind == "dense" or (kind == "auto" and 1 < dim <= DENSE):
        return (torch.eye(dim, dtype=dtype),)
    ones = torch.ones(dim, dtype=dtype)
    if kind in ("diag", "auto"):
        return (ones,)
    rank = min(_RANK, dim)
    return (ones, torch.zeros(dim, rank, dtype=dtype), torch.zeros(rank, dtype=dtype))


def named_scale(scale: Scale) -> dict[str, Array]:
    """The scale as arrays of a block's state."""
    return {f"scale_{i}": part.numpy() for i, part in enumerate(scale)}


def scale_in(state: dict[str, Array]) -> Scale:
    """The scale among the arrays of a block's state."""
    return tuple(torch.from_numpy(state[name]) for name in sorted(state) if name.startswith("scale_"))


class Tuning:
    """Step size and scale of a block of chains, which are kept among the arrays of its state."""

    def __init__(self, density: ChainDensity, state: dict[str, Array]) -> None:
        self._density, self._state = density, state
        self._scale = scale_in(state)
        self._call: NativeCall | None = None

    @property
    def scale(self) -> Scale:
        """The scale of every direction; a new one replaces that of the state."""
        return self._scale

    @scale.setter
    def scale(self, scale: Scale) -> None:
        self._scale, self._call = scale, None
        self._state.update(named_scale(scale))

    def native_call(self, chains: int) -> NativeCall | None:
        """The density at this scale as machine code for kernels; None where there is none."""
        if self._call is None and self._density.native is not None:
            self._call = self._density.native.call(chains, [part.numpy() for part in self._scale])
        return self._call

    @property
    def step_size(self) -> float:
        """The step size; a new one replaces that of the state."""
        return float(self._state["step_size"])

    @step_size.setter
    def step_size(self, value: float) -> None:
        self._state["step_size"] = np.asarray(value)

    def evaluate(self, x: torch.Tensor) -> tuple[Array, Array]:
        """Log density ``[C]`` and gradient ``[D, C]`` at contiguous standardised points ``x [D, C]``."""
        value, grad = self._density.evaluate(x, *self._scale)
        return value.numpy(), grad.numpy()

    def search(self, x: Array, value: Array, grad: Array, momentum: Array) -> None:
        """Replace the step size by a reasonable one; see ``reasonable_step``."""

        def density(x: Array) -> tuple[Array, Array]:
            return self.evaluate(torch.from_numpy(np.ascontiguousarray(x)))

        self.step_size = reasonable_step(density, x, value, grad, momentum, self.step_size)


def learnt_scale(draws: Array, grads: Array, scale: Scale) -> Scale:
    r"""The scale under which the density would be closest to a standard normal.

    The covariance that brings the draws' covariance :math:`\Sigma` and that of the gradients, :math:`\Lambda`
    (for a normal the inverse), into one is their geometric mean, :math:`M \Lambda M = \Sigma`; it minimises the
    Fisher divergence from a standard normal. Both are shrunk towards what the scale in use says of them.

    Args:
        draws: ``[n, D]``, unconstrained.
        grads: ``[n, D]``, gradients of the log density there.
        scale: in use, kept where the draws say nothing; the new one is of its kind.

    References:
        Seyboldt, Carlson and Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher
        divergence, https://arxiv.org/abs/2603.18845
    """
    finite = np.isfinite(draws).all(1) & np.isfinite(grads).all(1)
    draws, grads = _clipped(draws[finite].astype(np.float64)), _clipped(grads[finite].astype(np.float64))
    if draws.shape[0] < 3:
        return scale
    with np.errstate(over="ignore", invalid="ignore"):
        spread, slope = draws.std(0), grads.std(0)
    if not (np.isfinite(spread).all() and np.isfinite(slope).all()):
        return scale
    sd = np.sqrt(np.where(spread > 0.0, spread, 1.0) / np.where(slope > 0.0, slope, 1.0))
    parts: tuple[Array, ...] = (sd,)
    if scale[0].ndim == 2:
        parts = (_dense((draws - draws.mean(0)) / sd, (grads - grads.mean(0)) * sd) * sd[:, None],)
    if len(scale) == 3:
        parts = _low_rank((draws - draws.mean(0)) / sd, (grads - grads.mean(0)) * sd, sd, scale[2].shape[0])
    if not all(np.isfinite(part).all() for part in parts):
        return scale
    return tuple(torch.from_numpy(np.ascontiguousarray(part)).to(scale[0].dtype) for part in parts)


def _clipped(sample: Array) -> Array:
    """Clip each coordinate of a sample ``[n, D]`` to its bulk.

    A single draw next to a cliff of the density has a gradient of 1e15 and would stand for the whole posterior in every
    square. The bulk reaches ``_BULK`` robust standard deviations (1.48 median absolute deviations) from the median, so
    that samples without such outliers are left as they are, heavy tails included.
    """
    if not sample.size:
        return sample
    middle = np.median(sample, axis=0)
    reach = _BULK * 1.4826 * np.median(np.abs(sample - middle), axis=0)
    # Where more than half of a coordinate's values are the same, nothing is known of its bulk.
    reach = np.where(reach > 0.0, reach, np.inf)
    return np.asarray(np.clip(sample, middle - reach, middle + reach))


def _dense(centred: Array, slopes: Array) -> Array:
    """A root of the geometric mean of what standardised draws and gradients say, both shrunk by their number."""
    # This counts as dim + 2 more draws that show the scale in use to be right. A covariance of few draws has
    # eigenvalues near zero, which would make steps in these directions far too small.
    count, dim = centred.shape
    identity, shrink = np.eye(dim), (dim + 2.0) / (count + dim + 2.0)
    covariance, precision = (
        (1.0 - shrink) * (sample.T @ sample) / count + shrink * identity for sample in (centred, slopes)
    )
    mean = _geometric_mean(covariance, precision)
    try:
        return np.asarray(np.linalg.cholesky(mean))
    except np.linalg.LinAlgError:  # rounding leaves badly conditioned matrices with an eigenvalue below zero
        return np.asarray(np.linalg.cholesky(_power(0.5 * (mean + mean.T), 1.0)))


def _low_rank(centred: Array, slopes: Array, sd: Array, rank: int) -> tuple[Array, ...]:
    """Diagonal, with the directions corrected in which standardised draws or gradients vary most."""
    count, dim = centred.shape
    picked = []
    for sample in (centred, slopes):
        _, singular, right = np.linalg.svd(sample / math.sqrt(count), full_matrices=False)
        top = max(rank // 2, 1)
        picked.append(right[:top][singular[:top] ** 2 > _NOTABLE])
    basis = np.concatenate(picked)
    vectors, extra = np.zeros((dim, rank)), np.zeros(rank)
    if basis.size:
        q, r = np.linalg.qr(basis.T)
        q = q[:, np.abs(np.diag(r)) > 1e-8]
        root = _dense(centred @ q, slopes @ q)
        values, rotation = np.linalg.eigh(root @ root.T)
        vectors[:, : q.shape[1]] = q @ rotation
        extra[: q.shape[1]] = np.sqrt(values) - 1.0
    return sd, vectors, extra


def _geometric_mean(covariance: Array, precision: Array) -> Array:
    """The matrix M with M precision M = covariance (Pusz and Woronowicz, 1975)."""
    root, back = _power(precision, 0.5), _power(precision, -0.5)
    return np.asarray(back @ _power(root @ covariance @ root, 0.5) @ back)


def _power(matrix: Array, exponent: float) -> Array:
    """A power of a symmetric matrix, its eigenvalues not below a floor that is relative to the largest."""
    values, vectors = np.linalg.eigh(matrix)
    floor = _FLOOR * max(float(values[-1]), np.finfo(np.float64).tiny / _FLOOR)
    return np.asarray((vectors * np.maximum(values, floor) ** exponent) @ vectors.T)
