"""Many steps of an iteration in one call: a pure step function as a graph, repeated, and compiled where that pays.

A step maps a state and one set of inputs (noise, indices) to the next state and a record. Repeating it inside one graph
removes Python from between the steps, where a small step spends most of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx

from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.trace import compile
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.graph import batch_by
from phlogiston.errors import UntraceableProgram

Tensors = tuple[torch.Tensor, ...]
# Maps a state, the constants of a call (such as a learning rate) and the inputs of one step to the next state and a
# record.
Step = Callable[[Tensors, Tensors, Tensors], tuple[Tensors, torch.Tensor]]

_SECONDS_PER_OPERATION, _SECONDS_PER_ELEMENT = 8e-6, 1e-9
_SECONDS_TO_COMPILE, _SECONDS_TO_COMPILE_AN_OPERATION = 2.0, 0.01
_MAX_ELEMENTS = 2_000_000  # of one call: larger steps gain nothing from being joined
_MAX_OPERATIONS, _MAX_STEPS = 2_500, 20  # of one call: a longer graph takes the C++ compiler too long
_VALUES_PER_STATE = 12  # a step makes about so many intermediate values of the size of its state


@dataclass(frozen=True)
class Steps:
    """Several steps in one call, and the engine that they run on.

    ``advance(state, constants, inputs)`` returns the state after ``repeats`` steps and their records
    ``[repeats, ...]``; the inputs are those of each step in order, ``[repeats, ...]``.
    """

    advance: Step
    repeats: int
    engine: str


class Example(NamedTuple):
    """Arguments of a step to trace it with: a state, the constants of a call, and the inputs of one step."""

    state: Tensors
    constants: Tensors
    inputs: Tensors

    @property
    def width(self) -> tuple[int, int, int]:
        """The number of tensors of each part."""
        return len(self.state), len(self.constants), len(self.inputs)


def make_steps(step: Step, example: Example, *, tier: Tier, calls: int, chunk: int = 1, untraceable: str = "") -> Steps:
    """Make of a step a graph of one step, machine code of several, or what runs it as it is.

    Args:
        step: a pure function of torch operations on tensors of fixed shapes.
        example: arguments of the step.
        tier: "loop" runs ``step`` as it is.
        calls: the number of steps that will be taken, roughly; whether compiling pays depends on it.
        chunk: the number of steps whose inputs are at hand at a time; a compiled call takes a divisor of it.
        untraceable: why the step cannot be traced, where that is known.
    """
    if tier == "loop" or untraceable:
        return Steps(_eager(step), 1, f"loop ({untraceable})" if untraceable else "loop")

    def flat(*tensors: torch.Tensor) -> Tensors:
        after, record = step(*_split(tensors, example.width))
        return (*after, record)

    with isolated(seed=0, dtype=example.state[0].dtype), torch.no_grad():
        try:
            module = batch_by(flat, [tensor for part in example for tensor in part])
        except UntraceableProgram as error:
            return Steps(_eager(step), 1, f"loop ({error})")
        repeats, compiling_pays = _plan(module, example, calls, chunk)
        if tier == "compiled" or (tier == "auto" and compiling_pays):
            return _compiled(module, example, repeats)
    return Steps(_of_one(module, len(example.state)), 1, "graph")


def _plan(module: fx.GraphModule, example: Example, calls: int, chunk: int) -> tuple[int, bool]:
    """The number of steps that one compiled call should take, and whether compiling it saves time.

    The costs are counted, not timed, so that a seed gives the same result however busy the machine is.
    """
    operations = sum(node.op == "call_function" for node in module.graph.nodes)
    elements = sum(tensor.numel() for tensor in example.state) * _VALUES_PER_STATE
    largest = max(1, min(_MAX_STEPS, _MAX_OPERATIONS // max(operations, 1), _MAX_ELEMENTS // elements))
    repeats = max(count for count in range(1, largest + 1) if chunk % count == 0)
    as_graph = calls * (operations * _SECONDS_PER_OPERATION + elements * _SECONDS_PER_ELEMENT)
    compiling = _SECONDS_TO_COMPILE + operations * repeats * _SECONDS_TO_COMPILE_AN_OPERATION
    return repeats, as_graph > compiling


def _compiled(module: fx.GraphModule, example: Example, repeats: int) -> Steps:
    inputs = [value.expand(repeats, *value.shape).contiguous() for value in example.inputs]
    arguments = [*example.state, *example.constants, *inputs]
    try:
        code = compile.compile_graph(_repeated(module, example.width, repeats), arguments)
    except compile.CompilerUnavailable as error:
        return Steps(_of_one(module, len(example.state)), 1, f"graph (not compiled: {error})")
    return Steps(_called(code, len(example.state)), repeats, "compiled")


def _split(tensors: Sequence[torch.Tensor], width: tuple[int, int, int]) -> tuple[Tensors, Tensors, Tensors]:
    first, second = width[0], width[0] + width[1]
    return tuple(tensors[:first]), tuple(tensors[first:second]), tuple(tensors[second:])


def _eager(step: Step) -> Step:
    def advance(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        after, record = step(state, constants, tuple(value[0] for value in inputs))
        return after, record.unsqueeze(0)

    return advance


def _of_one(module: fx.GraphModule, width: int) -> Step:
    def advance(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        result = module(*state, *constants, *(value[0] for value in inputs))
        return tuple(result[:width]), result[width].unsqueeze(0)

    return advance


def _called(code: Callable[..., Any], width: int) -> Step:
    def advance(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        result = code(*state, *constants, *inputs)
        return tuple(result[:width]), result[width]

    return advance


def _repeated(module: fx.GraphModule, width: tuple[int, int, int], repeats: int) -> fx.GraphModule:
    """Build the graph of ``repeats`` steps, each of which takes the state that the one before it left."""
    graph = fx.Graph()
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    outer = [graph.placeholder(str(node.target)) for node in placeholders]
    state, constants, inputs = (list(part) for part in _split(outer, width))  # type: ignore[arg-type]
    records: list[Any] = []
    for i in range(repeats):
        own = [graph.call_function(torch.ops.aten.select.int, (node, 0, i)) for node in inputs]
        mapped = dict(zip(placeholders, [*state, *constants, *own], strict=True))
        for node in module.graph.nodes:
            if node.op == "output":
                *after, record = [mapped.get(item, item) for item in node.args[0]]
                state, records = list(after), [*records, record]
            elif node.op != "placeholder":
                mapped[node] = graph.node_copy(node, mapped.__getitem__)
    graph.output((*state, graph.call_function(torch.ops.aten.stack.default, (records,))))
    return fx.GraphModule(module, graph)
