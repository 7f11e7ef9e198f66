"""Blocks of chains: what each needs to start or to continue, and how they run, in this process or by an executor."""

from __future__ import annotations

import functools
import multiprocessing
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast

import cloudpickle
import numpy as np
import torch
from tqdm.auto import tqdm

from phlogiston.engine.densities.chains import Scale
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import spawn
from phlogiston.engine.trace.batched import Tier
from phlogiston.errors import WorkerDied
from phlogiston.inference.starts import starting_points
from phlogiston.model.model import Model

# Pyro, torch's tracing and the default dtype belong to the process: threads of one process take turns.
_ONE_AT_A_TIME = threading.Lock()
Report = Callable[[int, float, int], None]  # transitions done, step size, divergences since the last report


@dataclass
class Drawn:
    """What a block drew: ``u [C, n, D]``, ``stats``, each ``[C, n]``, and how many of the n each chain has."""

    u: torch.Tensor
    stats: dict[str, np.ndarray]
    counts: np.ndarray
    interrupted: bool = False


State = dict[str, np.ndarray]


class Sampler(Protocol):
    """Settings of a sampler that advances a block of chains.

    ``density`` and ``starts`` are what the task's ``setup`` gives: a ``ChainDensity`` and points ``[C, D]`` where it
    is ``continuous_setup``.
    """

    @property
    def num_warmup(self) -> int:
        """Transitions per chain before its draws are kept."""

    def begin(self, density: Any, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, D]``, not warmed up yet."""

    def warm_up(self, density: Any, state: State, report: Report) -> None:
        """Learn from all chains of the block; in place."""

    def sample(self, density: Any, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""


class ScaledSampler(Sampler, Protocol):
    """Settings of a sampler that moves in coordinates whose scale it learns."""

    def unit(self, dim: int, dtype: torch.dtype) -> Scale:
        """The scale that changes nothing, of the kind that it learns."""


class Density(Protocol):
    """Whatever a sampler evaluates; it knows the tier on which it does."""

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""


def until_interrupted(count: int, draw: Callable[[int], None], report: Callable[[int], None]) -> tuple[int, bool]:
    """Make ``count`` draws and report each; return how many were made, and whether Ctrl-C ended that early."""
    done = 0
    try:
        for i in range(count):
            draw(i)
            done += 1
            report(i)
    except KeyboardInterrupt:
        return done, True
    return done, False


# A task and its target -> what the sampler evaluates, and what finds the points where chains begin.
Setup = Callable[["Task", Target], tuple[Density, Callable[[], torch.Tensor]]]


def continuous_setup(task: Task, target: Target) -> tuple[Density, Callable[[], torch.Tensor]]:
    """The density of the continuous latents with its gradient, discrete latents summed out."""

    unit = cast(ScaledSampler, task.sampler).unit(target.dim, task.dtype)
    density = target.chains(unit, task.chains, task.calls)
    return density, lambda: starting_points(target, density, unit, task.start, task.seed, task.chains)


@dataclass(frozen=True)
class Task:
    """One block of chains to run; ``state`` is given if it continues an earlier run."""

    model: Model
    sampler: Sampler
    engine: Tier
    dtype: torch.dtype
    first_chain: int
    chains: int
    seed: np.random.SeedSequence
    seeds: tuple[np.random.SeedSequence, ...]
    start: Any
    num_samples: int
    calls: int
    state: State | None = None
    setup: Setup = continuous_setup

    @property
    def label(self) -> str:
        """Numbers of the first and the last chain, in words."""
        return f"chains {self.first_chain} to {self.first_chain + self.chains - 1}"


@dataclass
class BlockResult:
    """The draws of a block, its state afterwards, the tier that evaluated it, and its times."""

    drawn: Drawn
    state: State
    engine: str
    seconds: Mapping[str, float]


def run_block(task: Task, report: Report) -> BlockResult:
    """Prepare, warm up and sample one block."""
    began = time.perf_counter()
    target: Target = task.model.target(task.engine, task.dtype)
    density, starts = task.setup(task, target)
    state = task.state
    prepared = time.perf_counter()
    if state is None:
        state = task.sampler.begin(density, starts(), list(task.seeds))
        task.sampler.warm_up(density, state, report)
    warm = time.perf_counter()
    drawn = task.sampler.sample(density, state, task.num_samples, report)
    seconds = {
        "seconds_preparing": prepared - began,
        "seconds_warming_up": warm - prepared,
        "seconds_sampling": time.perf_counter() - warm,
    }
    return BlockResult(drawn, state, density.engine, seconds)


def run_blocks(tasks: Sequence[Task], executor: Executor | None, *, label: str, progress: bool) -> list[BlockResult]:
    """Run every block, in order, or by the executor if there is one.

    Raises:
        WorkerDied: a process of the executor ended; names the chains and the exit code.
    """
    warmup = 0 if tasks[0].state is not None else tasks[0].sampler.num_warmup
    total = sum(task.chains * (warmup + task.num_samples) for task in tasks)
    with tqdm(total=total, desc=label, unit="draw", disable=None if progress else True) as bar:
        if executor is None:
            return _in_turn(tasks, bar, label, warmup)
        return _by_executor(tasks, executor, bar, warmup)


def _in_turn(tasks: Sequence[Task], bar: Any, label: str, warmup: int) -> list[BlockResult]:
    results: list[BlockResult] = []
    diverged = 0
    for task in tasks:
        done, until = 0, task.chains * warmup

        def report(transitions: int, step_size: float, divergences: int) -> None:
            nonlocal done, diverged
            done += transitions  # called before the next task begins
            diverged += divergences if done > until else 0  # noqa: B023
            bar.update(transitions)
            bar.set_description(label if done >= until else f"{label}, warm-up", refresh=False)  # noqa: B023
            bar.set_postfix(step_size=f"{step_size:.2g}", divergences=diverged, refresh=False)

        try:
            results.append(run_block(task, report))
        except KeyboardInterrupt:
            if not results:
                raise
            break
        if results[-1].drawn.interrupted:
            break
    return results


@functools.lru_cache(maxsize=4)
def _loaded(model: bytes) -> Model:
    """Load a model that was sent by value; a worker keeps the traced and compiled program of the last four."""
    loaded: Model = cloudpickle.loads(model)
    return loaded


def _elsewhere(model: bytes, rest: bytes, stop: Path) -> bytes | None:
    """Run a block in another process; program and result are sent by value, so that lambdas and notebooks work.

    It ends early once there is a file at ``stop``, with the draws that it has, or with None in warm-up. That is how
    Ctrl-C reaches it: a terminal sends the signal to every process, and it would end workers along with their draws.
    """
    if multiprocessing.parent_process() is not None:  # a thread of an executor here must not change it for all
        torch.set_num_threads(1)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def report(*_: Any) -> None:
        if stop.exists():
            raise KeyboardInterrupt

    with _ONE_AT_A_TIME:
        task: Task = cloudpickle.loads(rest)(model=_loaded(model))
        try:
            return bytes(cloudpickle.dumps(run_block(task, report)))
        except KeyboardInterrupt:
            return None


def _without_model(task: Task) -> Callable[..., Task]:
    named = {field.name: getattr(task, field.name) for field in fields(task) if field.name != "model"}
    return functools.partial(Task, **named)


def _submitted(tasks: Sequence[Task], executor: Executor, stop: Path) -> dict[Future[bytes | None], Task]:
    model = cloudpickle.dumps(tasks[0].model)
    try:
        return {
            executor.submit(_elsewhere, model, cloudpickle.dumps(_without_model(task)), stop): task for task in tasks
        }
    except BrokenProcessPool as error:
        raise WorkerDied("a worker of this executor ended earlier; write: a new ProcessPoolExecutor") from error


def _by_executor(tasks: Sequence[Task], executor: Executor, bar: Any, warmup: int) -> list[BlockResult]:
    """Return results in the order of the tasks; after Ctrl-C, those of blocks that had begun to sample."""
    with tempfile.TemporaryDirectory(prefix="phlogiston-") as folder:
        stop = Path(folder) / "stop"
        futures = _submitted(tasks, executor, stop)
        processes = dict(getattr(executor, "_processes", None) or {})
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future].chains * (warmup + futures[future].num_samples))
        except KeyboardInterrupt:
            stop.touch()
            wait([future for future in futures if not future.cancel()])  # a second Ctrl-C ends this
        except BrokenProcessPool as error:
            raise _lost(futures, list(processes.values())) from error
        finally:
            stop.touch()
            for future in futures:
                future.cancel()
    finished = [future for future in futures if not future.cancelled() and future.exception() is None]
    results = [cloudpickle.loads(result) for future in finished if (result := future.result()) is not None]
    if not results:
        raise KeyboardInterrupt
    return results


def _lost(futures: Mapping[Future[Any], Task], processes: Sequence[Any]) -> WorkerDied:
    """The error that names the chains which ended with a worker process, and its exit code."""
    lost = ", ".join(t.label for f, t in futures.items() if not f.done() or f.cancelled() or f.exception() is not None)
    for process in processes:
        process.join(timeout=1.0)  # its exit code is known only then
    codes = [process.exitcode for process in processes if process.exitcode not in (None, 0)]
    return WorkerDied(
        f"a worker process ended with exit code {codes[0] if codes else 'unknown'} while it ran {lost}; "
        "a negative code is a signal (-9: killed, often as memory ran out); "
        "write: fewer chains_per_block, or no executor"
    )


def equal_lengths(results: Sequence[BlockResult]) -> list[BlockResult]:
    """Cut blocks to one length; a block that has hardly begun is left out, as it would shorten all others."""
    lengths = [int(result.drawn.counts.min()) for result in results]
    length = max(
        lengths, key=lambda n: n * sum(r.drawn.counts.size for r, m in zip(results, lengths, strict=True) if m >= n)
    )
    if not length:
        raise KeyboardInterrupt
    kept = [result for result, n in zip(results, lengths, strict=True) if n >= length]
    return [
        replace(
            r,
            drawn=replace(r.drawn, u=r.drawn.u[:, :length], stats={k: v[:, :length] for k, v in r.drawn.stats.items()}),
        )
        for r in kept
    ]


def seeds_of(seed: int | None, chains: int) -> tuple[list[np.random.SeedSequence], list[np.random.SeedSequence]]:
    """A seed for each chain, and seeds for everything else (starting points by block, discrete latents)."""
    root = np.random.SeedSequence(seed)
    everything = spawn(root, chains + 2)
    return everything[:chains], everything[chains:]
