"""Steps of learning for many parameters: gradient and Adam in one piece of machine code that works in place.

``fused_steps`` returns a new state from each step, which suits a posterior of ten numbers and is too slow for a
network of millions. A step here overwrites parameters and moments, so that it costs one pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from phlogiston.engine.learning.adam import AdamConfig, AdamState, Tensors
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.trace import compile
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.devices import CPU, moved
from phlogiston.engine.trace.graph import batch_by
from phlogiston.errors import UnsupportedModel, UntraceableProgram, problem

# Parameters and the inputs of a step -> a record of the step, and the gradient that points uphill.
Gradient = Callable[[Tensors, Tensors], tuple[torch.Tensor, Tensors]]
Step = Callable[[AdamState, float, Tensors], torch.Tensor]

_MIN_STEPS_TO_COMPILE = 400  # compiling a network takes some twenty seconds, once for each machine


def make_update(
    gradient: Gradient, config: AdamConfig, state: AdamState, inputs: Tensors, *, tier: Tier, calls: int
) -> tuple[str, Step]:
    """The name of the tier that a step runs on, and the step for inputs of one shape.

    The step runs on the device of the example, although it is traced on the CPU.

    Args:
        gradient: a pure function.
        config: constants of the optimiser.
        state: an example, which is not changed.
        inputs: an example of the inputs of one step.
        tier: "loop" runs the gradient as it is; "auto" compiles where there are many steps.
        calls: the number of steps that will be run.

    Raises:
        UnsupportedModel: on another device than the CPU, a step that cannot be traced, or that has operations which
            only the CPU has.
    """
    reason = ""
    if tier != "loop":
        with isolated(seed=0, dtype=state.params[0].dtype), torch.no_grad():
            try:
                compiles = tier == "compiled" or (tier == "auto" and calls >= _MIN_STEPS_TO_COMPILE)
                return _traced(gradient, config, state, inputs, compiles=compiles)
            except UntraceableProgram as error:
                reason = f" ({error})"
    if state.device != CPU:
        raise UnsupportedModel(
            problem(
                "device",
                found=f"a loop over a program{reason} for {state.device}",
                expected="a program that is traced to a graph, which can be moved",
                fix="device='cpu'",
            )
        )
    return f"loop{reason}", _with_torch_adam(_untraced(gradient), config)


def _traced(
    gradient: Gradient, config: AdamConfig, state: AdamState, inputs: Tensors, *, compiles: bool
) -> tuple[str, Step]:
    where = "" if state.device == CPU else f" on {state.device}"
    reason = ""
    if compiles:
        try:
            return f"compiled{where}", _compiled(gradient, config, state, inputs)
        except compile.CompilerUnavailable as error:
            reason = f" (not compiled: {error})"
    return f"graph{where}{reason}", _with_torch_adam(_graph_of(gradient, state, inputs), config)


def _compiled(gradient: Gradient, config: AdamConfig, state: AdamState, inputs: Tensors) -> Step:
    count, device = len(state.params), state.device

    def step(*tensors: torch.Tensor) -> torch.Tensor:
        params, means, squares = (tensors[i * count : (i + 1) * count] for i in range(3))
        size, root = tensors[3 * count], tensors[3 * count + 1]
        record, gradients = gradient(params, tensors[3 * count + 2 :])
        gradients = config.clipped(gradients)
        for value, mean, square, own in zip(params, means, squares, gradients, strict=True):
            after, spread = config.moments(-mean, square, own)
            mean.copy_(-after)  # stored with its sign turned, so that this tier and torch's kernel share one state
            square.copy_(spread)
            value.copy_(config.moved(value, after, spread, size, root))
        return record

    start, scalars = state.to(CPU).copied(), torch.ones(2, dtype=torch.float64).unbind()
    example = [*start.params, *start.means, *start.squares, *scalars, *(value.to(CPU) for value in inputs)]
    module = moved(batch_by(step, example), device)
    # Compiling runs the code once, which overwrites its arguments: it is given the copies.
    code = compile.compile_graph(module, [value.to(device) for value in example])

    def run(at: AdamState, learning_rate: float, given: Tensors) -> torch.Tensor:
        at.count.add_(1.0)
        # The powers are taken here, once: generated code would take them again for every few elements.
        size = learning_rate / (1.0 - config.beta1**at.count)
        root = torch.rsqrt(1.0 - config.beta2**at.count)
        result: Any = code(*at.params, *at.means, *at.squares, size, root, *given)
        record: torch.Tensor = result[0] if isinstance(result, (tuple, list)) else result
        return record

    return run


def _graph_of(gradient: Gradient, state: AdamState, inputs: Tensors) -> Gradient:
    """The gradient as a graph on the device of the state."""
    count = len(state.params)

    def flat(*tensors: torch.Tensor) -> Tensors:
        record, gradients = gradient(tensors[:count], tensors[count:])
        return (record, *gradients)

    module = moved(batch_by(flat, [value.to(CPU) for value in (*state.params, *inputs)]), state.device)

    def traced(params: Tensors, given: Tensors) -> tuple[torch.Tensor, Tensors]:
        record, *gradients = module(*params, *given)
        return record, tuple(gradients)

    return traced


def _untraced(gradient: Gradient) -> Gradient:
    def looped(params: Tensors, given: Tensors) -> tuple[torch.Tensor, Tensors]:
        with isolated(dtype=params[0].dtype):
            return gradient(params, given)

    return looped


def _with_torch_adam(gradient: Gradient, config: AdamConfig) -> Step:
    """A step whose update is torch's fused kernel: the same formula in one call for all parameters."""

    def run(at: AdamState, learning_rate: float, given: Tensors) -> torch.Tensor:
        record, gradients = gradient(at.params, given)
        at.count.add_(1.0)
        with torch.no_grad():
            torch._fused_adam_(
                list(at.params),
                list(config.clipped(gradients)),
                list(at.means),
                list(at.squares),
                [],
                [at.count.float()] * len(at.params),
                lr=learning_rate,
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=0.0,
                eps=config.epsilon,
                amsgrad=False,
                maximize=True,
            )
        return record

    return run
