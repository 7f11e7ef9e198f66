"""From a function of one draw to a graph of many: trace, lift the noise, fold constants, batch.

The recipe: write the function of a *single* draw with ``torch.autograd.grad`` inside, trace that with
``make_fx``, take out its randomness, fold what does not depend on an input, map the graph over rows with
``vmap`` and trace again. Tracing a program that branches on a latent's value fails and says so; a program
that leaves the trace unnoticed (through NumPy, say) is caught by comparing at a second point.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx

from phlogiston.engine.program.isolate import PROGRAM_LOCK, gc_paused
from phlogiston.engine.trace.matmul_layout import with_draws_first
from phlogiston.engine.trace.noise import Noise, is_random, lift
from phlogiston.errors import UntraceableProgram

Values = dict[str, torch.Tensor]
Function = Callable[[Values], Values]


@dataclass(frozen=True)
class Graph:
    """A traced function: flat tensors in (noise first, then inputs by name), flat tensors out.

    For a single draw, ``largest`` is the number of elements of its largest intermediate value, and ``elements``
    that of all of them together.
    """

    module: fx.GraphModule
    noises: tuple[Noise, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    largest: int
    elements: int

    @cached_property
    def operations(self) -> int:
        """Operations of one call."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)

    @cached_property
    def has_randomness_left(self) -> bool:
        """Whether random nodes remain that could not be lifted."""
        return any(is_random(node) for node in self.module.graph.nodes)


