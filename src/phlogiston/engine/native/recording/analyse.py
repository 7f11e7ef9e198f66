"""A log of torch's calls as a program of the intermediate form.

Whether a tensor depends on an input is known by its storage, so that views need no rules and writes in place are seen.
What depends on none is a constant, with the value that torch computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from phlogiston.engine.native.interpret import interpret
from phlogiston.engine.native.ir import Array, Call, NotNative, Op, Program, Ref, Table, contiguous, offsets, walk
from phlogiston.engine.native.recording.indexing import INDEXING
from phlogiston.engine.native.recording.linear_algebra import LINEAR_ALGEBRA
from phlogiston.engine.native.recording.operations import OPERATIONS
from phlogiston.engine.native.recording.record import Entry, Log, Values, run_recorded, tensors_in
from phlogiston.engine.native.recording.reductions import REDUCTIONS

RULES = OPERATIONS | REDUCTIONS | INDEXING | LINEAR_ALGEBRA
_CONSTANT = [
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
]


@dataclass
class Stored:
    """A storage whose contents the program computes.

    Args:
        buffer: where they are.
        depends: whether on an input; writes in place make a storage of constants one of these too.
        free: places that were neither written nor read yet; None where all were.
    """

    buffer: int
    depends: bool
    free: Array | None = None


class Analysis:
    """Reads a log from its first entry to its last."""

    def __init__(self, log: Log, inputs: Values) -> None:
        self.log, self.program = log, Program()
        self.stored: dict[int, Stored] = {}
        self._constants: dict[int, int] = {}
        self._scalars: dict[float, int] = {}
        self._starts: list[tuple[int, int, Array]] = []  # position, buffer, contents before
        self._alive: list[Any] = []
        self._new: list[Stored] = []  # what the entry at hand has made
        for name, value in inputs.items():
            buffer = self.program.new(value.numel())
            self.program.inputs[name] = buffer
            self.stored[value.untyped_storage()._cdata] = Stored(buffer, True)

    def run(self) -> None:
        """Take in every entry."""
        for entry in self.log.entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Take in one entry."""
        if entry.name == "decision":
            self._decide(entry)
            return
        given = [tensor for tensor in tensors_in((entry.args, entry.kwargs)) if self.is_stored(tensor)]
        depends = any(self.depends(tensor) for tensor in given)
        if entry.name.endswith("_") and not entry.name.startswith("_"):
            self._in_place(entry, depends)
        elif given and entry.name not in _CONSTANT:
            self._compute(entry, given, depends)

    def _compute(self, entry: Entry, given: Sequence[torch.Tensor], depends: bool) -> None:
        results = list(tensors_in(entry.out))
        if all(self.is_stored(result) for result in results):
            return  # views
        if any(result.dtype == torch.float32 for result in results) and any(t.dtype == torch.float64 for t in given):
            raise NotNative("a conversion to float32")
        self._new.clear()
        _rule(entry)(self, entry.out, *_positional(entry), **_settings(entry))
        for stored in self._new:
            stored.depends = depends

    def _decide(self, entry: Entry) -> None:
        if any(self.depends(tensor) for tensor in tensors_in(entry.args)):
            where = f"at {entry.kwargs['line']}"
            raise NotNative(f"it asks for the value of a latent, which machine code does not know, {where}")

    # What tensors are

    def is_stored(self, tensor: torch.Tensor) -> bool:
        """Whether the program computes a tensor's contents."""
        return tensor.untyped_storage()._cdata in self.stored

    def depends(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor depends on an input."""
        stored = self.stored.get(tensor.untyped_storage()._cdata)
        return stored is not None and stored.depends

    def ref(self, value: Any, shape: Sequence[int]) -> Ref:
        """A tensor or a number as it is seen from a shape, by broadcasting."""
        shape = tuple(shape)
        if not isinstance(value, torch.Tensor):
            return Ref(self.scalar(float(value)), 0, (0,) * len(shape))
        own = tuple(value.shape)
        stored = self.stored.get(value.untyped_storage()._cdata)
        buffer = self.constant(value) if stored is None else stored.buffer
        if self.program.sizes[buffer] == 1:
            return Ref(buffer, 0, (0,) * len(shape))
        strides = value.stride()
        if stored is not None and stored.free is not None:
            stored.free[np.asarray(offsets(own, strides)) + value.storage_offset()] = False
        if own != shape:
            missing = len(shape) - len(own)
            strides = (0,) * missing + tuple(
                0 if size == 1 else stride for size, stride in zip(own, strides, strict=True)
            )
        return Ref(buffer, int(value.storage_offset()), strides)

    def scalar(self, value: float) -> int:
        """The buffer of a number; NaN is equal to itself here."""
        key = math.nan if value != value else value
        if key not in self._scalars or (value == 0.0 and math.copysign(1.0, value) < 0.0):
            self._scalars[key] = self.program.constant(value)
        return self._scalars[key]

    def constant(self, value: torch.Tensor) -> int:
        """The buffer of a constant's whole storage, with the contents that it had before any write in place."""
        storage = value.untyped_storage()
        if storage._cdata not in self._constants:
            whole = self.log.before.get(storage._cdata)
            if whole is None:
                count = storage.nbytes() // max(1, value.element_size())
                whole = torch.as_strided(value.detach(), (count,), (1,), 0)
            numbers = whole.to(torch.float64).numpy().copy()
            self._alive.append(value)
            same = numbers.size > 0 and bool((numbers == numbers[0]).all())
            new = self.scalar(float(numbers[0])) if same else self.program.new(numbers.size, numbers)
            self._constants[storage._cdata] = new
        return self._constants[storage._cdata]

    def integers(self, value: torch.Tensor) -> Array:
        """A constant tensor of integers."""
        if self.is_stored(value):
            raise NotNative("an index that depends on a latent")
        found: Array = self._as_it_was(value).detach().to(torch.int64).numpy().copy()
        return found

    # What operations write

    def place(self, out: torch.Tensor) -> Ref:
        """Where a new tensor's contents go."""
        storage = out.untyped_storage()
        buffer = self.program.new(storage.nbytes() // max(1, out.element_size()))
        self._made(out, buffer)
        return Ref(buffer, int(out.storage_offset()), tuple(out.stride()))

    def is_result(self, out: torch.Tensor, ref: Ref) -> None:
        """That a new tensor's contents lie in order at a reference that was written already."""
        self._made(out, ref.buffer)

    def _made(self, out: torch.Tensor, buffer: int) -> None:
        stored = Stored(buffer, True)
        self._new.append(stored)
        self.stored[out.untyped_storage()._cdata] = stored

    def keep(self, tensor: torch.Tensor) -> None:
        """Keep a tensor alive, so that no other takes the address of its storage."""
        self._alive.append(tensor)

    def op(self, fn: str, shape: Sequence[int], *args: Ref) -> Ref:
        """An operation into a new array."""
        shape = tuple(shape)
        out = Ref(self.program.new(math.prod(shape)), 0, contiguous(shape))
        self.write(fn, shape, out, *args)
        return out

    def write(self, fn: str, shape: Sequence[int], out: Ref, *args: Ref, how: str = "=") -> None:
        """An operation into a given place."""
        if math.prod(shape):
            self.program.items.append(Op(fn, tuple(shape), out, args, how))

    def map(self, fn: str, out: torch.Tensor, *args: Any) -> None:
        """An elementwise operation that makes a tensor."""
        refs = [arg if isinstance(arg, Ref) else self.ref(arg, out.shape) for arg in args]
        self.write(fn, out.shape, self.place(out), *refs)

    def call(self, fn: str, sizes: tuple[int, ...], out: Ref, *args: Ref) -> None:
        """A routine."""
        self.program.items.append(Call(fn, sizes, out, args))

    def table(self, places: Array) -> Table:
        """Places to look up, one for each element of an operation whose shape is that of ``places``."""
        buffer = self.program.new(places.size, places.ravel().astype(np.int64))
        return Table(buffer, 0, contiguous(places.shape))

    # Writes in place

    def _in_place(self, entry: Entry, depends: bool) -> None:
        target, name = entry.args[0], entry.name.removesuffix("_")
        storage = target.untyped_storage()._cdata
        if not depends and storage not in self.stored:
            self._replay(entry)
            return
        shape = tuple(target.shape)
        if name in ("detach", "requires_grad", "resolve_conj"):
            return
        if name in ("copy", "fill", "zero"):
            value = self.ref(entry.args[1] if name != "zero" else 0.0, shape)
        else:
            value = self._functional(name, entry, torch.empty(shape, dtype=target.dtype))
        self._overwrite(target, value, depends)

    def _replay(self, entry: Entry) -> None:
        """A write of constants to constants, done once more to what the storage held before, so that each use of it
        finds what it held then."""
        storage = entry.args[0].untyped_storage()._cdata
        self._constants.pop(storage, None)
        operation = getattr(torch.ops.aten, entry.name)
        args = [self._as_it_was(arg) for arg in entry.args]
        operation(*args, **{name: self._as_it_was(value) for name, value in entry.kwargs.items()})

    def _as_it_was(self, value: Any) -> Any:
        """A constant tensor, or those in a list, with what its storage holds at this point of the log."""
        if isinstance(value, (list, tuple)):
            return [self._as_it_was(part) for part in value]
        if not isinstance(value, torch.Tensor):
            return value
        before = self.log.before.get(value.untyped_storage()._cdata)
        if before is None or self.is_stored(value):
            return value
        return torch.as_strided(before, value.shape, value.stride(), value.storage_offset())

    def _functional(self, name: str, entry: Entry, out: torch.Tensor) -> Ref:
        """The result of an operation without its writing in place, as a new array."""
        self._alive.append(out)
        _rule(entry._replace(name=name))(self, out, *_positional(entry), **_settings(entry))
        return self.ref(out, out.shape)

    def _overwrite(self, target: torch.Tensor, value: Ref, depends: bool) -> None:
        storage, shape = target.untyped_storage(), tuple(target.shape)
        stored = self.stored.get(storage._cdata)
        if stored is None:
            before = self.log.before[storage._cdata].to(torch.float64).numpy()
            stored = Stored(self.program.new(before.size), depends, np.ones(before.size, bool))
            self._starts.append((len(self.program.items), stored.buffer, before))
            self.stored[storage._cdata] = stored
        stored.depends |= depends
        start = int(target.storage_offset())
        written = np.asarray(offsets(shape, tuple(target.stride())), np.int64) + start
        if stored.free is None or not stored.free[written].all():
            self._new_version(stored, written)
        else:
            stored.free[written] = False
        self.write("copy", shape, Ref(stored.buffer, start, tuple(target.stride())), value)

    def _new_version(self, stored: Stored, written: Array) -> None:
        """A buffer of its own for what a storage holds after a write to places that were in use."""
        size = self.program.sizes[stored.buffer]
        kept = np.setdiff1d(np.arange(size), written)
        new = self.program.new(size)
        if kept.size:
            table = self.table(kept)
            old = Ref(stored.buffer, 0, (0,), (), table)
            self.write("copy", (kept.size,), Ref(new, 0, (0,), (), table), old)
        if stored.free is not None:
            stored.free[:] = False
        stored.buffer, stored.free = new, None

    # The end

    def finish(self, outputs: Values) -> Program:
        """The program with its outputs, without what nothing needs."""
        for name, value in outputs.items():
            self.program.outputs[name] = (self.ref(value, value.shape), tuple(value.shape))
        for position, buffer, before in sorted(self._starts, key=lambda start: -start[0]):
            self._initialise(position, buffer, before)
        return without_dead_code(self.program)

    def _initialise(self, position: int, buffer: int, before: Array) -> None:
        """Give the places of a buffer that no operation writes what its storage held before the first write."""
        written = np.zeros(before.size, bool)
        for item in walk(self.program.items):
            if item.out.buffer == buffer and isinstance(item, Op):
                at = np.asarray(offsets(item.shape, item.out.strides), np.int64) + item.out.offset
                if item.out.table is not None:
                    at = at + self.program.data[item.out.table.buffer]
                written[at] = True
        left = np.flatnonzero(~written)
        if left.size:
            table = self.table(left)
            data = self.program.new(before.size, before.copy())
            copy = Op("copy", (left.size,), Ref(buffer, 0, (0,), (), table), (Ref(data, 0, (0,), (), table),))
            self.program.items.insert(position, copy)


_SPELLINGS = {"axis": "dim", "keepdims": "keepdim"}


def _rule(entry: Entry) -> Callable[..., None]:
    rule = RULES.get(entry.name)
    if rule is None:
        raise NotNative(f"the operation {entry.name}")
    return rule


def _positional(entry: Entry) -> tuple[Any, ...]:
    first = [entry.kwargs[name] for name in ("input", "self") if name in entry.kwargs]
    return (*first, *entry.args)


def _settings(entry: Entry) -> dict[str, Any]:
    return {_SPELLINGS.get(name, name): value for name, value in entry.kwargs.items() if name not in ("input", "self")}


def without_dead_code(program: Program) -> Program:
    """The program without operations whose results nothing reads."""
    needed = {ref.buffer for ref, _ in program.outputs.values()}
    kept: list[Any] = []
    for item in reversed(program.items):
        parts = list(walk([item]))
        if any(part.out.buffer in needed for part in parts):
            needed.update(ref.buffer for part in parts for ref in part.args)
            kept.append(item)
    program.items = kept[::-1]
    return program


def record(function: Any, example: Values, second: Values | None = None) -> Program:
    """Record a function of one draw.

    Args:
        function: named tensors to named tensors, such as a density.
        example: where it is run.
        second: where its recording is compared with it; one that computes outside torch differs there.

    Raises:
        NotNative: it cannot be recorded; says why.
    """
    log, outputs = run_recorded(function, example)
    analysis = Analysis(log, example)
    analysis.run()
    program = analysis.finish(outputs)
    if second is not None:
        _compare(program, function, second)
    return program


def _compare(program: Program, function: Any, second: Values) -> None:
    with torch.no_grad():
        expected = function(second)
    found = interpret(program, {name: value.reshape(-1, 1).numpy() for name, value in second.items()})
    for name, value in expected.items():
        wanted = value.to(torch.float64).numpy()
        if not np.allclose(found[name][..., 0], wanted, rtol=1e-9, atol=1e-9, equal_nan=True):
            gives = f"{name} at a second point is {found[name][..., 0]}, not {wanted}"
            raise NotNative(f"the recording does not follow the program: {gives}")
