"""Where steps run: which device is meant, and a traced graph on another device than it was traced on.

Programs are read on the CPU, whatever they run on: data, networks and constants that a program captured need not be on
one device for that, and a graph names all of them. To move the graph is then to move its stored tensors, and to change
the devices that its operations name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from phlogiston.engine.trace.noise import is_random
from phlogiston.errors import DeviceWarning, SettingError, UnsupportedModel, problem, warn

CPU = torch.device("cpu")
_WORTH_MOVING = 1e8  # operations of a step: below, starting them on a device takes longer than doing them here


def check(name: str) -> None:
    """Refuse what is no name of a device; whether it is there matters only where steps are to run.

    Raises:
        SettingError: naming those that there are.
    """
    if not isinstance(name, str) or not re.fullmatch(r"cpu|auto|cuda(:\d+)?", name):
        raise SettingError(problem("device", found=repr(name), expected=f"'auto' or one of {_here()}"))


def operations_of(rows: int, parameters: Iterable[torch.Tensor]) -> float:
    """Of a step of networks, about: every parameter meets every row, once forwards and twice on the way back."""
    return 6.0 * rows * sum(value.numel() for value in parameters)


def chosen(name: str, operations: float) -> torch.device:
    """The device for steps of so many operations; "auto" takes the first GPU where there is one and it pays.

    Raises:
        SettingError: the device is not there; the message says which are.
    """
    check(name)
    pays = operations >= _WORTH_MOVING
    if name == "auto":
        return torch.device("cuda", 0) if pays and torch.cuda.device_count() else CPU
    device = torch.device(name)
    if device.type == "cpu":
        return CPU
    device = torch.device("cuda", device.index or 0)
    if (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(problem("device", found=repr(name), expected=f"one that is there: {_here()}"))
    if not pays:
        warn(
            f"device: a step of {operations:.0e} operations starts more slowly on {device} than it is done on the CPU; "
            "write: device='auto', or a larger batch_size",
            DeviceWarning,
        )
    return device


def _here() -> str:
    found = [f"'cuda:{i}' ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ", ".join(["'cpu'", *found])


def moved(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """A copy of a graph of the CPU's that runs on another device.

    Raises:
        UnsupportedModel: it draws random numbers itself, or has an operation that only the CPU has.
    """
    if device.type == "cpu":
        return module
    graph, mapped = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in module.graph.nodes:
        _refuse_bound(node, device)
        copied = mapped[node] = graph.node_copy(node, mapped.__getitem__)
        arguments: Any = fx.node.map_aggregate((copied.args, copied.kwargs), lambda a: _placed(a, device))
        copied.args, copied.kwargs = arguments
    stored = {str(node.target): getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"}
    return fx.GraphModule({name: value.to(device) for name, value in stored.items()}, graph)


def _refuse_bound(node: fx.Node, device: torch.device) -> None:
    only_here = node.op == "call_function" and re.search(r"_for_cpu|mkldnn", str(node.target))
    if only_here or is_random(node):
        what = "which only the CPU has" if only_here else "a draw that depends on a parameter"
        raise UnsupportedModel(
            problem(
                "device",
                found=f"operation {node.target}, {what}",
                expected=f"operations that {device} has, with all noise drawn outside",
                fix="device='cpu'",
            )
        )


def _placed(value: Any, device: torch.device) -> Any:
    return device if isinstance(value, torch.device) else value
