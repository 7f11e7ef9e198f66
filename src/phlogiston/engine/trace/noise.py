"""Take the randomness out of a graph: random nodes become inputs, which an explicit generator draws outside.

What is left is a pure function of its inputs, which can be batched, compiled and repeated. Several threads can draw its
noise at once, since they share no generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

aten = torch.ops.aten


@dataclass(frozen=True)
class Noise:
    """One random input of a graph; ``draw(generator, (rows, *shape))`` gives independent values of that shape."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

    def sample(self, rng: np.random.Generator, rows: int) -> torch.Tensor:
        """``rows`` independent values, ``[rows, *shape]``."""
        values = self.draw(rng, (rows, *self.shape))
        return torch.from_numpy(np.asarray(values)).to(self.dtype)


# A noise, and what builds from its placeholder the value that the random node had.
Lifted = tuple[Noise, Callable[[fx.Node], fx.Node]]


def _affine(
    draw: Callable[..., Any], loc: float, scale: float
) -> Callable[[np.random.Generator, tuple[int, ...]], Any]:
    if loc == 0.0 and scale == 1.0:
        return draw
    return lambda rng, shape: loc + scale * draw(rng, shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.standard_normal(shape)


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.random(shape)


# Operations that fill a tensor in place, and their functional forms. Each maps the numbers that a fill was called with
# to a draw; torch's defaults are repeated here, as a traced call leaves out arguments that have their default.
_FILLS: dict[str, Callable[..., Callable[..., Any]]] = {
    "normal": lambda mean=0.0, std=1.0: _affine(_normal, mean, std),
    "uniform": lambda low=0.0, high=1.0: _affine(_uniform, low, high - low),
    "cauchy": lambda median=0.0, sigma=1.0: _affine(lambda rng, n: rng.standard_cauchy(n), median, sigma),
    "exponential": lambda rate=1.0: _affine(lambda rng, n: rng.standard_exponential(n), 0.0, 1.0 / rate),
    "log_normal": lambda mean=1.0, std=2.0: lambda rng, n: rng.lognormal(mean, std, n),
}
_CREATIONS = {"rand": _uniform, "randn": _normal, "rand_like": _uniform, "randn_like": _normal}

# Draws whose parameters are tensors. Their value is no simple function of a fixed noise, so that they can be drawn
# outside the graph only where their parameters are constant.
_PARAMETRIC: dict[str, Callable[..., Any]] = {
    "_standard_gamma": lambda rng, shape, a: rng.standard_gamma(a, shape),
    "poisson": lambda rng, shape, rate: rng.poisson(rate, shape),
    "binomial": lambda rng, shape, count, prob: rng.binomial(count.astype(np.int64), prob, shape),
    "_sample_dirichlet": lambda rng, shape, a: _dirichlet(rng, shape, a),
}


def _dirichlet(rng: np.random.Generator, shape: tuple[int, ...], a: np.ndarray) -> np.ndarray:
    gammas = rng.standard_gamma(a, shape)
    return np.asarray(gammas / gammas.sum(-1, keepdims=True))


def _op(node: fx.Node) -> str:
    """The name of an ATen operation, without overload and in-place underscore."""
    if node.op != "call_function" or not hasattr(node.target, "overloadpacket"):
        return ""
    name: str = node.target.overloadpacket.__name__
    return name.removesuffix("_functional").removesuffix("_")


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def lift(gm: fx.GraphModule, constants: dict[fx.Node, Any], example: dict[fx.Node, Any]) -> list[Noise]:
    """Replace random nodes by placeholders, in place, as far as their parameters allow it.

    Normal draws become a scaled and shifted standard normal input. Bernoulli and categorical draws become comparisons
    of a uniform input with their probabilities. The parameters of these may therefore depend on anything. A gamma draw
    whose shape is a latent cannot be lifted and stays in the graph, as do others of its kind.

    Args:
        gm: the graph of a single draw.
        constants: the nodes that depend on no input, with their values.
        example: every node, with the value that it had in one evaluation.

    Returns:
        One ``Noise`` per placeholder, in the order in which the placeholders stand before the graph's own inputs.
    """
    noises: list[Noise] = []
    anchor = next(iter(gm.graph.nodes))
    for node in list(gm.graph.nodes):
        if not is_random(node):
            continue
        value = example[node]
        replacement = _lifted(gm.graph, node, constants, value)
        if replacement is None:
            _broadcast_counts(gm.graph, node)
            continue
        noise, build = replacement
        with gm.graph.inserting_before(anchor):
            placeholder = gm.graph.placeholder(f"noise_{len(noises)}")
        with gm.graph.inserting_before(node):
            node.replace_all_uses_with(build(placeholder))
        gm.graph.erase_node(node)
        noises.append(noise)
    gm.graph.lint()
    gm.recompile()
    return noises


def _broadcast_counts(graph: fx.Graph, node: fx.Node) -> None:
    """Give a binomial's counts the shape of its probabilities; torch's kernel expects that, and vmap does not do it."""
    if _op(node) == "binomial":
        count, probability = node.args
        with graph.inserting_before(node):
            zero = graph.call_function(aten.mul.Tensor, (probability, 0.0))
            node.update_arg(0, graph.call_function(aten.add.Tensor, (count, zero)))


def _lifted(graph: fx.Graph, node: fx.Node, constants: dict[fx.Node, Any], value: torch.Tensor) -> Lifted | None:
    """Find the noise of a random node and what computes its value from it; None where the node must stay."""
    name, overload = _op(node), str(getattr(node.target, "_overloadname", ""))
    is_fill = name in _FILLS and not any(isinstance(arg, fx.Node) for arg in node.args[1:])
    if name in _CREATIONS:
        return Noise(tuple(value.shape), value.dtype, _CREATIONS[name]), _as_drawn
    if is_fill and (overload == "default" or name != "normal"):
        return Noise(tuple(value.shape), value.dtype, _FILLS[name](*node.args[1:])), _as_drawn
    if name == "normal" and len(node.args) == 2:
        return _lifted_normal(graph, node, value)
    if name in _PARAMETRIC:
        return _lifted_parametric(node, constants, value)
    if name == "bernoulli":
        return _lifted_bernoulli(graph, node, value, overload)
    return _lifted_multinomial(graph, node, value) if name == "multinomial" else None


def _as_drawn(placeholder: fx.Node) -> fx.Node:
    return placeholder


def _lifted_normal(graph: fx.Graph, node: fx.Node, value: torch.Tensor) -> Lifted:
    mean, std = node.args

    def shifted(placeholder: fx.Node) -> fx.Node:
        scaled = graph.call_function(aten.mul.Tensor, (placeholder, std))
        return graph.call_function(aten.add.Tensor, (scaled, mean))

    return Noise(tuple(value.shape), value.dtype, _normal), shifted


def _lifted_parametric(node: fx.Node, constants: dict[fx.Node, Any], value: torch.Tensor) -> Lifted | None:
    parameters = [arg for arg in node.args if isinstance(arg, fx.Node)]
    if not all(arg in constants for arg in parameters):
        return None
    arrays, draw = [constants[arg].detach().cpu().numpy() for arg in parameters], _PARAMETRIC[_op(node)]
    return Noise(tuple(value.shape), value.dtype, lambda rng, shape: draw(rng, shape, *arrays)), _as_drawn


def _lifted_bernoulli(graph: fx.Graph, node: fx.Node, value: torch.Tensor, overload: str) -> Lifted:
    if overload not in ("default", "Tensor"):  # dropout fills a tensor with draws of one probability
        chance: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        return Noise(tuple(value.shape), value.dtype, lambda rng, shape: rng.random(shape) < chance), _as_drawn
    probabilities = node.args[1 if overload == "Tensor" else 0]

    def is_below(uniform: fx.Node) -> fx.Node:
        hit = graph.call_function(aten.lt.Tensor, (uniform, probabilities))
        return graph.call_function(aten._to_copy.default, (hit,), {"dtype": value.dtype})

    return Noise(tuple(value.shape), torch.float64, _uniform), is_below


def _lifted_multinomial(graph: fx.Graph, node: fx.Node, value: torch.Tensor) -> Lifted:
    """Invert the cumulative distribution: the state is the number of its steps that a uniform number passes."""
    probabilities: Any = node.args[0]
    states = probabilities.meta["phlogiston_shape"][-1]

    def inverse_cdf(uniform: fx.Node) -> fx.Node:
        # Weights need not sum to one, so the uniform number is scaled to their total and not the weights to 1. The last
        # state is the largest answer, as rounding can put the scaled number on the total itself.
        cdf = graph.call_function(aten.cumsum.default, (probabilities, -1))
        total = graph.call_function(aten.slice.Tensor, (cdf, -1, states - 1, states))
        level = graph.call_function(aten.mul.Tensor, (uniform, total))
        levels = graph.call_function(aten.unsqueeze.default, (level, -1))
        steps = graph.call_function(aten.unsqueeze.default, (cdf, -2))
        passed = graph.call_function(aten.le.Tensor, (steps, levels))
        count = graph.call_function(aten.sum.dim_IntList, (passed, [-1]))
        return graph.call_function(aten.clamp_max.default, (count, states - 1))

    return Noise(tuple(value.shape), torch.float64, _uniform), inverse_cdf
