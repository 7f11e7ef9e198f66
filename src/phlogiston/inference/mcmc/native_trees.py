"""The No-U-Turn sampler and its density both in machine code: many leapfrogs between two returns to Python."""

from __future__ import annotations

from phlogiston.engine.native.call import NativeCall, evaluate
from phlogiston.inference.mcmc.trees import COUNT, Rows, Trees, advance
from phlogiston.inference.rng import jit


@jit
def advance_until(
    trees: Trees, call: NativeCall, step_size: float, max_depth: int, rows: Rows, until: tuple[int, bool, int]
) -> tuple[int, int, int, float, int]:
    """``advance`` again and again, with the density of ``call``.

    Args:
        trees: changed in place.
        call: the density in machine code.
        step_size: of transitions that begin now.
        max_depth: of trees, at most that for which there is room.
        rows: filled chain by chain.
        until: transitions that end it, whether every chain must have ended one since it was placed, and the most
            leapfrogs.

    Returns:
        how many leapfrogs it were, and what ``advance`` returns, summed over them.
    """
    wanted, by_all, most = until
    done, ended, num_counted, accepted, diverged = 0, 0, 0, 0.0, 0
    while done < most:
        done += 1
        evaluate(call, trees.front)
        n, at_common_step, rate, bad = advance(trees, call.value[0], call.grad, step_size, max_depth, rows)
        ended, num_counted = ended + n, num_counted + at_common_step
        accepted, diverged = accepted + rate, diverged + bad
        if ended >= wanted and (not by_all or trees.ints[:, COUNT].min() > 0):
            break
    return done, ended, num_counted, accepted, diverged
