"""A density of standardised coordinates: ``u = A x`` as part of the program, with the scale ``A`` exchangeable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phlogiston.engine.native.ir import Op, Program, Ref

SCALE = ("scale", "vectors", "extra")


@dataclass(frozen=True)
class Standardised:
    """A program of ``x`` and the buffers that hold the parts of the scale, in the order of ``densities.chains``."""

    program: Program
    scale: tuple[int, ...]


def standardised(
    program: Program, shapes: tuple[tuple[int, ...], ...], source: str = "u", name: str = "x"
) -> Standardised:
    r"""The program as a function of ``x [D]`` where its input is :math:`u = A x`.

    Args:
        program: with an input ``u [D]``.
        shapes: of the scale's parts: ``(D,)`` for a diagonal, ``(D, D)`` for a matrix, ``(D,), (D, k), (k,)`` for
            :math:`\mathrm{diag}(s) (I + V \mathrm{diag}(l) V^\top)`.
        source: the input that is standardised.
        name: of the new input.
    """
    full = program.copy()
    full.items = []
    u = full.inputs.pop(source)
    dim = full.sizes[u]
    x = full.new(dim)
    full.inputs[name] = x
    scale = tuple(full.new(int(np.prod(shape)), np.ones(int(np.prod(shape)))) for shape in shapes)
    full.exchangeable.update(scale)
    if len(shapes[0]) == 2:
        matrix, vector = Ref(scale[0], 0, (dim, 1)), Ref(x, 0, (0, 1))
        full.items.append(Op("mul", (dim, dim), Ref(u, 0, (1, 0)), (matrix, vector), "+="))
    else:
        inner = _stretched(full, x, dim, shapes[1][1], scale) if len(shapes) == 3 else x
        full.items.append(Op("mul", (dim,), Ref(u, 0, (1,)), (Ref(scale[0], 0, (1,)), Ref(inner, 0, (1,)))))
    full.items += program.items
    return Standardised(full, scale)


def _stretched(program: Program, x: int, dim: int, rank: int, scale: tuple[int, ...]) -> int:
    """``x + V (l * (V' x))``."""
    along, stretched, total = program.new(rank), program.new(rank), program.new(dim)
    vectors = Ref(scale[1], 0, (rank, 1))
    program.items += [
        Op("mul", (dim, rank), Ref(along, 0, (0, 1)), (vectors, Ref(x, 0, (1, 0))), "+="),
        Op("mul", (rank,), Ref(stretched, 0, (1,)), (Ref(scale[2], 0, (1,)), Ref(along, 0, (1,)))),
        Op("copy", (dim,), Ref(total, 0, (1,)), (Ref(x, 0, (1,)),), "+="),
        Op("mul", (dim, rank), Ref(total, 0, (1, 0)), (vectors, Ref(stretched, 0, (0, 1))), "+="),
    ]
    return total
