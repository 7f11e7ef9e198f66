"""Moves of SMC and AIS: proposals that a Metropolis test turns into kernels which keep a tempered density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from phlogiston.engine.densities.tempered import Tempered
from phlogiston.errors import SettingError, problem
from phlogiston.inference.mcmc.random_walk import optimal_acceptance, optimal_step
from phlogiston.model.registry import Registry
from phlogiston.stats.leapfrog import leapfrogs

Array = NDArray[Any]
_QUARTER_PERIOD, _MOST_LEAPFROGS = 0.5 * math.pi, 32


@dataclass(frozen=True)
class Walkers:
    """Points with their log prior, log likelihood and gradient.

    Args:
        u: ``[D, C]``, unconstrained.
        prior: log prior, ``[C]``.
        likelihood: log likelihood, ``[C]``.
        grad: of log prior + beta * log likelihood, ``[D, C]``, for the beta of the last move.
    """

    u: Array
    prior: Array
    likelihood: Array
    grad: Array

    def value(self, beta: float) -> Array:
        """Log of the tempered density, unnormalised; zero likelihood counts for nothing at beta zero."""
        return self.prior + beta * self.likelihood if beta else self.prior

    def at(self, places: Array) -> Walkers:
        """Select walkers by index; an index may be repeated."""
        return Walkers(self.u[:, places], self.prior[places], self.likelihood[places], self.grad[:, places])

    @staticmethod
    def joined(parts: list[Walkers]) -> Walkers:
        """Concatenate walkers along the last axis."""
        return Walkers(
            np.concatenate([part.u for part in parts], 1),
            np.concatenate([part.prior for part in parts]),
            np.concatenate([part.likelihood for part in parts]),
            np.concatenate([part.grad for part in parts], 1),
        )


class Move(Protocol):
    """A proposal for all walkers at once, whose step size and covariance are learned on the way.

    Example:
        >>> class CauchyWalk:
        ...     evaluations = 1
        ...     def initial_step(self, dim):
        ...         return 1.0
        ...     def target_acceptance(self, dim):
        ...         return 0.4
        ...     def propose(self, kernel, evaluate, walkers, rng):
        ...         step = kernel.step_size * kernel.root @ rng.standard_cauchy(walkers.u.shape)
        ...         proposed = evaluate(walkers.u + step)
        ...         return proposed, proposed.value(kernel.beta) - walkers.value(kernel.beta)
        >>> ph.register("move", "cauchy", CauchyWalk())
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> method = ph.SMC(moves="cauchy", num_particles=32_768, num_steps=64)
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), method, seed=0, progress=False)
        >>> bool(abs(post.log_evidence.value + 1.823657) < 4 * post.log_evidence.se)
        True
        >>> from phlogiston.inference.particles.moves import MOVES
        >>> MOVES.unregister("cauchy")
    """

    @property
    def evaluations(self) -> int:
        """How often the density is evaluated per move, roughly; whether compiling it pays depends on that."""

    def initial_step(self, dim: int) -> float:
        """The step size of the first move, in units of the walkers' standard deviations."""

    def target_acceptance(self, dim: int) -> float:
        """The acceptance rate that the step size is adapted to."""

    def propose(
        self, kernel: Kernel, evaluate: Callable[[Array], Walkers], walkers: Walkers, rng: np.random.Generator
    ) -> tuple[Walkers, Array]:
        """The proposed walkers and the logs of their acceptance ratios, ``[C]``.

        Args:
            kernel: inverse temperature, step size, and a root of the covariance of the walkers, ``[D, D]``.
            evaluate: points ``[D, C]`` -> walkers.
            walkers: where the moves begin.
            rng: for random numbers.
        """


@dataclass(frozen=True)
class Kernel:
    """A kernel that keeps the density tempered by ``beta``.

    Args:
        move: the proposal.
        beta: of the density.
        root: of the covariance of the walkers, ``[D, D]``; moves are made in coordinates standardised by it.
        step_size: in these coordinates.
    """

    move: Move
    beta: float
    root: Array
    step_size: float

    def __call__(self, path: Tempered, walkers: Walkers, rng: np.random.Generator) -> tuple[Walkers, Array]:
        """Where each walker goes, and its acceptance probability ``[C]``."""
        proposed, gain = self.move.propose(self, lambda u: evaluate_at(path, u, self.beta), walkers, rng)
        with np.errstate(over="ignore"):
            rate = np.exp(np.minimum(np.where(np.isnan(gain), -np.inf, gain), 0.0))
        taken = rng.random(rate.size) < rate
        return Walkers(
            np.where(taken, proposed.u, walkers.u),
            np.where(taken, proposed.prior, walkers.prior),
            np.where(taken, proposed.likelihood, walkers.likelihood),
            np.where(taken, proposed.grad, walkers.grad),
        ), rate