def trace_single(function: Function, example: Values) -> Graph:
    """The graph of one draw.

    Raises:
        UntraceableProgram: the function branches on a value, or leaves torch, or torch cannot trace it.
    """
    names = tuple(example)
    keys: list[str] = []

    def flat(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = function(dict(zip(names, tensors, strict=True)))
        keys[:] = list(result)
        return tuple(result.values())

    tensors = [example[name] for name in names]
    module = _traced(flat, tensors)
    noises = lift(module, _constants(module), _evaluate(module, tensors))
    tensors = [*(torch.zeros(n.shape, dtype=n.dtype) for n in noises), *tensors]
    if any(_mutates(node) for node in module.graph.nodes):
        module = _traced(torch.func.functionalize(module, remove="mutations"), tensors)
    _fold(module, _constants(module))
    values = _evaluate(module, tensors)
    _with_derivatives(module)
    sizes = [value.numel() for value in values.values() if isinstance(value, torch.Tensor)]
    return Graph(module, tuple(noises), names, tuple(keys), max(sizes, default=1), sum(sizes))


def _with_derivatives(module: fx.GraphModule) -> None:
    """``aten.copy``, which is what an in-place copy becomes, has no derivative: broadcast the source instead."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.copy.default:
            with module.graph.inserting_before(node):
                shape = list(node.meta["phlogiston_shape"])
                node.replace_all_uses_with(
                    module.graph.call_function(torch.ops.aten.expand.default, (node.args[1], shape))
                )
            module.graph.erase_node(node)
    module.recompile()


def batch(graph: Graph, rows: int, example: Values, shared: Values) -> fx.GraphModule:
    """The graph over ``rows`` draws at once: every input, noise and output gains a first dimension.

    The ``shared`` inputs are the same for all draws and gain none.

    Raises:
        UntraceableProgram: an operation has no batching rule and torch cannot loop over it.
    """
    noise = [torch.zeros((rows, *n.shape), dtype=n.dtype) for n in graph.noises]
    own = [name for name in graph.inputs if name not in shared]
    inputs = [example[name].expand(rows, *example[name].shape).contiguous() for name in own]
    if not (noise or inputs):
        raise UntraceableProgram("a graph without inputs cannot be batched")
    axes = (*(0 for _ in (*noise, *inputs)), *(None for _ in shared))
    mapped = torch.func.vmap(graph.module, in_dims=axes, randomness="different")
    return batch_by(mapped, [*noise, *inputs, *shared.values()])


def batch_by(function: Callable[..., Any], arguments: list[torch.Tensor]) -> fx.GraphModule:
    """The graph of a function of many draws, without dead code and with its constants folded.

    Raises:
        UntraceableProgram: an operation has no batching rule and torch cannot loop over it.
    """
    module = _traced(function, arguments)
    module.graph.eliminate_dead_code()
    _fold(module, _constants(module))
    return with_draws_first(module)


def with_fixed(graph: Graph, values: Values) -> Graph:
    """Fix the last inputs of a graph at values, and compute once what depends on nothing else."""
    copy, stored, mapped = fx.Graph(), dict[str, torch.Tensor](), dict[fx.Node, fx.Node]()
    placeholders = [node for node in graph.module.graph.nodes if node.op == "placeholder"]
    num_free = len(placeholders) - len(values)
    fixed = dict(zip(placeholders[num_free:], values.values(), strict=True))
    for node in graph.module.graph.nodes:
        if node in fixed:
            name = f"fixed_{len(stored)}"
            stored[name] = fixed[node].contiguous()
            mapped[node] = copy.get_attr(name)
            continue
        if node.op == "get_attr":
            stored[str(node.target)] = getattr(graph.module, str(node.target))
        mapped[node] = copy.node_copy(node, mapped.__getitem__)
    module = fx.GraphModule(stored, copy)
    _fold(module, _constants(module))
    return replace(graph, module=module, inputs=graph.inputs[: len(graph.inputs) - len(values)])


def constants_to_inputs(module: fx.GraphModule) -> tuple[fx.GraphModule, list[torch.Tensor]]:
    """A copy in which stored tensors are trailing inputs, so that compiled code does not depend on the data."""
    graph = fx.Graph()
    attributes = [node for node in module.graph.nodes if node.op == "get_attr"]
    names = list(dict.fromkeys(str(node.target) for node in attributes))
    mapped: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            mapped[node] = graph.placeholder(str(node.target))
    stored = {name: graph.placeholder(f"constant_{i}") for i, name in enumerate(names)}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            mapped[node] = stored[str(node.target)]
        elif node.op != "placeholder":
            mapped[node] = graph.node_copy(node, lambda n: mapped[n])
    return fx.GraphModule(torch.nn.Module(), graph), [getattr(module, name) for name in names]


@contextmanager
def _without_examples() -> Iterator[None]:
    """Leave out the fake tensor that make_fx keeps at every node as an example of its value.

    Nothing here reads it, and making it takes more than half of the time of tracing. Other threads are not affected.
    """
    with PROGRAM_LOCK:
        original, here = proxy_tensor.extract_val, threading.get_ident()

        def example(value: Any, include_real: bool = False) -> Any:
            return None if threading.get_ident() == here else original(value, include_real)

        proxy_tensor.extract_val = example  # type: ignore[assignment]
        try:
            yield
        finally:
            proxy_tensor.extract_val = original


def _traced(function: Callable[..., Any], arguments: list[torch.Tensor]) -> fx.GraphModule:
    with warnings.catch_warnings(), gc_paused(), _without_examples():
        warnings.simplefilter("ignore")
        try:
            module: fx.GraphModule = make_fx(function)(*arguments)
        except Exception as error:  # torch raises many kinds; the caller falls back to the loop and says so
            cause = error.__cause__ or error
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            if "data-dependent" in str(cause) or "value out of a tracing tensor" in reason:
                reason = "it branches on the value of a latent (an `if`, `float()` or `.item()`)"
            raise UntraceableProgram(f"the program could not be traced: {reason}") from error
    _free_of_strides(module)
    return module


def _free_of_strides(module: fx.GraphModule) -> None:
    """Let views be reshapes: mapped over draws, a value may lie in memory in another order than it did when traced."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    module.recompile()


def _evaluate(module: fx.GraphModule, arguments: list[torch.Tensor]) -> dict[fx.Node, Any]:
    """Every node's value in one evaluation."""
    values: dict[fx.Node, Any] = {}

    class Record(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = values[n] = super().run_node(n)
            if isinstance(value, torch.Tensor):
                n.meta["phlogiston_shape"] = tuple(value.shape)
            return value

    with torch.no_grad():
        Record(module, garbage_collect_values=False).run(*arguments)
    return values


def _constants(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """The nodes that depend on no input and on no random number, with their values."""
    constant: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constant[node] = getattr(module, node.target).clone()
            continue
        fixed = node.op == "call_function" and not is_random(node)
        if fixed and all(parent in constant for parent in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: constant[n])
            constant[node] = node.target(*args, **kwargs)
    return constant


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _fold(module: fx.GraphModule, constants: dict[fx.Node, Any]) -> None:
    """Store the values of constants that the rest of the graph uses, and drop how they were computed."""
    for count, (node, value) in enumerate(constants.items()):
        if not isinstance(value, torch.Tensor) or all(user in constants for user in node.users):
            continue
        name = f"folded_{count}"
        module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(name)
        stored.meta = dict(node.meta)
        node.replace_all_uses_with(stored)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()
