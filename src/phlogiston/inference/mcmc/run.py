"""What all methods that run chains share: their settings, blocks of chains, continued runs, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, cast, get_args

import numpy as np
import torch

from phlogiston.engine.densities.target import Target
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import (
    SettingError,
    non_negative_int,
    one_of,
    open_unit_interval,
    positive,
    positive_int,
    problem,
)
from phlogiston.inference import registry
from phlogiston.inference.improper import refuse_improper
from phlogiston.inference.mcmc.adaptation import MassMatrix
from phlogiston.inference.mcmc.blocks import (
    BlockResult,
    Sampler,
    Setup,
    State,
    Task,
    continuous_setup,
    equal_lengths,
    run_blocks,
    seeds_of,
)
from phlogiston.inference.method import Result, known_start
from phlogiston.inference.starts import Start
from phlogiston.model.model import Model
from phlogiston.posterior.compatibility import mismatch
from phlogiston.posterior.posterior import Posterior

DTYPES = {"float64": torch.float64, "float32": torch.float32}


# Target, draws [C, n, D] and the latents drawn before, with the seed of what is drawn now -> latents, deterministics.
ToValues = Callable[[Target, torch.Tensor, np.random.SeedSequence, Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]


def to_values(
    target: Target, u: torch.Tensor, seed: np.random.SeedSequence, before: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``u [C, n, D]`` -> every latent and deterministic, after those drawn before; discrete latents recovered.

    Discrete latents are drawn from their exact conditional for all draws anew, so a run in two parts gives what one
    run gives.
    """
    values = target.constrain(u)
    values = {name: torch.cat([before[name], value], 1) if before else value for name, value in values.items()}
    if not target.structure.discrete:
        return values
    chains, n = next(iter(values.values())).shape[:2]
    flat = {site.name: values[site.name].flatten(0, 1) for site in target.structure.continuous}
    latents = target.recover_discretes(flat, seed)
    return {name: value.reshape(chains, n, *value.shape[1:]) for name, value in latents.items()}


class _ChainMethod(Protocol):
    """The settings that all methods which run chains have."""

    @property
    def num_samples(self) -> int: ...
    @property
    def num_warmup(self) -> int: ...
    @property
    def num_chains(self) -> int: ...
    @property
    def chains_per_block(self) -> int: ...
    @property
    def initial(self) -> Start | Mapping[str, Any]: ...
    @property
    def engine(self) -> Tier: ...
    def chain_run(self, model: Model, executor: Executor | None) -> ChainRun: ...


def check_settings(method: _ChainMethod) -> None:
    """Refuse settings of chains that mean nothing.

    Raises:
        SettingError: names the setting.
    """
    positive_int(num_samples=method.num_samples, num_chains=method.num_chains, chains_per_block=method.chains_per_block)
    non_negative_int(num_warmup=method.num_warmup)
    one_of(TIERS, engine=method.engine)
    known_start(method.initial)