def evaluate_at(path: Tempered, u: Array, beta: float) -> Walkers:
    """Walkers at points ``[D, C]``; where the density is NaN, it counts as zero."""
    prior, likelihood, grad = path(u, beta)
    lost = np.isnan(prior) | np.isnan(likelihood)
    return Walkers(u, np.where(lost, -np.inf, prior), np.where(lost, -np.inf, likelihood), grad)


class Trajectory:
    """A Hamiltonian trajectory of a quarter of a period, or half of that, as long for every walker."""

    evaluations = 3

    def initial_step(self, dim: int) -> float:
        """Half a standard deviation."""
        return 0.5

    def target_acceptance(self, dim: int) -> float:
        """0.8: safer than the optimum in many dimensions, 0.65 (Beskos et al., 2013), and hardly slower."""
        return 0.8

    def propose(
        self, kernel: Kernel, evaluate: Callable[[Array], Walkers], walkers: Walkers, rng: np.random.Generator
    ) -> tuple[Walkers, Array]:
        """The ends of the trajectories, and minus their energy errors."""
        momentum, root = rng.standard_normal(walkers.u.shape), kernel.root
        length = _QUARTER_PERIOD * (0.5 + 0.5 * rng.random())
        steps = min(max(math.ceil(length / kernel.step_size), 1), _MOST_LEAPFROGS)
        start = walkers.value(kernel.beta) - 0.5 * np.square(momentum).sum(0)

        def at(u: Array) -> tuple[Array, Array, Walkers]:
            # A trajectory that has left for infinity goes on from its start; its energy error refuses it in the end.
            now = evaluate(np.where(np.isfinite(u).all(0), u, walkers.u))
            return now.u, root.T @ np.nan_to_num(now.grad, posinf=0.0, neginf=0.0), now

        with np.errstate(over="ignore", invalid="ignore"):
            force = root.T @ walkers.grad
            end, momentum = leapfrogs(
                walkers.u, momentum, force, kernel.step_size, steps, at, drift=lambda momentum: root @ momentum
            )
            return end, end.value(kernel.beta) - 0.5 * np.square(momentum).sum(0) - start


class RandomWalk:
    """A normal step with the covariance of the walkers."""

    evaluations = 1

    def initial_step(self, dim: int) -> float:
        """The optimum for a normal density."""
        return optimal_step(dim)

    def target_acceptance(self, dim: int) -> float:
        """The optimum for a normal density."""
        return optimal_acceptance(dim)

    def propose(
        self, kernel: Kernel, evaluate: Callable[[Array], Walkers], walkers: Walkers, rng: np.random.Generator
    ) -> tuple[Walkers, Array]:
        """The points after the step, and their gain in log density."""
        proposed = evaluate(walkers.u + kernel.step_size * (kernel.root @ rng.standard_normal(walkers.u.shape)))
        with np.errstate(invalid="ignore"):
            return proposed, proposed.value(kernel.beta) - walkers.value(kernel.beta)


def _is_move(item: Any) -> bool:
    members = ("evaluations", "initial_step", "target_acceptance", "propose")
    return not isinstance(item, type) and all(getattr(item, name, None) is not None for name in members)


MOVES = Registry(
    "move",
    {"hmc": Trajectory(), "mh": RandomWalk()},
    accepts=_is_move,
    expected="an object with `evaluations`, `initial_step`, `target_acceptance` and `propose`, as in ph.Move",
)


def move_of(moves: str | Move) -> Move:
    """The move that a name stands for, or the one given.

    Raises:
        SettingError: there is no such move, or it lacks a member.
    """
    if isinstance(moves, str):
        if moves not in MOVES:
            expected = " or ".join(map(repr, MOVES)) + ", or a move as in ph.Move"
            raise SettingError(problem("moves", found=repr(moves), expected=expected))
        move: Move = MOVES[moves]
        return move
    if not _is_move(moves):
        raise SettingError(problem("moves", found=repr(moves), expected="a name, or a move as in ph.Move"))
    return moves
