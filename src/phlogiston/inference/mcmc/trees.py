"""One leapfrog of the No-U-Turn sampler for every chain, each at its own place in its own tree.

Chains never wait for each other: a chain whose tree is complete emits its draw and begins the next transition
in the same call. Coordinates are standardised, so the mass matrix is the identity; what scales them is in the
gradient (``engine.chains``).

The tree is the iterative one of Phan, Pradhan and Jankowiak (2019, https://arxiv.org/abs/1912.11554) with the
multinomial weights and the generalised U-turn criterion of Betancourt (2017, https://arxiv.org/abs/1701.02434),
its sum of momenta taken by the trapezoid rule, and the checks across the two halves of a doubled tree that Stan
added in 2.21. Chains as state machines: Dance, Glaser, Orbanz and Adams (2025, https://arxiv.org/abs/2503.17405).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phlogiston.inference.mcmc.leapfrog import kick_and_drift
from phlogiston.inference.rng import Words, fill_normal, inlined, jit, uniform

Array = NDArray[Any]
# An energy error beyond which a trajectory counts as divergent, as in Stan. A stable leapfrog oscillates around its
# energy with errors of order one, while an unstable one gains energy exponentially, so that any large number would do.
DIVERGENCE = 1000.0

# Rows of Trees.vectors, each [D].
X, P, G = 0, 1, 2  # the moving end: position, momentum, gradient
Z, Z_G = 3, 4  # the state proposed by the tree so far, and its gradient
S_Z, S_G = 5, 6  # the same of the subtree that is growing
L_X, L_P, L_G, R_X, R_P, R_G = 7, 8, 9, 10, 11, 12  # the two ends of the tree
SUM, S_SUM = 13, 14  # sums of momenta
S_FIRST = 15  # the first momentum of the subtree
VECTORS = 16

# Columns of Trees.reals and Trees.ints.
H_0, LOG_W, S_LOG_W, LP, S_LP, ENERGY, S_ENERGY, ACCEPT, EPS, STEP_FACTOR, STUCK_RATE = range(11)
REALS = 11
DIRECTION, DEPTH, LEAF, N_STEPS, COUNT, FILLED = range(6)
INTS = 6
# During warm-up a chain whose acceptance rate falls below _LOW_RATE multiplies the common step by a factor of its own
# (STEP_FACTOR), because the step that suits the other chains would never move it. STUCK_RATE is the fraction of recent
# transitions that needed this. A chain above _MOSTLY keeps its small step, as it would otherwise stop moving again.
_LOW_RATE, _REDUCTION, _MOSTLY, _MEMORY = 0.2, 0.25, 0.5, 0.95

# Columns of the statistics of a draw.
STATS = ("lp", "energy", "acceptance_rate", "n_steps", "tree_depth", "diverging", "step_size", "reached_max_treedepth")
_LP, _ENERGY, _ACCEPT, _N_STEPS, _DEPTH, _DIVERGING, _STEP_SIZE, _REACHED = range(len(STATS))


class Trees(NamedTuple):
    """Everything that C chains in D dimensions carry from one leapfrog to the next.

    ``vectors [C, VECTORS, D]``, ``checks [C, 2, max_depth, D]`` (momenta and sums at the leaves that later leaves
    are compared with), ``reals [C, REALS]``, ``ints [C, INTS]``, ``words [C, 4]`` (random streams) and ``front
    [D, C]``, the points at which the gradient is wanted next.
    """

    vectors: Array
    checks: Array
    reals: Array
    ints: NDArray[np.int64]
    words: Words
    front: Array


def new_trees(words: Words, dim: int, max_depth: int, dtype: Any) -> Trees:
    """Chains without a position yet, each with its random stream, ``[C, 4]``."""
    chains = words.shape[0]
    reals = np.zeros((chains, REALS))
    reals[:, STEP_FACTOR] = 1.0
    return Trees(
        np.zeros((chains, VECTORS, dim), dtype),
        np.zeros((chains, 2, max_depth, dim), dtype),
        reals,
        np.zeros((chains, INTS), np.int64),
        words,
        np.zeros((dim, chains), dtype),
    )


@inlined
def _begin_transition(v: Array, r: Array, n: Array, words: Words, step_size: float) -> None:
    fill_normal(words, v[P])
    kinetic = 0.0
    for d in range(v.shape[1]):
        p = v[P, d]
        kinetic += 0.5 * p * p
        v[SUM, d] = v[L_P, d] = v[R_P, d] = p
        v[L_X, d] = v[R_X, d] = v[Z, d]
        v[L_G, d] = v[R_G, d] = v[Z_G, d]
    r[H_0] = r[ENERGY] = kinetic - r[LP]
    r[LOG_W], r[ACCEPT], r[EPS] = 0.0, 0.0, step_size
    n[DEPTH], n[N_STEPS] = 0, 0


@inlined
def _begin_subtree(v: Array, r: Array, n: Array, words: Words) -> None:
    forward = uniform(words) < 0.5
    n[DIRECTION] = 1 if forward else -1
    n[LEAF] = 0
    r[S_LOG_W] = -np.inf
    end = R_X if forward else L_X
    for d in range(v.shape[1]):
        v[X, d], v[P, d], v[G, d] = v[end, d], v[end + 1, d], v[end + 2, d]
        v[S_SUM, d] = 0.0


@inlined
def _half_step(v: Array, r: Array, n: Array) -> None:
    """Take half a kick and the whole drift; the other half of the kick follows when the gradient is known."""
    eps = r[EPS] * n[DIRECTION]
    kick_and_drift(v[X], v[P], v[G], 0.5 * eps, eps)


@inlined
def _add_leaf(v: Array, r: Array, n: Array, words: Words, value: float) -> bool:
    """Complete the leapfrog, weigh the new state and take it as the subtree's proposal or not; True if it diverged."""
    eps = r[EPS] * n[DIRECTION]
    kinetic = 0.0
    for d in range(v.shape[1]):
        p = v[P, d] + 0.5 * eps * v[G, d]
        v[P, d] = p
        v[S_SUM, d] += p
        kinetic += 0.5 * p * p
    energy = kinetic - value
    error = energy - r[H_0]
    n[N_STEPS] += 1
    sound = -np.inf < error < DIVERGENCE  # neither does NaN pass
    if sound:
        # Multinomial sampling within the subtree (Betancourt, 2017): a state is proposed with probability in proportion
        # to exp(-energy). The newest leaf takes the place of the proposal with the probability that its weight has in
        # the sum so far, which gives that distribution in one pass, without keeping the states.
        r[ACCEPT] += min(1.0, np.exp(-error))
        before = r[S_LOG_W]
        total = max(before, -error) + np.log1p(np.exp(-abs(before + error)))
        r[S_LOG_W] = total
        if n[LEAF] == 0:
            for d in range(v.shape[1]):
                v[S_FIRST, d] = v[P, d]
        if n[LEAF] == 0 or np.log(uniform(words)) < -error - total:
            for d in range(v.shape[1]):
                v[S_Z, d], v[S_G, d] = v[X, d], v[G, d]
            r[S_LP], r[S_ENERGY] = value, energy
    return not sound


