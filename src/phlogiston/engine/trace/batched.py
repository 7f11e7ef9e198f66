"""One function of a draw, evaluated for thousands of draws, by the fastest tier that the program allows.

``compiled``: the batched graph as machine code. ``graph``: the same graph, run operation by operation.
``loop``: the program itself, once a draw. All three compute the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from phlogiston.engine.program.isolate import as_int, generator, isolated, one_thread, spawn
from phlogiston.engine.trace import compile as compiled
from phlogiston.engine.trace import graph
from phlogiston.engine.trace.graph import Function, Graph, Values
from phlogiston.errors import SettingError, UntraceableProgram

Tier = Literal["auto", "native", "compiled", "graph", "loop"]
TIERS: tuple[str, ...] = ("auto", "native", "compiled", "graph", "loop")

LEAVES_TORCH = "the trace does not follow the program: it computes outside torch, or draws from another library"
_NOISE_THREADS = 2
_WORTH_TRACING = 16  # fewer random draws than this take the loop less time than tracing
_NOISE_AHEAD = 3
_LARGEST_ROWS = 16_384
# What one operation takes at a time: more would leave the processor's cache, less would leave the work to Python. It
# is done on one thread while others draw the noise of the next chunks: two threads an operation are a little faster on
# idle cores (eight schools: 4.5 against 4.1 million particles a second), but ten times slower on busy ones.
_ELEMENTS_IN_CACHE = 2**15
_ELEMENTS_IN_FLIGHT = 2**23  # 64 MB of float64, where fewer rows would leave the processor to Python
_FEWEST_ROWS = 512
# What a graph costs as it is, roughly, and what compiling it costs: "auto" decides by these and not by the clock,
# so that a seed gives the same draws, bit for bit, whatever else the machine is doing.
_SECONDS_AN_OPERATION = 8e-6
_SECONDS_AN_ELEMENT = 1e-9
_SECONDS_TO_COMPILE, _SECONDS_TO_COMPILE_AN_OPERATION = 2.0, 0.02


Form = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass
class Traces:
    """What is made of a function once: its graph, and batched and compiled forms of it.

    ``confirmed`` says that the graph was compared with the program before other data than those it was traced with.
    """

    is_traced: bool = False
    graph: Graph | None = None
    confirmed: bool = False
    batched: dict[int, torch.fx.GraphModule] = field(default_factory=dict)
    compiled: dict[int, Callable[..., Any]] = field(default_factory=dict)
    prepared: dict[Any, tuple[str, Callable[..., Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What one evaluation of a function costs, counted and not timed.

    Args:
        operations: on tensors; 0 where the program is looped over.
        elements: numbers that they make.
        reason: why the program is looped over; "" where it is not.
    """

    operations: int
    elements: int
    reason: str = ""


@dataclass(frozen=True)
class Verification:
    """How a graph is compared with the program before it is used in its place.

    Tracing follows torch's operations only. A program that computes outside torch leaves constants in the graph, which
    nothing but a comparison away from the traced point can tell.

    Args:
        second: another input, at which graph and program must agree.
        check: looks at one draw of a random graph and raises ``UntraceableProgram`` if it contradicts the program.
        reference: another function of the same program, whose graph must pass for this one to be used.
    """

    second: Values | None = None
    check: Callable[[Values], None] | None = None
    reference: Callable[[], Batched] | None = None


