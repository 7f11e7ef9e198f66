"""Find the operation at which a gradient stops being finite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from phlogiston.engine.program.isolate import is_users_file

_FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


@dataclass
class Fault:
    """Where a finite log probability has a gradient that is not finite.

    Args:
        site: the site whose log probability it is.
        operation: torch's name of the derivative that is not finite, such as ``LogBackward0``.
        index: of the first element of the operation's argument for which it is not.
        line: the user's line that called the operation; "" where torch's own code called it, as in ``log_prob``.
    """

    site: str
    operation: str = ""
    index: tuple[int, ...] = field(default=())
    line: str = ""

    def __str__(self) -> str:
        by = f", by the derivative of {self.operation.split('Backward')[0].lower()}" if self.operation else ""
        return f"a gradient that is not finite{by} in element {list(self.index)}{self.line}"


def first_fault(terms: Callable[[], Mapping[str, torch.Tensor]], u: torch.Tensor) -> Fault | None:
    """The first site whose finite terms have a gradient by ``u`` that is not finite, and the operation that spoils it.

    Args:
        terms: computes the log probabilities by site from ``u``.
        u: the point, which requires a gradient.
    """
    with torch.autograd.set_detect_anomaly(True, check_nan=False):  # keeps the line at which each operation was called
        found = terms()
    for site, term in found.items():
        if term.requires_grad and (fault := _fault(site, term.sum(), u)) is not None:
            return fault
    return None


def _fault(site: str, total: torch.Tensor, u: torch.Tensor) -> Fault | None:
    faults: list[Fault] = []

    def watch(node: Any) -> Callable[[tuple[Any, ...], tuple[Any, ...]], None]:
        def after(inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
            bad = [value for value in inputs if _is_spoiled(value)]
            if bad and not faults and not any(_is_spoiled(value) for value in outputs):
                index = torch.nonzero(~torch.isfinite(bad[0]))[0]
                faults.append(Fault(site, node.name(), tuple(index.tolist()), _line(node)))

        return after

    handles = [node.register_hook(watch(node)) for node in _nodes(total)]
    (grad,) = torch.autograd.grad(total, u, retain_graph=True, allow_unused=True)
    for handle in handles:
        handle.remove()
    if grad is None or not _is_spoiled(grad):
        return None
    return faults[0] if faults else Fault(site)


def _is_spoiled(value: torch.Tensor | None) -> bool:
    return value is not None and not bool(torch.isfinite(value).all())


def _nodes(total: torch.Tensor) -> Iterator[Any]:
    """The nodes of the graph of derivatives, each once."""
    left: list[Any] = [total.grad_fn]
    seen: set[Any] = set()
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [parent for parent, _ in node.next_functions]
            yield node


def _line(node: Any) -> str:
    """The innermost line of the user's code on the way to an operation."""
    frames = [_FRAME.search(text) for text in node.metadata.get("traceback_", [])]
    users = [frame for frame in frames if frame is not None and is_users_file(frame["file"])]
    return f" at {users[-1]['file']}:{users[-1]['line']}: {users[-1]['code'].strip()[:120]}" if users else ""