@inlined
def _leaf_makes_u_turn(v: Array, checks: Array, n: Array) -> bool:
    """Compare the newest leaf with the first leaf of each balanced subtree that it completes."""
    # A leaf of odd index completes as many balanced subtrees as its index has trailing ones in binary. The first leaf
    # of each has an even index and lies in the slot whose number is the count of ones in that index, so that a slot per
    # doubling is kept instead of every leaf (Phan, Pradhan and Jankowiak, 2019).
    leaf, dim = n[LEAF], v.shape[1]
    slot, rest, turning = 0, leaf >> 1, False
    while rest:
        slot += rest & 1
        rest >>= 1
    if leaf % 2 == 0:
        if leaf + 1 < 1 << n[DEPTH]:
            for d in range(dim):
                checks[0, slot, d] = v[P, d]
                checks[1, slot, d] = v[S_SUM, d] - v[P, d]
    else:
        ones = leaf
        while ones & 1 and not turning:
            # Generalised U-turn criterion (Betancourt, 2017): a span turns back where its sum of momenta, rho, points
            # against the momentum at either end. With the ends halved (trapezoid rule) rho is the displacement divided
            # by the step size, but for the gradients at the ends, as in the first criterion of Hoffman and Gelman
            # (2014).
            at_first, at_last = 0.0, 0.0
            for d in range(dim):
                first, last = checks[0, slot, d], v[P, d]
                rho = v[S_SUM, d] - checks[1, slot, d] - 0.5 * (first + last)
                at_first += rho * first
                at_last += rho * last
            turning = at_first <= 0.0 or at_last <= 0.0
            slot -= 1
            ones >>= 1
    return turning


