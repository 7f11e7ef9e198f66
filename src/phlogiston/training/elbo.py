r"""The objective of a program and a Pyro guide: bounds and their gradients from the terms of the ELBO.

``learned_objective`` joins ``engine.learning``'s terms into a bound: the terms of a row add up to
:math:`\log w_{s,n}`, one a particle and row, those outside of the plate to :math:`\log w_s`; the ELBO is
:math:`\frac1S \sum_s [\log w_s + \frac NB \sum_n \log w_{s,n}]`, and the importance-weighted bound takes the mean
within the logarithm row by row where no latent is shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from phlogiston.engine.learning.adam import Tensors
from phlogiston.engine.learning.elbo_terms import PARAM, Learning
from phlogiston.engine.program.isolate import as_int, generator, isolated, spawn
from phlogiston.engine.trace.graph import Graph
from phlogiston.errors import SettingError, UntraceableProgram, problem
from phlogiston.training.batches import Batches, child
from phlogiston.training.bounds import bound_of, coefficients
from phlogiston.training.guides import Guide
from phlogiston.training.maximise import Objective

Values = dict[str, torch.Tensor]
REST = "rest/"
_ELEMENTS = 2**22  # of one intermediate value, where many draws are evaluated together


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """How terms become a bound.

    Args:
        alpha: the order of the bound: 1 for the ELBO, 0 for the importance-weighted one.
        particles: draws a step.
        warmup: steps over which the KL divergence's weight rises to 1; 0 for none.
        free_bits: nats of each latent's KL divergence, a row on average, that cost nothing.
    """

    alpha: float = 1.0
    particles: int = 1
    warmup: int = 0
    free_bits: float = 0.0


def learned_objective(
    learning: Learning, batches: Batches | None, weighting: Weighting, rest: Guide | None, noise: np.random.SeedSequence
) -> Objective:
    """The bound of a program and its guides as an objective.

    Its parameters are those of the program, of the guide, and of the ordinary guide of latents that the guide lacks.

    The inputs of a step are the KL divergence's weight, the rows, the noise of the traced terms and of ``rest``; where
    the program cannot be traced, a seed stands in for the noise.
    """
    names = (*learning.initial, *(() if rest is None else (REST + name for name in rest.initial)))
    initial = (*learning.initial.values(), *(() if rest is None else rest.initial.values()))
    rows = None if batches is None else batches.size
    if learning.score_sites and weighting.particles < 2:
        raise SettingError(
            problem(
                "num_particles",
                found=f"1 with site {learning.score_sites[0]!r}, whose draws carry no gradient",
                expected="at least 2: each draw is held against the mean of the others",
            )
        )
    graphs, reason = _graphs(learning, batches)
    made = _Gradient(learning, graphs, weighting, rest, batches, tuple(names))
    inputs = _inputs(made, batches, noise)
    return Objective(tuple(names), tuple(initial), made, inputs, reason, extras=made.extras(rows))


def _graphs(learning: Learning, batches: Batches | None) -> tuple[dict[int, Graph], str]:
    sizes = [0] if batches is None else sorted({batches.size, batches.rows % batches.size or batches.size})
    try:
        graphs = {size: learning.traced(size) for size in sizes}
    except UntraceableProgram as error:
        return {}, str(error)
    if any(graph.has_randomness_left for graph in graphs.values()):
        return {}, "a draw depends on a parameter in a way that cannot be taken out of the graph (a gamma's shape)"
    return graphs, ""


@contextmanager
def _branches_allowed() -> Iterator[None]:
    """Let a program ask a latent for its value, as it does when it is run by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True to a scalar")
        yield


