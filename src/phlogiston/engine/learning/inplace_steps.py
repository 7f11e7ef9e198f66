"""Steps of learning with many parameters: gradient and Adam in one piece of machine code that works in place.

``steps`` keeps states apart, which a posterior of ten numbers needs and a network of millions cannot afford: here a
step overwrites parameters and moments, so that it costs one pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.trace import compile
from phlogiston.engine.trace.batched import Tier
from phlogiston.engine.trace.devices import CPU, moved
from phlogiston.engine.trace.graph import batch_by
from phlogiston.errors import UnsupportedModel, UntraceableProgram, problem

Tensors = tuple[torch.Tensor, ...]
# parameters, inputs of a step -> a record of it, and the gradient to climb
Gradient = Callable[[Tensors, Tensors], tuple[torch.Tensor, Tensors]]
Step = Callable[["Moving", float, Tensors], torch.Tensor]

_WORTH_COMPILING = 400  # steps: a network's machine code takes some twenty seconds, once a machine


@dataclass(frozen=True)
class Rule:
    """How Adam moves: its two decay rates, what is added to the root, and the largest norm of a gradient."""

    beta1: float
    beta2: float
    epsilon: float
    clip: float | None


@dataclass(frozen=True)
class Moving:
    """What steps overwrite: parameters, means and mean squares of their gradients, and the number of steps."""

    params: Tensors
    means: Tensors
    squares: Tensors
    count: torch.Tensor

    @staticmethod
    def at(params: Tensors) -> Moving:
        """Before the first step."""
        return Moving(
            tuple(value.detach().clone() for value in params),
            tuple(torch.zeros_like(value) for value in params),
            tuple(torch.zeros_like(value) for value in params),
            torch.zeros((), dtype=torch.float64),
        )

    @property
    def tensors(self) -> Tensors:
        """All of them, one after another."""
        return (*self.params, *self.means, *self.squares, self.count)

    def copied(self) -> Moving:
        """The same numbers in tensors of their own."""
        return self._each(torch.clone)

    def to(self, device: torch.device) -> Moving:
        """The same numbers on a device; the same tensors where they are there already."""
        return self._each(lambda value: value.to(device))

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.count.device

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Moving:
        params, means, squares = (tuple(map(function, part)) for part in (self.params, self.means, self.squares))
        return Moving(params, means, squares, function(self.count))

    def overwrite(self, other: Moving) -> None:
        """Take the numbers of another."""
        for own, value in zip(self.tensors, other.tensors, strict=True):
            own.copy_(value)


def make_update(
    gradient: Gradient, rule: Rule, moving: Moving, inputs: Tensors, *, tier: Tier, calls: int
) -> tuple[str, Step]:
    """A step for inputs of one shape, and the tier that it runs on: where the example is, though traced on the CPU.

    Args:
        gradient: pure.
        rule: of the optimiser.
        moving: an example; it is not changed.
        inputs: an example of what one step takes.
        tier: "loop" runs the gradient as it is; "auto" compiles where there are many steps.
        calls: how many steps there will be.

    Raises:
        UnsupportedModel: steps that have to be looped over, or have operations of the CPU only, on another device.
    """
    reason, device = "", moving.device
    where = "" if device == CPU else f" on {device}"
    if tier != "loop":
        with isolated(seed=0, dtype=moving.params[0].dtype), torch.no_grad():
            try:
                if tier == "compiled" or (tier == "auto" and calls >= _WORTH_COMPILING):
                    try:
                        return f"compiled{where}", _compiled(gradient, rule, moving, inputs)
                    except compile.CompilerUnavailable as error:
                        reason = f" (not compiled: {error})"
                return f"graph{where}{reason}", _of_graph(gradient, rule, moving, inputs)
            except UntraceableProgram as error:
                reason = f" ({error})"

    if device != CPU:
        raise UnsupportedModel(
            problem(
                "device",
                found=f"a loop over a program{reason} for {device}",
                expected="a program that is traced to a graph, which can be moved",
                fix="device='cpu'",
            )
        )

    def looped(params: Tensors, given: Tensors) -> tuple[torch.Tensor, Tensors]:
        with isolated(dtype=params[0].dtype):
            return gradient(params, given)

    return f"loop{reason}", _fused(looped, rule)


def _compiled(gradient: Gradient, rule: Rule, moving: Moving, inputs: Tensors) -> Step:
    count, device = len(moving.params), moving.device

    def step(*tensors: torch.Tensor) -> torch.Tensor:
        params, means, squares = (tensors[i * count : (i + 1) * count] for i in range(3))
        size, root = tensors[3 * count], tensors[3 * count + 1]
        record, gradients = gradient(params, tensors[3 * count + 2 :])
        gradients = _clipped(gradients, rule)
        for value, mean, square, slope in zip(params, means, squares, gradients, strict=True):
            moved = rule.beta1 * mean - (1.0 - rule.beta1) * slope  # of what falls, as torch's own kernel keeps it
            spread = rule.beta2 * square + (1.0 - rule.beta2) * slope * slope
            mean.copy_(moved)
            square.copy_(spread)
            value.copy_(value - size * moved / (torch.sqrt(spread) * root + rule.epsilon))
        return record

    start, scalars = moving.to(CPU).copied(), torch.ones(2, dtype=torch.float64).unbind()
    example = [*start.params, *start.means, *start.squares, *scalars, *(value.to(CPU) for value in inputs)]
    module = moved(batch_by(step, example), device)
    # compiling calls the code once, which changes its arguments
    code = compile.compile_graph(module, [value.to(device) for value in example])

    def run(at: Moving, learning_rate: float, given: Tensors) -> torch.Tensor:
        at.count.add_(1.0)
        # powers of the count are taken here: in the code every few elements would take them again
        size = learning_rate / (1.0 - rule.beta1**at.count)
        root = torch.rsqrt(1.0 - rule.beta2**at.count)
        result: Any = code(*at.params, *at.means, *at.squares, size, root, *given)
        record: torch.Tensor = result[0] if isinstance(result, (tuple, list)) else result
        return record

    return run


def _of_graph(gradient: Gradient, rule: Rule, moving: Moving, inputs: Tensors) -> Step:
    count = len(moving.params)

    def flat(*tensors: torch.Tensor) -> Tensors:
        record, gradients = gradient(tensors[:count], tensors[count:])
        return (record, *gradients)

    module = batch_by(flat, [value.to(CPU) for value in (*moving.params, *inputs)])
    module = moved(module, moving.device)

    def traced(params: Tensors, given: Tensors) -> tuple[torch.Tensor, Tensors]:
        record, *gradients = module(*params, *given)
        return record, tuple(gradients)

    return _fused(traced, rule)


def _fused(gradient: Gradient, rule: Rule) -> Step:
    def run(at: Moving, learning_rate: float, given: Tensors) -> torch.Tensor:
        record, gradients = gradient(at.params, given)
        at.count.add_(1.0)
        counts = [at.count.float()] * len(at.params)
        with torch.no_grad():
            torch._fused_adam_(
                list(at.params),
                list(_clipped(gradients, rule)),
                list(at.means),
                list(at.squares),
                [],
                counts,
                lr=learning_rate,
                beta1=rule.beta1,
                beta2=rule.beta2,
                weight_decay=0.0,
                eps=rule.epsilon,
                amsgrad=False,
                maximize=True,
            )
        return record

    return run


def _clipped(gradients: Tensors, rule: Rule) -> Tensors:
    if rule.clip is None:
        return gradients
    norm = torch.stack([slope.square().sum() for slope in gradients]).sum().sqrt()
    factor = (rule.clip / norm.clamp_min(1e-30)).clamp_max(1.0)
    return tuple(slope * factor for slope in gradients)