@inlined
def _merge(v: Array, r: Array, n: Array, words: Words) -> bool:
    """Join the complete subtree to the tree; True if the whole, or a span across the seam, turns back.

    Across the seam: the old tree with the first leaf of the new half, the last leaf of the old with the new half.
    """
    # Biased progressive sampling (Betancourt, 2017): the proposal of the new half is taken with probability min(1,
    # weight of the new half / weight of the old tree), which keeps the target and prefers states far from the start. It
    # is taken before the criterion is computed, as a complete subtree is valid and a U-turn only ends the growth.
    if np.log(uniform(words)) < r[S_LOG_W] - r[LOG_W]:
        for d in range(v.shape[1]):
            v[Z, d], v[Z_G, d] = v[S_Z, d], v[S_G, d]
        r[LP], r[ENERGY] = r[S_LP], r[S_ENERGY]
    high, low = max(r[LOG_W], r[S_LOG_W]), min(r[LOG_W], r[S_LOG_W])
    r[LOG_W] = high + np.log1p(np.exp(low - high))
    far, near = (L_X, R_X) if n[DIRECTION] > 0 else (R_X, L_X)
    # Two halves may each be too short to turn back while their union has gone full circle, so that its ends point in
    # the same direction again. The two spans across the seam are in between in length and show it (Stan 2.21).
    a, b, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for d in range(v.shape[1]):
        oldest, latest, first, last = v[far + 1, d], v[near + 1, d], v[S_FIRST, d], v[P, d]
        old, new = v[SUM, d], v[S_SUM, d]
        rho = old + new - 0.5 * (oldest + last)
        a += rho * oldest
        b += rho * last
        rho = old + first - 0.5 * (oldest + first)
        e += rho * oldest
        f += rho * first
        rho = new + latest - 0.5 * (latest + last)
        g += rho * latest
        h += rho * last
        v[SUM, d] = old + new
        v[near, d], v[near + 1, d], v[near + 2, d] = v[X, d], last, v[G, d]
    n[DEPTH] += 1
    return min(a, b, e, f, g, h) <= 0.0


@jit
def start_transitions(trees: Trees, value: Array, grad: Array, step_size: float) -> None:
    """Put every chain at ``front``, where density ``[C]`` and gradient ``[D, C]`` are given; begin a transition."""
    for c in range(trees.ints.shape[0]):
        v, r, n = trees.vectors[c], trees.reals[c], trees.ints[c]
        for d in range(v.shape[1]):
            v[Z, d], v[Z_G, d] = trees.front[d, c], grad[d, c]
        r[LP] = value[c]
        n[COUNT] = n[FILLED] = 0
        r[STEP_FACTOR] = min(r[STEP_FACTOR], _REDUCTION) if r[STUCK_RATE] > _MOSTLY else 1.0
        _begin_transition(v, r, n, trees.words[c], step_size * r[STEP_FACTOR])
        _begin_subtree(v, r, n, trees.words[c])
        _half_step(v, r, n)
    _gather_positions(trees)


@jit
def _scatter_gradients(trees: Trees, grad: Array) -> None:
    """Copy gradients ``[D, C]`` to the chains, eight chains (one line of cache) at a time."""
    chains = trees.ints.shape[0]
    for first in range(0, chains, 8):
        for d in range(grad.shape[0]):
            for c in range(first, min(first + 8, chains)):
                trees.vectors[c, G, d] = grad[d, c]


@jit
def _gather_positions(trees: Trees) -> None:
    """Copy the positions of the chains to ``front [D, C]``."""
    chains = trees.ints.shape[0]
    for first in range(0, chains, 8):
        for d in range(trees.front.shape[0]):
            for c in range(first, min(first + 8, chains)):
                trees.front[d, c] = trees.vectors[c, X, d]