@dataclass(frozen=True)
class _Gradient:
    """Parameters and one step's inputs -> the bound, its gradient, and what the history records."""

    learning: Learning
    graphs: Mapping[int, Graph]
    weighting: Weighting
    rest: Guide | None
    batches: Batches | None
    names: tuple[str, ...]

    def __call__(self, params: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors, torch.Tensor]:
        leaves = tuple(value.detach().requires_grad_() for value in params)
        with torch.enable_grad():
            terms, rows = self.terms(leaves, inputs)
            scale = 1.0 if self.batches is None else self.batches.rows / rows
            objective, shown, extras = combined(terms, scale, self.weighting, inputs[0])
            gradients = torch.autograd.grad(objective, leaves, allow_unused=True)
        found = tuple(
            torch.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(leaves, gradients, strict=True)
        )
        return shown.detach(), found, extras.detach()

    def extras(self, rows: int | None) -> tuple[str, ...]:
        """Names of what is recorded beside the bound."""
        with isolated(seed=0, dtype=self.learning.dtype), torch.no_grad():
            terms = self.learning.terms(self.learning.example(rows or 0))
        return ("elbo", "reconstruction", *(f"kl/{name}" for name in _latents(terms)))

    def terms(self, params: Tensors, inputs: Tensors) -> tuple[Values, int]:
        """The terms ``[S]`` or ``[S, B]``, and the number of rows."""
        own = dict(zip(self.names, params, strict=True))
        index = inputs[1] if self.batches is not None else None
        rest_noise, drawn = self._of_rest(own, inputs)
        noises = inputs[(1 if index is None else 2) + rest_noise :]
        rows = 0 if index is None else index.shape[0]
        given: Values = {PARAM + name: own[name] for name in self.learning.initial}
        given |= {} if index is None else {"index": index}
        if drawn is not None:
            given["u"] = drawn[0]
        if not self.graphs:
            found = self._looped(given, int(noises[0]))
        else:
            found = self._mapped(self.graphs[rows], given, noises)
        if drawn is not None:
            found["q/rest"] = drawn[1]
        return found, rows

    def _of_rest(self, own: Values, inputs: Tensors) -> tuple[int, tuple[torch.Tensor, torch.Tensor] | None]:
        if self.rest is None:
            return 0, None
        noise = inputs[1 if self.batches is None else 2]
        params = {name: own[REST + name] for name in self.rest.initial}
        u, log_q = self.rest.drawn(params, noise)
        return 1, (u.mT, log_q)

    def _mapped(self, graph: Graph, given: Values, noises: Tensors) -> Values:
        arguments = [*noises, *(given[name] for name in graph.inputs)]
        dims = [0] * len(noises) + [0 if name == "u" else None for name in graph.inputs]
        if self.weighting.particles == 1:
            single = [a[0] if dim == 0 else a for a, dim in zip(arguments, dims, strict=True)]
            found = [value.unsqueeze(0) for value in graph.module(*single)]
        elif not any(dim == 0 for dim in dims):
            found = [value.expand(self.weighting.particles, *value.shape) for value in graph.module(*arguments)]
        else:
            found = torch.vmap(graph.module, in_dims=tuple(dims))(*arguments)
        return dict(zip(graph.outputs, found, strict=True))

    def _looped(self, given: Values, seed: int) -> Values:
        with isolated(seed=seed, dtype=self.learning.dtype), _branches_allowed():
            draws = [
                self.learning.terms({**given, **({"u": given["u"][s]} if "u" in given else {})})
                for s in range(self.weighting.particles)
            ]
        return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def combined(
    terms: Values, scale: float, weighting: Weighting, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Terms ``[S]`` and ``[S, B]`` -> what is differentiated, the bound, and what is recorded.

    Args:
        terms: see ``engine.learning``.
        scale: how often a row counts.
        weighting: how terms become a bound.
        weight: of the KL divergence, at this step.
    """
    latent = _latents(terms)
    kls = {name: _kl(terms, name) for name in latent}
    used = {f"{kind}/{name}" for name in latent for kind in ("p", "q", "kl")}
    others = {k: v for k, v in terms.items() if k not in used and not k.startswith("score/")}
    likelihood = _joined([-v if k.startswith("q/") else v for k, v in others.items()])
    divergence = _joined(list(kls.values()))
    rows = likelihood[1] - divergence[1]
    shared = likelihood[0] - divergence[0]
    elbo = shared.mean(0) + scale * rows.mean(0).sum()
    if weighting.alpha == 1.0:
        cost = sum((_costed(kl, scale, weighting) for kl in kls.values()), torch.zeros((), dtype=elbo.dtype))
        objective = likelihood[0].mean(0) + scale * likelihood[1].mean(0).sum() - weight * cost
        shown = elbo
        objective = objective + _score_terms(terms, rows, shared, scale)
    else:
        objective, shown = _weighted(rows, shared, scale, weighting)
    sizes = [_size(kl, scale).mean(0) for kl in kls.values()]
    observed = _joined([v for k, v in terms.items() if k.startswith("x/")])
    reconstruction = (observed[0].mean(0) + scale * observed[1].mean(0).sum()).detach()
    extras = torch.stack([elbo.detach(), reconstruction, *(size.detach() for size in sizes)])
    return objective, shown, extras


def _latents(terms: Mapping[str, Any]) -> tuple[str, ...]:
    """The sites with a KL divergence: in closed form, or as the difference of two terms."""
    closed = [name.removeprefix("kl/") for name in terms if name.startswith("kl/")]
    sampled = [name.removeprefix("q/") for name in terms if name.startswith("q/")]
    return (*closed, *(name for name in sampled if f"p/{name}" in terms))


def _kl(terms: Values, name: str) -> torch.Tensor:
    return terms[f"kl/{name}"] if f"kl/{name}" in terms else terms[f"q/{name}"] - terms[f"p/{name}"]


def _joined(values: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of shared terms ``[S]``, and that of terms by row ``[S, B]``."""
    shared: Any = sum((value for value in values if value.ndim == 1), torch.zeros(1))
    rows: Any = sum((value for value in values if value.ndim == 2), torch.zeros(1, 1))
    return shared, rows


def _size(kl: torch.Tensor, scale: float) -> torch.Tensor:
    return kl if kl.ndim == 1 else scale * kl.sum(-1)


def _costed(kl: torch.Tensor, scale: float, weighting: Weighting) -> torch.Tensor:
    if weighting.free_bits == 0.0:
        return _size(kl, scale).mean(0)
    if kl.ndim == 1:
        return kl.mean(0).clamp_min(weighting.free_bits)
    return scale * kl.shape[1] * kl.mean().clamp_min(weighting.free_bits)


def _score_terms(terms: Values, rows: torch.Tensor, shared: torch.Tensor, scale: float) -> torch.Tensor:
    """The score-function estimator, each draw held against the mean of the others; its value is no bound."""
    total: torch.Tensor = torch.zeros((), dtype=shared.dtype)
    for name, log_q in terms.items():
        if not name.startswith("score/"):
            continue
        by_row = log_q.ndim == 2 and shared.shape[0] == 1  # nothing is shared: a row's draws answer for that row
        signal = (rows if by_row else shared + scale * rows.sum(-1)).detach()
        count = log_q.shape[0]
        signal = signal.expand(count, *signal.shape[1:])
        baseline = (signal.sum(0) - signal) / (count - 1)
        weight = signal - baseline
        if by_row:
            total = total + scale * (weight * log_q).mean(0).sum()
        else:
            total = total + (weight * (log_q if log_q.ndim == 1 else log_q.sum(-1))).mean(0)
    return total


def _weighted(
    rows: torch.Tensor, shared: torch.Tensor, scale: float, weighting: Weighting
) -> tuple[torch.Tensor, torch.Tensor]:
    alpha = weighting.alpha
    if shared.shape[0] == 1:  # no latent is shared: each row has weights of its own
        shown = scale * bound_of(rows.detach(), alpha).sum() + shared.detach().sum()
        factor = coefficients(rows.detach(), alpha, doubly=False)
        return scale * (factor * rows).sum() + shared.sum(), shown
    total = shared + scale * rows.sum(-1)
    factor = coefficients(total.detach(), alpha, doubly=False)
    return (factor * total).sum(), bound_of(total.detach(), alpha)


def _inputs(
    made: _Gradient, batches: Batches | None, noise: np.random.SeedSequence
) -> Callable[[np.random.SeedSequence, int, int], Iterator[Tensors]]:
    """Every step has a seed of its own, so that a run can go on from any step."""
    dtype = made.learning.dtype
    particles = made.weighting.particles

    def of_step(step: int) -> Tensors:
        own = child(noise, step, 0)
        rng = generator(own)
        warmup = made.weighting.warmup
        found = [torch.tensor(min(1.0, (step + 1) / warmup) if warmup else 1.0, dtype=dtype)]
        rows = 0
        if batches is not None:
            found.append(batches.at(step))
            rows = len(found[-1])
        if made.rest is not None:
            found.append(torch.from_numpy(rng.standard_normal((made.rest.width, particles))).to(dtype))
        if not made.graphs:
            return (*found, torch.tensor(as_int(own)))
        return (*found, *(item.sample(rng, particles) for item in made.graphs[rows].noises))

    def inputs(seed: np.random.SeedSequence, first: int, count: int) -> Iterator[Tensors]:
        kept: list[Tensors] = []
        for step in range(first, first + count):
            one = of_step(step)
            if kept and any(a.shape != b.shape for a, b in zip(kept[-1], one, strict=True)):
                yield tuple(torch.stack(parts) for parts in zip(*kept, strict=True))
                kept = []
            kept.append(one)
        if kept:
            yield tuple(torch.stack(parts) for parts in zip(*kept, strict=True))

    return inputs


def guide_draws(
    learning: Learning, params: Values, rest: Guide | None, count: int, rows: int, seed: np.random.SeedSequence
) -> tuple[Values, torch.Tensor]:
    """Draws of the guide's and the rest's latents ``[count, ...]`` at all data, and their log weights ``[count]``.

    Args:
        learning: with ``analytic=False``: every term is of the draw.
        params: by name, unconstrained, those of ``rest`` too.
        rest: the guide of the latents that the guide lacks.
        count: draws.
        rows: of the plate; 0 without one.
        seed: of the draws.
    """
    dtype, graph = learning.dtype, _graph_of_values(learning, rows)
    size = 64 if graph is None else max(1, min(count, _ELEMENTS // max(graph.largest, 1)))
    values: dict[str, list[torch.Tensor]] = {}
    weights = []
    for start, own in zip(range(0, count, size), spawn(seed, -(-count // size)), strict=True):
        number = min(size, count - start)
        rng = generator(own)
        given: Values = {PARAM + name: params[name] for name in learning.initial}
        given |= {"index": torch.arange(rows)} if rows else {}
        log_q = torch.zeros(number, dtype=dtype)
        if rest is not None:
            held = {name: params[REST + name] for name in rest.initial}
            u, log_q = rest.drawn(held, torch.from_numpy(rng.standard_normal((rest.width, number))).to(dtype))
            given["u"] = u.mT
        noises = tuple(item.sample(rng, number) for item in graph.noises) if graph is not None else ()
        with torch.no_grad():
            terms = _evaluated(learning, graph, given, noises, number, as_int(own))
        for name in [name for name in terms if name.startswith("value/")]:
            values.setdefault(name.removeprefix("value/"), []).append(terms.pop(name))
        weights.append(_log_weights(terms, number) - log_q)
    return {name: torch.cat(parts) for name, parts in values.items()}, torch.cat(weights)


def _graph_of_values(learning: Learning, rows: int) -> Graph | None:
    """The graph of the terms and values of one draw; None where the program must be run once per draw."""
    try:
        graph = learning.traced(rows, values=True)
    except UntraceableProgram:
        return None
    return None if graph.has_randomness_left else graph


def _log_weights(terms: Values, count: int) -> torch.Tensor:
    """log p - log q of each draw, ``[count]``: the terms of q count against it, those of scores not at all."""
    total = torch.zeros(count, dtype=next(iter(terms.values())).dtype if terms else None)
    for name, term in terms.items():
        if not name.startswith("score/"):
            summed = term.reshape(count, -1).sum(1)
            total = total - summed if name.startswith("q/") else total + summed
    return total


def _evaluated(
    learning: Learning, graph: Graph | None, given: Values, noises: Tensors, number: int, seed: int
) -> Values:
    if graph is None:
        with isolated(seed=seed, dtype=learning.dtype):
            draws = [
                learning.terms({**given, **({"u": given["u"][s]} if "u" in given else {})}, values=True)
                for s in range(number)
            ]
        return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    arguments = [*noises, *(given[name] for name in graph.inputs)]
    dims = [0] * len(noises) + [0 if name == "u" else None for name in graph.inputs]
    found = torch.vmap(graph.module, in_dims=tuple(dims))(*arguments)
    return dict(zip(graph.outputs, found, strict=True))