class Batched:
    """``function`` of one draw as a function of many.

    Args:
        function: maps named tensors of one draw to named tensors; it may draw random numbers.
        example: an input to trace it with.
        tier: the tier to use; "auto" takes the graph, and compiles where that pays.
        dtype: the default dtype in which the program runs.
        is_random: whether it draws random numbers; for a handful of draws "auto" then does not trace at all.
        verification: how its graph is compared with the program.
        shared: data that are inputs of ``function`` and the same for all draws, and what was traced with other values
            of them; without these inputs, ``function`` takes the data from its program.
    """

    def __init__(
        self,
        function: Function,
        example: Values,
        *,
        tier: Tier = "auto",
        dtype: torch.dtype = torch.float64,
        is_random: bool = False,
        verification: Verification | None = None,
        shared: tuple[Values, Traces] | None = None,
    ) -> None:
        if tier not in TIERS:
            raise SettingError(f"engine: found {tier!r}; expected one of {', '.join(TIERS)}")
        self._function, self._example, self._dtype = function, example, dtype
        self._wanted: Tier = "auto" if tier == "native" else tier  # what native code does not serve is left to choose
        self._is_random, self._verification = is_random, verification or Verification()
        self._shared_inputs, self._traces = shared or ({}, Traces())
        self._is_traced = tier == "loop"
        self._alone: Graph | None = None
        self.reason = ""
        self.last_tier: str = "loop"

    @property
    def _graph(self) -> Graph | None:
        return self._traces.graph

    def _trace(self) -> Graph | None:
        """The graph of one draw, made at the first call; None where the loop must serve."""
        if not self._is_traced:
            self._is_traced = True
            make_reference = self._verification.reference
            reference = None if make_reference is None else make_reference()
            if reference is not None and not reference.traced:
                self.reason = reference.reason
                return None
            if self._shared_inputs and (reference is None or reference.serves_other_data):
                self._join()
            else:
                self._shared_inputs, self._traces = {}, Traces()
            if not self._shared_inputs:
                self._make()
        return self._graph

    def _make(self) -> None:
        try:
            with isolated(seed=0, dtype=self._dtype):
                traced = graph.trace_single(self._function, {**self._example, **self._shared_inputs})
                self._verify(traced)
            self._traces.graph = traced
        except UntraceableProgram as error:
            self.reason = str(error)

    def _join(self) -> None:
        """Take the graph that others traced, or make one for them too; hold nothing if it does not follow the data."""
        traces = self._traces
        if not traces.is_traced:
            traces.is_traced = True
            self._make()
        elif traces.graph is not None and not traces.confirmed:
            try:
                with isolated(seed=0, dtype=self._dtype):
                    self._verify(traces.graph)
                traces.confirmed = True
            except UntraceableProgram:
                traces.graph = None
        if traces.graph is None:
            self._shared_inputs, self._traces, self.reason = {}, Traces(), ""

    def _verify(self, traced: Graph) -> None:
        if self._verification.second is not None:
            self._compare(traced, self._verification.second)
        if self._verification.check is not None:
            self._verification.check(self._one_draw(traced))

    def __call__(self, inputs: Values, rows: int, seed: np.random.SeedSequence | None = None) -> Values:
        """Evaluate ``rows`` draws; every input has ``rows`` as its first dimension. Chunks of any size are fine."""
        chunks = list(self.stream(inputs, rows, seed))
        if len(chunks) == 1:
            return chunks[0]
        return {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}

    def stream(
        self, inputs: Values, rows: int, seed: np.random.SeedSequence | None = None, expected: int | None = None
    ) -> Iterator[Values]:
        """The same, chunk by chunk: memory is bounded by one chunk. Chunk i depends on the seed and on i alone."""
        rows = int(rows)  # NumPy's integers will do
        if self._is_random and self._wanted == "auto" and rows < _WORTH_TRACING:
            yield self._loop(inputs, rows, seed)
            return
        size = self.chunk_rows(rows)
        starts = range(0, rows, size)
        seeds = spawn(seed if seed is not None else np.random.SeedSequence(0), len(starts))
        self._compile_if_it_pays(size, calls=1 + min(rows, expected or rows) // size)
        for i, (start, noise) in enumerate(zip(starts, self._noises(seeds, size), strict=True)):
            stop = min(start + size, rows)
            part = {name: value[start:stop] for name, value in inputs.items()}
            result = self._evaluate(part, stop - start, size, noise, seeds[i])
            yield {key: value[: stop - start] for key, value in result.items()}

    def chunk_rows(self, rows: int) -> int:
        """Rows evaluated by one call: a power of two, within the processor's cache if it can be."""
        if self._trace() is None or self._graph is None:
            return min(rows, 1024)
        row = max(1, self._graph.largest)
        within_memory = min(_FEWEST_ROWS, _ELEMENTS_IN_FLIGHT // row)
        largest = max(1, min(_LARGEST_ROWS, max(_ELEMENTS_IN_CACHE // row, within_memory)))
        return min(1 << max(0, (rows - 1).bit_length()), 1 << (largest.bit_length() - 1))

    @property
    def graph(self) -> Graph | None:
        """The graph of one draw; None where the program has to be looped over."""
        found = self._trace()
        if found is None or not self._shared_inputs:
            return found
        if self._alone is None:
            with isolated(seed=0, dtype=self._dtype):
                self._alone = graph.with_fixed(found, self._shared_inputs)
        return self._alone

    @property
    def serves_other_data(self) -> bool:
        """Whether the graph has data as inputs."""
        return self._trace() is not None and bool(self._shared_inputs)

    @property
    def work(self) -> Work:
        """What one draw costs."""
        graph = self._trace()
        return Work(0, 0, self.reason) if graph is None else Work(graph.operations, graph.elements)

    @property
    def traced(self) -> bool:
        """Whether a graph stands for the program."""
        return self._trace() is not None

    def compiled_or(
        self, module: torch.fx.GraphModule, arguments: list[torch.Tensor], rows: int, calls: int
    ) -> tuple[str, Callable[..., Any]]:
        """Another batched form of the same graph as machine code, where that pays, or as it is; with its tier."""
        if self._pays(rows, calls) and not self.reason:
            try:
                return "compiled", compiled.compile_graph(module, arguments)
            except compiled.CompilerUnavailable as error:
                self.reason = f"not compiled: {error}"
        return "graph", module

    def prepared(
        self, key: Any, axes: tuple[int | None, ...], form: Form, arguments: list[torch.Tensor], rows: int, calls: int
    ) -> tuple[str, Callable[..., Any]]:
        """A batched form of the graph, as machine code where that pays, with its tier; made once for all data.

        Args:
            key: that tells it from other forms of the same graph.
            axes: of the graph's inputs, along which it is mapped; its outputs are mapped along the last.
            form: makes of the mapped graph the function that is wanted.
            arguments: an example of what that is called with.
            rows: of a call.
            calls: how often it will be called, roughly.
        """
        found, shared, count = self._trace(), list(self._shared_inputs.values()), len(arguments)
        assert found is not None
        mapped = torch.func.vmap(found.module, in_dims=(*axes, *(None for _ in shared)), out_dims=-1)

        def function(*tensors: torch.Tensor) -> Any:
            return form(lambda *inputs: mapped(*inputs, *tensors[count:]))(*tensors[:count])

        if (key, calls) not in self._traces.prepared:
            example = [*arguments, *shared]
            made = self.compiled_or(graph.batch_by(function, example), example, rows, calls)
            self._traces.prepared[key, calls] = made
        tier, call = self._traces.prepared[key, calls]
        return tier, (lambda *tensors: call(*tensors, *shared)) if shared else call

    def _loop(self, part: Values, rows: int, seed: np.random.SeedSequence | None = None) -> Values:
        self.last_tier = "loop"
        with isolated(as_int(seed) if seed is not None else None, self._dtype), torch.no_grad():
            results = [self._function({name: value[i] for name, value in part.items()}) for i in range(rows)]
        return {key: torch.stack([result[key].detach() for result in results]) for key in results[0]}

    def _noises(self, seeds: list[np.random.SeedSequence], rows: int) -> Iterator[list[torch.Tensor]]:
        """The noise of each chunk, drawn ahead in threads where there is more than one to draw."""
        if len(seeds) == 1 or self._graph is None or not self._graph.noises:
            yield from (self._noise(seed, rows) for seed in seeds)
            return
        with ThreadPoolExecutor(_NOISE_THREADS) as pool:
            ahead = deque(pool.submit(self._noise, seed, rows) for seed in seeds[:_NOISE_AHEAD])
            for i in range(len(seeds)):
                noise = ahead.popleft().result()
                if i + _NOISE_AHEAD < len(seeds):
                    ahead.append(pool.submit(self._noise, seeds[i + _NOISE_AHEAD], rows))
                yield noise

    def _noise(self, seed: np.random.SeedSequence, rows: int) -> list[torch.Tensor]:
        rng = generator(seed)
        return [noise.sample(rng, rows) for noise in self._graph.noises] if self._graph is not None else []

    def _evaluate(
        self, part: Values, rows: int, size: int, noise: list[torch.Tensor], seed: np.random.SeedSequence
    ) -> Values:
        if self._graph is not None:
            padded = [_pad(part[name], size) for name in self._graph.inputs if name not in self._shared_inputs]
            try:
                call = self._traces.compiled.get(size) or self._batched_graph(size)
                fits = size * self._graph.largest <= _ELEMENTS_IN_CACHE
                with ExitStack() as stack:
                    stack.enter_context(torch.no_grad())
                    stack.enter_context(one_thread() if fits else nullcontext())
                    if self._graph.has_randomness_left:
                        stack.enter_context(isolated(as_int(seed)))
                    outputs = call(*noise, *padded, *self._shared_inputs.values())
                self.last_tier = "compiled" if size in self._traces.compiled else "graph"
                return dict(zip(self._graph.outputs, outputs, strict=True))
            except UntraceableProgram as error:
                self._traces.graph, self.reason = None, str(error)
        return self._loop(part, rows, seed)

    def _batched_graph(self, size: int) -> torch.fx.GraphModule:
        if size not in self._traces.batched:
            assert self._graph is not None
            with isolated(seed=0, dtype=self._dtype):
                self._traces.batched[size] = graph.batch(self._graph, size, self._example, self._shared_inputs)
        return self._traces.batched[size]

    def _arguments(self, size: int) -> list[torch.Tensor]:
        assert self._graph is not None
        noise = [torch.zeros((size, *n.shape), dtype=n.dtype) for n in self._graph.noises]
        own = [
            _pad(self._example[name].unsqueeze(0), size)
            for name in self._graph.inputs
            if name not in self._shared_inputs
        ]
        return [*noise, *own, *self._shared_inputs.values()]

    def _compile_if_it_pays(self, rows: int, calls: int) -> None:
        """Compile when told to, or when the graph as it is would take longer than compiling."""
        if self._pays(rows, calls):
            self._compile(rows)

    def _pays(self, rows: int, calls: int) -> bool:
        if self._graph is None or self._wanted == "graph":
            return False
        a_call = self._graph.operations * _SECONDS_AN_OPERATION + rows * self._graph.elements * _SECONDS_AN_ELEMENT
        compiling = _SECONDS_TO_COMPILE + self._graph.operations * _SECONDS_TO_COMPILE_AN_OPERATION
        return self._wanted == "compiled" or (calls * a_call > compiling and not self._graph.has_randomness_left)

    def _compile(self, size: int) -> None:
        if size in self._traces.compiled or self._graph is None or self.reason:
            return
        if self._graph.has_randomness_left:
            self.reason = "a draw depends on a latent in a way that cannot be compiled (a gamma with a latent shape)"
            return
        try:
            self._traces.compiled[size] = compiled.compile_graph(self._batched_graph(size), self._arguments(size))
        except compiled.CompilerUnavailable as error:
            self.reason = f"not compiled: {error}"

    def _compare(self, traced: Graph, second: Values) -> None:
        """Insist that the graph gives what the program gives, at an input other than the one that was traced."""
        if traced.noises:
            raise UntraceableProgram(LEAVES_TORCH)
        outputs = traced.module(*({**second, **self._shared_inputs}[name] for name in traced.inputs))
        expected = self._function(second)
        for key, output in zip(traced.outputs, outputs, strict=True):
            if not torch.allclose(output, expected[key], rtol=1e-9, atol=1e-9, equal_nan=True):
                raise UntraceableProgram(LEAVES_TORCH)

    def _one_draw(self, traced: Graph) -> Values:
        rng = generator(1)
        noise = [noise.sample(rng, 1)[0] for noise in traced.noises]
        outputs = traced.module(*noise, *({**self._example, **self._shared_inputs}[name] for name in traced.inputs))
        return dict(zip(traced.outputs, outputs, strict=True))


def _pad(value: torch.Tensor, rows: int) -> torch.Tensor:
    """Repeat the first row until there are ``rows``; the extra results are thrown away."""
    missing = rows - value.shape[0]
    return value.contiguous() if missing <= 0 else torch.cat([value, value[:1].expand(missing, *value.shape[1:])])