def check_hamiltonian(*, step_size: float, target_accept_prob: float, mass_matrix: str, dtype: str) -> None:
    """Refuse settings of Hamiltonian dynamics that mean nothing.

    Raises:
        SettingError: names the setting.
    """
    positive(step_size=step_size)
    open_unit_interval(target_accept_prob=target_accept_prob)
    one_of(get_args(MassMatrix), mass_matrix=mass_matrix)
    one_of(tuple(DTYPES), dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class ChainRun:
    """What a method makes of its settings for a model: the sampler, and what it samples.

    Args:
        sampler: advances a block of chains.
        steps_per_draw: evaluations of the density for a draw, roughly; whether compiling it pays depends on that.
        dtype: "float64" or "float32".
        setup: differs from the default, as ``to_values`` does, where the state of a chain is no vector of real numbers.
        to_values: draws of the sampler -> latents and deterministics.
    """

    sampler: Sampler
    steps_per_draw: int
    dtype: str = "float64"
    setup: Setup = continuous_setup
    to_values: ToValues = to_values


def run_chains(
    method: _ChainMethod,
    model: Model,
    *,
    seed: int | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    resume_from: Posterior | None = None,
) -> Result:
    """Run all chains in blocks, from the start or from an earlier posterior, and join their draws.

    It is the ``__call__`` of every method that runs chains.
    """
    run = method.chain_run(model, executor)
    name, engine = registry.name_of(method), method.engine
    states = None if resume_from is None else _states(method, model, resume_from)
    if resume_from is not None:
        seed = resume_from.seed
    chain_seeds, (starting, recovering) = seeds_of(seed, method.num_chains)
    target = model.target(engine, DTYPES[run.dtype])
    if resume_from is not None and engine == "auto":  # compiled code and the graph round differently
        engine = cast(Tier, resume_from.engine.split()[0])
    if resume_from is None and run.setup is continuous_setup:
        refuse_improper(model, target, starting)
    tasks = _tasks(method, model, run, engine, chain_seeds, starting, states)
    results = equal_lengths(run_blocks(tasks, executor, label=name, progress=progress))
    u = torch.cat([result.drawn.u for result in results])
    stats = _joined_stats(results, resume_from)
    return Result(
        draws=run.to_values(target, u, recovering, {} if resume_from is None else resume_from.draws),
        stats=stats,
        is_chain=True,
        figures=_figures(stats, results),
        engine=results[0].engine,
        interrupted=any(result.drawn.interrupted for result in results) or len(results) < len(tasks),
        state={f"{i}/{key}": array for i, result in enumerate(results) for key, array in result.state.items()},
    )


def _joined_stats(results: list[BlockResult], before: Posterior | None) -> dict[str, torch.Tensor]:
    """The statistics of all chains, after those of an earlier posterior that is continued."""
    stats = {
        key: torch.from_numpy(np.concatenate([result.drawn.stats[key] for result in results]))
        for key in results[0].drawn.stats
    }
    if before is None:
        return stats
    return {key: torch.cat([before.stats[key].to(value.dtype), value], 1) for key, value in stats.items()}


def _tasks(
    method: _ChainMethod,
    model: Model,
    run: ChainRun,
    engine: Tier,
    seeds: list[np.random.SeedSequence],
    starting: np.random.SeedSequence,
    states: list[State] | None,
) -> list[Task]:
    if isinstance(method.initial, Mapping) and method.num_chains > method.chains_per_block:
        raise SettingError(
            problem(
                "initial", found="values for several blocks", expected="one block", fix="chains_per_block=num_chains"
            )
        )
    calls = (run.sampler.num_warmup + method.num_samples) * run.steps_per_draw
    firsts = range(0, method.num_chains, method.chains_per_block)
    return [
        Task(
            model=model,
            sampler=run.sampler,
            engine=engine,
            dtype=DTYPES[run.dtype],
            first_chain=first,
            chains=len(seeds[first : first + method.chains_per_block]),
            seed=np.random.SeedSequence(starting.entropy, spawn_key=(*starting.spawn_key, first)),
            seeds=tuple(seeds[first : first + method.chains_per_block]),
            start=method.initial,
            num_samples=method.num_samples,
            calls=calls,
            state=None if states is None else states[i],
            setup=run.setup,
        )
        for i, first in enumerate(firsts)
    ]


def _figures(stats: Mapping[str, torch.Tensor], results: list[BlockResult]) -> dict[str, float]:
    figures = {"acceptance_rate": float(stats["acceptance_rate"].mean())}
    if "n_steps" in stats:
        figures["gradients"] = float(stats["n_steps"].sum())
    relocated = sum(int(result.state.get("relocated", np.asarray(0))) for result in results)
    if relocated:
        figures["relocated_chains"] = float(relocated)
    for key in results[0].seconds:
        figures[key] = sum(result.seconds[key] for result in results)
    return figures


def _states(method: _ChainMethod, model: Model, given: Any) -> list[State]:
    """The blocks' states in an earlier posterior.

    Raises:
        SettingError: it is another method's or another model's, has other chains, or cannot be continued.
    """
    if not isinstance(given, Posterior):
        fix = "resume_from=ph.load(path, model=model)"
        raise SettingError(problem("resume_from", found=repr(given), expected="a posterior", fix=fix))
    posterior, name = given, registry.name_of(method)
    if posterior.method != name:
        raise SettingError(problem("resume_from", found=repr(posterior), expected=f"a posterior of {name!r}"))
    if not posterior.state:
        found = f"{posterior!r} without the state of its samplers, so that its chains cannot go on"
        raise SettingError(problem("resume_from", found=found, expected=f"a posterior of {name!r} with its state"))
    if difference := mismatch(model, posterior, "resume_from"):
        expected = f"a posterior of {model.name!r} given the same data"
        raise SettingError(problem("resume_from", found=difference, expected=expected))
    blocks: dict[int, State] = {}
    for key, array in posterior.state.items():
        block, field = key.split("/", 1)
        blocks.setdefault(int(block), {})[field] = np.array(array)
    found, wanted = sum(state["words"].shape[0] for state in blocks.values()), method.num_chains
    if found != wanted or blocks[0]["words"].shape[0] != min(wanted, method.chains_per_block):
        raise SettingError(
            problem(
                "resume_from",
                found=f"{found} chains in {len(blocks)} blocks",
                expected=f"{wanted} chains in blocks of {method.chains_per_block}",
            )
        )
    return [blocks[i] for i in sorted(blocks)]
