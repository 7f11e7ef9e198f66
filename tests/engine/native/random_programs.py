"""Random programs of the intermediate form, for holding each phase of the compiler to the interpreter."""

from __future__ import annotations

import math

import numpy as np

from phlogiston.engine.native.ir import Call, Item, Loop, Op, Program, Ref, Table, contiguous

UNARY = ("exp", "tanh", "sigmoid", "softplus", "sin", "neg", "abs", "log1p_of_square")
BINARY = ("add", "sub", "mul", "maximum", "minimum")
SHAPES = ((), (3,), (40,), (5, 7), (40, 3), (36, 45), (1, 6))


class RandomProgram:
    """Writes a program of random operations on arrays of random shapes, whose value is a sum over all of them."""

    def __init__(self, seed: int, operations: int = 12) -> None:
        self.rng = np.random.default_rng(seed)
        self.program = Program([int(self.rng.integers(2, 50))], inputs={"u": 0})
        self.arrays: list[tuple[Ref, tuple[int, ...]]] = [(Ref(0, 0, (1,)), (self.program.sizes[0],))]
        for _ in range(operations):
            getattr(self, str(self.rng.choice(["map", "map", "sum", "gather", "recursion", "product", "routine"])))()
        self.value()

    @property
    def dim(self) -> int:
        """Length of the input."""
        return self.program.sizes[0]

    def pick(self) -> tuple[Ref, tuple[int, ...]]:
        """One of the arrays so far, the latest more often."""
        return self.arrays[max(int(self.rng.integers(len(self.arrays))), int(self.rng.integers(len(self.arrays))))]

    def constant(self, shape: tuple[int, ...]) -> Ref:
        """An array of constants."""
        size = math.prod(shape)
        return Ref(self.program.new(size, self.rng.normal(size=size) * 0.5), 0, contiguous(shape))

    def keep(self, out: Ref, shape: tuple[int, ...]) -> None:
        """A new array, squashed so that nothing grows."""
        squashed = Ref(self.program.new(math.prod(shape)), 0, contiguous(shape))
        self.program.items.append(Op("tanh", shape, squashed, (out,)))
        self.arrays.append((squashed, shape))

    def broadcast(self, ref: Ref, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Ref:
        """An array seen from another shape: its elements repeated where they are too few."""
        size = math.prod(shape)
        table = self.program.new(math.prod(wanted), self.rng.integers(0, size, math.prod(wanted)))
        places = np.asarray(
            [sum(i * s for i, s in zip(np.unravel_index(k, shape), ref.strides, strict=True)) for k in range(size)]
        )
        self.program.data[table] = places[self.program.data[table]] if size else self.program.data[table]
        return Ref(ref.buffer, ref.offset, (0,) * len(wanted), (), Table(table, 0, contiguous(wanted)))

    def map(self) -> None:
        """An elementwise operation."""
        ref, shape = self.pick()
        out = Ref(self.program.new(math.prod(shape)), 0, contiguous(shape))
        if self.rng.random() < 0.5:
            self.program.items.append(Op(str(self.rng.choice(UNARY[:-1])), shape, out, (ref,)))
        else:
            other, other_shape = self.pick()
            if other_shape != shape:
                other = self.constant(shape) if self.rng.random() < 0.5 else self.broadcast(other, other_shape, shape)
            self.program.items.append(Op(str(self.rng.choice(BINARY)), shape, out, (ref, other)))
        self.keep(out, shape)

    def sum(self) -> None:
        """A sum over one axis, or a maximum with what is beneath it."""
        ref, shape = self.pick()
        if not shape:
            return
        axis = int(self.rng.integers(len(shape)))
        left = shape[:axis] + shape[axis + 1 :]
        strides = list(contiguous(left))
        strides.insert(axis, 0)
        out = Ref(self.program.new(max(1, math.prod(left))), 0, tuple(strides))
        self.program.items.append(Op("copy", shape, out, (ref,), "+="))
        self.keep(out._replace(strides=contiguous(left)), left)

    def gather(self) -> None:
        """Elements looked up."""
        ref, shape = self.pick()
        wanted = SHAPES[int(self.rng.integers(len(SHAPES)))]
        out = Ref(self.program.new(math.prod(wanted)), 0, contiguous(wanted))
        self.program.items.append(Op("copy", wanted, out, (self.broadcast(ref, shape, wanted),)))
        self.keep(out, wanted)

    def product(self) -> None:
        """A matrix of constants with an array."""
        ref, shape = self.pick()
        if len(shape) != 1:
            return
        rows = int(self.rng.choice([2, 40]))
        matrix = self.constant((rows, shape[0]))
        out = self.program.new(rows)
        left = (matrix, Ref(ref.buffer, ref.offset, (0, ref.strides[0])))
        self.program.items.append(Op("mul", (rows, shape[0]), Ref(out, 0, (1, 0)), left, "+="))
        self.keep(Ref(out, 0, (1,)), (rows,))

    def recursion(self) -> None:
        """A state carried through a loop, by one or more steps, forwards or backwards."""
        ref, shape = self.pick()
        if len(shape) != 1 or shape[0] < 4:
            return
        lag, backwards = int(self.rng.integers(1, 6)), bool(self.rng.random() < 0.3)
        steps, width = shape[0] - lag, int(self.rng.choice([1, 3, 36]))
        if steps < 2:
            return
        h, inner = self.program.new(shape[0] * width), self.program.new(steps * width)
        start = (shape[0] - lag if backwards else 0) * width
        first = Ref(ref.buffer, ref.offset, (0,))
        self.program.items.append(Op("copy", (lag * width,), Ref(h, start, (1,)), (first,)))
        write, read = (0, lag) if backwards else (lag, 0)
        stride = ref.strides[0]
        body: list[Item] = [
            Op(
                "mul",
                (width,),
                Ref(inner, 0, (1,), (width,)),
                (Ref(h, read * width, (1,), (width,)), Ref(ref.buffer, ref.offset, (0,), (stride,))),
            ),
            Op("sin", (width,), Ref(h, write * width, (1,), (width,)), (Ref(inner, 0, (1,), (width,)),)),
        ]
        if self.rng.random() < 0.5:
            total = self.program.new(1)
            body.append(
                Op(
                    "mul",
                    (width,),
                    Ref(total, 0, (0,), (0,)),
                    (Ref(h, write * width, (1,), (width,)), Ref(ref.buffer, ref.offset, (0,), (0,))),
                    "+=",
                )
            )
            self.arrays.append((Ref(total, 0, ()), ()))
        self.program.items.append(Loop(steps, tuple(body), backwards))
        self.keep(Ref(h, 0, (1,)), (shape[0] * width,))

    def routine(self) -> None:
        """The factor of a matrix that is far from singular, and a solution with it."""
        ref, shape = self.pick()
        if len(shape) != 1 or shape[0] < 4:
            return
        n = int(self.rng.integers(2, 5))
        base = Ref(self.program.new(n * n, (4.0 * np.eye(n)).ravel()), 0, (n, 1))
        matrix = Ref(self.program.new(n * n), 0, (n, 1))
        row = Ref(ref.buffer, ref.offset, (0, ref.strides[0] if n <= shape[0] else 0))
        column = Ref(ref.buffer, ref.offset, (ref.strides[0] if n <= shape[0] else 0, 0))
        outer = Ref(self.program.new(n * n), 0, (n, 1))
        self.program.items.append(Op("mul", (n, n), outer, (row, column)))
        self.program.items.append(Op("add", (n, n), matrix, (outer, base)))
        factor = Ref(self.program.new(n * n), 0, (n, 1))
        self.program.items.append(Call("cholesky", (n,), factor, (matrix,)))
        right = Ref(ref.buffer, ref.offset, (ref.strides[0], 0))
        solved = Ref(self.program.new(n), 0, (1, 1))
        self.program.items.append(
            Call(str(self.rng.choice(["solve_lower", "solve_lower_transposed"])), (n, 1), solved, (factor, right))
        )
        self.keep(Ref(solved.buffer, 0, (1,)), (n,))

    def value(self) -> None:
        """The sum of all arrays, each element with a weight of its own."""
        total = self.program.new(1)
        for ref, shape in self.arrays:
            weights = self.constant(shape)
            self.program.items.append(Op("mul", shape, Ref(total, 0, (0,) * len(shape)), (ref, weights), "+="))
        self.program.outputs["value"] = (Ref(total, 0, ()), ())
