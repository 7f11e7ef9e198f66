"""Many steps of an iteration in one call: a pure step function as a graph, repeated, and compiled where that pays.

A step maps a state and one set of inputs (noise, indices) to the next state and a record. Repeating it inside one
graph removes Python from between the steps, which is most of what a small step costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.trace import compile
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.graph import batch_by
from phlogiston.errors import UntraceableProgram

Tensors = tuple[torch.Tensor, ...]
# state, constants of the call (a learning rate), inputs of this step -> state, record.
Step = Callable[[Tensors, Tensors, Tensors], tuple[Tensors, torch.Tensor]]

_SECONDS_AN_OPERATION, _SECONDS_AN_ELEMENT = 8e-6, 1e-9
_SECONDS_TO_COMPILE, _SECONDS_TO_COMPILE_AN_OPERATION = 2.0, 0.01
_ELEMENTS_OF_A_CALL = 2_000_000  # larger steps gain nothing from standing together
_OPERATIONS_OF_A_CALL, _STEPS_OF_A_CALL = 2_500, 20  # a longer graph takes the C++ compiler too long


@dataclass(frozen=True)
class Steps:
    """``advance(state, constants, inputs) -> (state, records [repeats, ...])``, for inputs ``[repeats, ...]``."""

    advance: Callable[[Tensors, Tensors, Tensors], tuple[Tensors, torch.Tensor]]
    repeats: int
    engine: str


def make_steps(
    step: Step,
    state: Tensors,
    constants: Tensors,
    inputs: Tensors,
    *,
    tier: Tier,
    calls: int,
    chunk: int = 1,
    reason: str = "",
) -> Steps:
    """The step as a graph of several steps, for about so many steps in all.

    Args:
        step: pure; torch operations on tensors of fixed shapes.
        state: an example.
        constants: an example of what is the same for all steps of a call.
        inputs: an example of what one step takes.
        tier: "loop" runs ``step`` as it is.
        calls: how many steps there will be, roughly: whether compiling pays depends on it.
        chunk: steps that are at hand at a time; a compiled call makes a divisor of it.
        reason: why the step cannot be traced, where that is known.
    """
    if tier == "loop" or reason:
        return Steps(_eager(step), 1, f"loop ({reason})" if reason else "loop")
    width = (len(state), len(constants), len(inputs))

    def flat(*tensors: torch.Tensor) -> Tensors:
        parts = _split(tensors, width)
        after, record = step(*parts)
        return (*after, record)

    with isolated(seed=0, dtype=state[0].dtype), torch.no_grad():
        try:
            module = batch_by(flat, [*state, *constants, *inputs])
        except UntraceableProgram as error:
            return Steps(_eager(step), 1, f"loop ({error})")
        operations = sum(node.op == "call_function" for node in module.graph.nodes)
        elements = sum(t.numel() for t in state) * 12
        within = (_STEPS_OF_A_CALL, _OPERATIONS_OF_A_CALL // max(operations, 1), _ELEMENTS_OF_A_CALL // elements)
        most = max(1, min(within))
        repeats = max(k for k in range(1, most + 1) if chunk % k == 0)
        eager = calls * (operations * _SECONDS_AN_OPERATION + elements * _SECONDS_AN_ELEMENT)
        compiling = _SECONDS_TO_COMPILE + operations * repeats * _SECONDS_TO_COMPILE_AN_OPERATION
        if tier == "compiled" or (tier == "auto" and eager > compiling):
            example = [*state, *constants, *(value.expand(repeats, *value.shape).contiguous() for value in inputs)]
            try:
                code = compile.compile_graph(_repeated(module, width, repeats), example)
                return Steps(_called(code, len(state)), repeats, "compiled")
            except compile.CompilerUnavailable as error:
                reason = f" (not compiled: {error})"
    return Steps(_of_one(module, len(state)), 1, f"graph{reason}")


def _split(tensors: Sequence[torch.Tensor], width: tuple[int, int, int]) -> tuple[Tensors, Tensors, Tensors]:
    first, second = width[0], width[0] + width[1]
    return tuple(tensors[:first]), tuple(tensors[first:second]), tuple(tensors[second:])


def _eager(step: Step) -> Callable[[Tensors, Tensors, Tensors], tuple[Tensors, torch.Tensor]]:
    def advance(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        after, record = step(state, constants, tuple(value[0] for value in inputs))
        return after, record.unsqueeze(0)

    return advance


def _of_one(module: fx.GraphModule, width: int) -> Callable[[Tensors, Tensors, Tensors], tuple[Tensors, torch.Tensor]]:
    def advance(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        result = module(*state, *constants, *(value[0] for value in inputs))
        return tuple(result[:width]), result[width].unsqueeze(0)

    return advance


def _called(
    code: Callable[..., Any], width: int
) -> Callable[[Tensors, Tensors, Tensors], tuple[Tensors, torch.Tensor]]:
    def advance(state: Tensors, constants: Tensors, inputs: Tensors) -> tuple[Tensors, torch.Tensor]:
        result = code(*state, *constants, *inputs)
        return tuple(result[:width]), result[width]

    return advance


def _repeated(module: fx.GraphModule, width: tuple[int, int, int], repeats: int) -> fx.GraphModule:
    """The graph of ``repeats`` steps: each takes the state that the one before it left, and its own inputs."""
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
