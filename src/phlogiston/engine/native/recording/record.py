"""What a program does to its inputs, taken down call by call while it runs once.

A function mode sees Python's calls of torch and only appends them to a log; what it does not know it runs under a
dispatch mode, which appends the operations that torch makes of them. ``analyse`` reads the log afterwards.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from phlogiston.engine.native.recording.spellings import DECISIONS, DIRECT, RESHAPES, WATCHED
from phlogiston.engine.program.isolate import gc_paused, is_users_file

Values = dict[str, torch.Tensor]


class Entry(NamedTuple):
    """One call: the operation's name, what it was given, what it returned."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


@dataclass
class Log:
    """The calls of one run, in order.

    Args:
        entries: the calls; tensors in them stay alive, so that their storages tell them apart.
        before: storage -> its contents before the first write in place.
        decisions: tensors whose values reached Python, with the line that asked.
    """

    entries: list[Entry] = field(default_factory=list)
    before: dict[int, torch.Tensor] = field(default_factory=dict)

    def keep_shape(self, target: torch.Tensor) -> None:
        """Let the call that made a tensor have a view of its shape, which is about to change in place."""
        for k in range(len(self.entries) - 1, -1, -1):
            if self.entries[k].out is target:
                whole = torch.as_strided(target, target.shape, target.stride(), target.storage_offset())
                self.entries[k] = self.entries[k]._replace(out=whole)
                return

    def keep_before(self, target: torch.Tensor) -> None:
        """Keep what a storage held before it is written to for the first time."""
        storage = target.untyped_storage()
        if storage._cdata not in self.before:
            count = storage.nbytes() // target.element_size()
            self.before[storage._cdata] = torch.as_strided(target.detach(), (count,), (1,), 0).clone()


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Appends the operations that torch makes of a call."""

    def __init__(self, log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would wrap the method below, for 1.6 microseconds a call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in DECISIONS:
            self.log.entries.append(Entry("decision", args, {"line": _line()}, None))
            return func(*args, **kwargs)
        if name in RESHAPES:
            self.log.keep_shape(args[0])
            return func(*args, **kwargs)
        if name.endswith("_") or "out" in kwargs:
            self.log.keep_before(kwargs.get("out", args[0] if args else None))
        out = func(*args, **kwargs)
        self.log.entries.append(Entry(name, args, kwargs, out))
        return out


class _Functions(TorchFunctionMode):
    """Appends the calls that it knows by name, at half the price of a dispatch; the rest goes through ``_Dispatch``."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log, self.dispatch = log, _Dispatch(log)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = DIRECT.get(func)
        if name is None:
            with self.dispatch:
                return func(*args, **kwargs)
        if name == "pass":
            return func(*args, **kwargs)
        if name in WATCHED:
            return self._watched(name, func, args, kwargs)
        if "out" in kwargs:
            with self.dispatch:
                return func(*args, **kwargs)
        out = func(*args, **kwargs)
        self.log.entries.append(Entry(name, args, kwargs, out))
        return out

    def _watched(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if name == "decision":
            self.log.entries.append(Entry("decision", args, {"line": _line()}, None))
            return func(*args, **kwargs)
        if name == "validation":  # what a distribution asks of its arguments: latents are within their supports
            found = func(*args, **kwargs)
            return torch.ones((), dtype=torch.bool) if found else self._watched("decision", func, args, kwargs)
        if name == "view":
            out = func(*args, **kwargs)
            if not isinstance(out, torch.Tensor) or out.untyped_storage()._cdata == args[0].untyped_storage()._cdata:
                return out
        if name == "getitem" and _is_plain(args[1]):
            return func(*args, **kwargs)  # a view, known by its storage
        if name == "setitem" and _is_mask(args[1]) and not _has_elements(args[2]):
            target, mask, value = args
            mask = mask.reshape((*mask.shape, *(1,) * (target.dim() - mask.dim())))
            func, args = torch.Tensor.masked_fill_, (target, mask, value)
        with self.dispatch:
            return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _has_elements(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _is_plain(index: Any) -> bool:
    """Whether an index gives a view."""
    if isinstance(index, tuple):
        return all(_is_plain(part) for part in index)
    return index is None or index is Ellipsis or (type(index) in (int, slice))


def _line() -> str:
    """The innermost line of the user's own code on the stack."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if is_users_file(frame.f_code.co_filename):
            file, number = frame.f_code.co_filename, frame.f_lineno
            code = traceback.linecache.getline(file, number).strip()  # type: ignore[attr-defined]
            return f"{file}:{number}: {code[:120]}"
        frame = frame.f_back
    return "a library"


def run_recorded(function: Callable[[Values], Values], inputs: Values) -> tuple[Log, Values]:
    """Run a function of one draw once; what it did, and what it returned."""
    log = Log()
    with gc_paused(), torch.no_grad(), _Functions(log):
        outputs = function(inputs)
    return log, outputs


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