class Rows(NamedTuple):
    """Where the draws of C chains go: ``draws [C, n, D]``, ``stats [C, n, len(STATS)]`` and ``grads``.

    ``grads`` is ``[C, n, D]`` in warm-up, when a chain whose rows are full goes on unrecorded, and ``[C, 0, D]`` when
    sampling, when such a chain rests.
    """

    draws: Array
    stats: Array
    grads: Array


@inlined
def _describe(stats: Array, r: Array, n: Array, turning: bool, diverging: bool) -> None:
    """Write the statistics of a draw. A subtree that was abandoned counts as a doubling."""
    stats[_LP], stats[_ENERGY], stats[_ACCEPT] = r[LP], r[ENERGY], r[ACCEPT] / n[N_STEPS]
    stats[_N_STEPS], stats[_DEPTH] = n[N_STEPS], n[DEPTH] + turning
    stats[_DIVERGING], stats[_STEP_SIZE] = diverging, r[EPS]


@inlined
def _keep_draw(draws: Array, grads: Array, v: Array, n: Array) -> None:
    """Copy the accepted state, in warm-up with its gradient, to the next free row of a chain."""
    row = n[FILLED]
    n[FILLED] += 1
    for d in range(v.shape[1]):
        draws[row, d] = v[Z, d]
        if grads.shape[0] > 0:
            grads[row, d] = v[Z_G, d]


@inlined
def _adapt_factor(r: Array, rate: float) -> None:
    """Reduce the step of a chain that moved too little, or let it return to the common step."""
    stuck = r[STEP_FACTOR] != 1.0 or rate < _LOW_RATE
    r[STUCK_RATE] = _MEMORY * r[STUCK_RATE] + (1.0 - _MEMORY) * stuck
    r[STEP_FACTOR] = _REDUCTION * r[STEP_FACTOR] if rate < _LOW_RATE else min(1.0, 2.0 * r[STEP_FACTOR])


@jit
def advance(
    trees: Trees, value: Array, grad: Array, step_size: float, max_depth: int, rows: Rows
) -> tuple[int, int, float, int]:
    """Take in density and gradient at ``front``, move every chain on by one leapfrog, and set ``front`` anew.

    Args:
        trees: changed in place.
        value: ``[C]``.
        grad: ``[D, C]``.
        step_size: of transitions that begin now.
        max_depth: of trees, at most that for which there is room.
        rows: filled chain by chain.

    Returns:
        transitions that ended in this call, how many of them used the common step size, the sum of the acceptance
        rates of these, and how many transitions diverged.
    """
    ended, num_counted, accepted, diverged = 0, 0, 0.0, 0
    warming_up = rows.grads.shape[1] > 0
    _scatter_gradients(trees, grad)
    for c in range(trees.ints.shape[0]):
        v, r, n, words = trees.vectors[c], trees.reals[c], trees.ints[c], trees.words[c]
        if not warming_up and n[FILLED] >= rows.draws.shape[1]:
            continue
        diverging = _add_leaf(v, r, n, words, value[c])
        # A subtree that turns back within itself is dropped with its proposal: from some of its states the trajectory
        # could not have been grown to this one, so that keeping them would break detailed balance.
        turning = diverging or _leaf_makes_u_turn(v, trees.checks[c], n)
        n[LEAF] += 1
        complete = n[LEAF] == 1 << n[DEPTH]
        over = turning or (complete and (_merge(v, r, n, words) or n[DEPTH] >= max_depth))
        if over:
            ended, diverged = ended + 1, diverged + diverging
            rate, at_common_step = r[ACCEPT] / n[N_STEPS], r[STEP_FACTOR] == 1.0
            num_counted, accepted = num_counted + at_common_step, accepted + rate * at_common_step
            if n[FILLED] < rows.draws.shape[1] and (at_common_step or not warming_up):
                _describe(rows.stats[c, n[FILLED]], r, n, turning, diverging)
                rows.stats[c, n[FILLED], _REACHED] = n[DEPTH] >= max_depth
                _keep_draw(rows.draws[c], rows.grads[c], v, n)
            n[COUNT] += 1
            if warming_up:
                _adapt_factor(r, rate)
            _begin_transition(v, r, n, words, step_size * r[STEP_FACTOR])
        if over or complete:
            _begin_subtree(v, r, n, words)
        _half_step(v, r, n)
    _gather_positions(trees)
    return ended, num_counted, accepted, diverged
