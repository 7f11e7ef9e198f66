"""Blocks of chains under Metropolis-Hastings: random walks, proposals that the user wrote, independent proposals.

A random walk moves on the continuous latents, with discrete ones summed out. A proposal of the user acts on the values
of all latents. Independent proposals and their weights, p(x, z) / q(z), are made in bulk, and a step compares two of
these weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.chains import ChainDensity
from phlogiston.engine.densities.joint import Columns, flattened, unflattened
from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.sites import Site
from phlogiston.errors import ImpossibleEvidence, SettingError, did_you_mean, problem
from phlogiston.inference.mcmc.adaptation import StepSearch, Window, unit_scale, windows
from phlogiston.inference.mcmc.blocks import Density, Drawn, Report, State, Task, until_interrupted
from phlogiston.inference.mcmc.random_walk import acceptance, new_stats, optimal_acceptance, optimal_step, root_of
from phlogiston.inference.particles.proposals import Proposal
from phlogiston.inference.rng import Words, fill_normals, fill_uniforms, jit, streams, uniform
from phlogiston.inference.starts import joint_points, starting_points
from phlogiston.model.model import Model

Array = NDArray[Any]
Values = dict[str, torch.Tensor]
# Values [C, *site shape] and a generator -> other values, and log q(new | old) - log q(old | new), [C].
UserProposal = Callable[[Values, np.random.Generator], tuple[Mapping[str, Any], Any]]
_STEPS = 256  # steps of all chains for which proposals are made at a time
Source = Callable[[Model, Any], Proposal]


def on_the_marginal(task: Task, target: Target) -> tuple[Density, Any]:
    """The density of the continuous latents without its gradient."""
    density, unit = target.marginal(task.chains, task.calls), unit_scale("diag", target.dim, task.dtype)

    def evaluate(x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(density(x.mT.numpy())), torch.zeros_like(x)

    asked = ChainDensity(evaluate, density.engine)
    return density, lambda: starting_points(target, asked, unit, task.start, task.seed, task.chains)


@dataclass(frozen=True, kw_only=True)
class WalkBlock:
    """Settings of a random walk on the continuous latents, as in ``ph.MH``."""

    num_warmup: int
    num_steps: int
    step_size: float | None
    target_accept_prob: float | None

    def begin(self, density: Columns, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, D]``, not warmed up yet."""
        u = starts.double().numpy().copy()
        return {
            "u": u,
            "lp": density(u),
            "words": streams(seeds),
            "root": np.eye(u.shape[1]),
            "step_size": np.asarray(self.step_size or optimal_step(u.shape[1])),
        }

    def warm_up(self, density: Columns, state: State, report: Report) -> None:
        """Learn the step size and the covariance from all chains of the block; in place."""
        for window in windows(self.num_warmup, state["u"].shape[0]):
            self._warm_up_window(density, state, window, report)

    def _warm_up_window(self, density: Columns, state: State, window: Window, report: Report) -> None:
        chains, dim = state["u"].shape
        search = StepSearch(float(state["step_size"]), self.target_accept_prob or optimal_acceptance(dim))
        seen = np.empty((window.transitions, chains, dim))
        for t in range(window.transitions):
            state["step_size"] = np.asarray(search.step_size)
            rates = np.zeros(chains)
            for _ in range(self.num_steps):
                rates += step(density, state)[0] / self.num_steps
            search.update(float(rates.mean()))
            seen[t] = state["u"]
            report(chains, search.step_size, 0)
        state["step_size"] = np.asarray(search.average)
        if window.learns:
            state["root"] = root_of(seen[window.transitions // 4 :].reshape(-1, dim))
            state["step_size"] = np.asarray(optimal_step(dim))

    def sample(self, density: Columns, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""
        return _sampled(state, "u", num_samples, report, lambda: [step(density, state) for _ in range(self.num_steps)])


Step = tuple[Array, Array, Array]  # each chain's acceptance probability, whether it moved, whether the density was NaN


def _sampled(state: State, name: str, num_samples: int, report: Report, steps: Callable[[], list[Step]]) -> Drawn:
    """Draw ``num_samples`` states of every chain, each after the Metropolis steps that ``steps`` takes in place."""
    chains, dim = state[name].shape
    draws, stats = np.empty((chains, num_samples, dim)), new_stats(chains, num_samples)
    step_size = float(state.get("step_size", np.asarray(0.0)))

    def draw(i: int) -> None:
        record(stats, i, steps())
        draws[:, i], stats["lp"][:, i] = state[name], state["lp"]

    done, interrupted = until_interrupted(num_samples, draw, lambda i: report(chains, step_size, 0))
    return Drawn(torch.from_numpy(draws), stats, np.full(chains, done), interrupted)


def record(stats: dict[str, Array], row: int, steps: list[Step]) -> None:
    """Record the statistics of the steps of one draw."""
    rates, moved, bad = (np.stack(column) for column in zip(*steps, strict=True))
    stats["acceptance_rate"][:, row] = rates.mean(0)
    stats["accepted"][:, row] = moved.any(0)
    stats["num_nan"][:, row] = bad.sum(0)


def step(density: Columns, state: State) -> Step:
    """Take one random-walk step of every chain, in place."""
    noise = np.empty_like(state["u"])
    fill_normals(state["words"], noise)
    proposed = state["u"] + float(state["step_size"]) * noise @ state["root"].T
    return decide(state, "u", proposed, density(proposed), np.zeros(len(noise)))


def decide(state: State, name: str, proposed: Array, value: Array, log_q: Array) -> Step:
    """Accept or reject each chain's proposal, in place; ``log_q`` is log q(new | old) - log q(old | new)."""
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = value - state["lp"] - log_q
    probability, uniforms = acceptance(ratio), np.empty(len(ratio))
    fill_uniforms(state["words"], uniforms)
    moved = uniforms < probability
    state[name] = np.where(moved[:, None], proposed, state[name])
    state["lp"] = np.where(moved, value, state["lp"])
    return probability, moved, np.isnan(ratio)


@dataclass(frozen=True)
class ValueDensity:
    """The joint density as a function of all latents' values, one after another: ``x [C, X]``."""

    columns: Columns
    sites: tuple[Site, ...]
    states: Mapping[str, Array]

    @property
    def engine(self) -> str:
        """The tier, with the reason where it is not the fastest."""
        return self.columns.engine

    def __call__(self, x: Array) -> Array:
        """Log densities ``[C]``; -inf where a discrete latent has a value that it cannot have."""
        safe, possible = x.copy(), np.ones(len(x), bool)
        start = 0
        for site in self.sites:
            stop = start + int(np.prod(site.shape))
            if site.name in self.states and stop > start:
                states = self.states[site.name]
                events = safe[:, start:stop].reshape(len(x), -1, 1, states.shape[1])
                known = (events == states).all(-1).any(-1)
                possible &= known.all(1)
                events[~known] = states[0]  # a table of probabilities has no such entry
                safe[:, start:stop] = events.reshape(len(x), -1)
            start = stop
        return np.where(possible, self.columns(safe), -np.inf)


def on_values(task: Task, target: Target) -> tuple[Density, Any]:
    """The density of the latents' values; chains begin at finite points of it."""
    sites, full = target.structure.of("latent"), target.full(task.chains, 0)
    density = ValueDensity(target.constrained(task.chains, task.calls), sites, full.states)

    def start() -> torch.Tensor:
        w = joint_points(target, full, task.start, task.seed, task.chains)
        return flattened(sites, full.values(w), target.dtype)

    return density, start


@dataclass(frozen=True, kw_only=True)
class CustomBlock:
    """Settings of chains that move by a proposal of the user."""

    proposal: UserProposal
    num_warmup: int
    num_steps: int

    def begin(self, density: ValueDensity, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, X]``."""
        x, words = starts.numpy().copy(), streams(seeds)
        return {"x": x, "lp": density(x), "words": words, "own": words[:, 0].copy(), "done": np.asarray(0)}

    def warm_up(self, density: ValueDensity, state: State, report: Report) -> None:
        """Run ``num_warmup`` draws, in which nothing is learnt, so that the chains forget where they began."""
        if self.num_warmup:
            self.sample(density, state, self.num_warmup, report)

    def sample(self, density: ValueDensity, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""
        return _sampled(
            state, "x", num_samples, report, lambda: [self._step(density, state) for _ in range(self.num_steps)]
        )

    def _step(self, density: ValueDensity, state: State) -> Step:
        words = [int(word) for word in state["own"]]
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(words, spawn_key=(int(state["done"]),))))
        state["done"] = np.asarray(state["done"] + 1)
        proposed, log_q = proposals(self.proposal, density.sites, state["x"], rng)
        return decide(state, "x", proposed, density(proposed), log_q)


def proposals(
    proposal: UserProposal, sites: tuple[Site, ...], x: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """What the user's function proposes to chains at ``x [C, X]``, with its log q(new | old) - log q(old | new).

    Raises:
        SettingError: the function returned something else, or values of another shape or name.
    """
    chains = len(x)
    values = unflattened(sites, torch.from_numpy(x.copy()))
    answer = proposal(dict(values), rng)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Mapping)):
        raise SettingError(
            problem(
                "proposal",
                found=f"a function that returned {type(answer).__name__}",
                expected="(new values by site, log q(new | old) - log q(old | new))",
                fix="return {...}, 0.0",
            )
        )
    for name, value in answer[0].items():
        if name not in values:
            raise SettingError(f"proposal: found site {name!r}; {did_you_mean(name, values)}")
        tensor = torch.as_tensor(value)
        if tensor.shape != values[name].shape:
            expected = f"shape {tuple(values[name].shape)}, chains first"
            raise SettingError(
                problem(f"proposal, site {name!r}", found=f"shape {tuple(tensor.shape)}", expected=expected)
            )
        values[name] = tensor
    log_q = torch.as_tensor(answer[1]).double()
    if tuple(log_q.shape) not in ((), (chains,)):
        raise SettingError(
            problem(
                "proposal, log ratio", found=f"shape {tuple(log_q.shape)}", expected=f"a number, or shape ({chains},)"
            )
        )
    return flattened(sites, values, torch.float64).numpy(), log_q.expand(chains).numpy()


def values_of_latents(target: Target, x: torch.Tensor, seed: np.random.SeedSequence, before: Any) -> Values:
    """Draws ``x [C, n, X]`` as latents and deterministics, after those drawn before."""
    values = unflattened(target.structure.of("latent"), x)
    values.update(target.deterministics(values))
    return {name: torch.cat([before[name], value], 1) if before else value for name, value in values.items()}


@dataclass
class Pool:
    """Weighted proposals, made for ``_STEPS`` steps of all chains at a time; they depend on their number alone."""

    proposal: Proposal
    joint: Columns
    sites: tuple[Any, ...]
    chains: int
    seed: np.random.SeedSequence
    dtype: torch.dtype

    @property
    def engine(self) -> str:
        """The tier that made the last proposals."""
        return self.proposal.engine()

    def number(self, i: int) -> tuple[Array, Array, Array]:
        """Proposals ``[steps, C, X]``, their log weights and their log joint densities ``[steps, C]``."""
        seed = np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, i))
        chunks = list(self.proposal.draw(_STEPS * self.chains, seed))
        x = torch.cat([flattened(self.sites, chunk, self.dtype) for chunk in chunks])
        weights = torch.cat([chunk["log_weight"] for chunk in chunks])
        shape = (_STEPS, self.chains)
        return (
            x.reshape(*shape, -1).numpy(),
            weights.reshape(shape).double().numpy(),
            self.joint(x.numpy()).reshape(shape),
        )


@dataclass(frozen=True)
class OnPool:
    """The setup of a block: a pool of proposals, and starts at the first of them with a positive weight."""

    source: Source

    def __call__(self, task: Task, target: Target) -> tuple[Density, Any]:
        """The pool, and a function that finds the first points."""
        if isinstance(task.start, Mapping):
            raise SettingError(
                problem("initial", found="values by site", expected="a name, as independent proposals start the chains")
            )
        sites = target.structure.of("latent")
        joint = target.constrained(_STEPS * task.chains, max(1, task.calls // _STEPS))
        pool = Pool(self.source(task.model, task.engine), joint, sites, task.chains, task.seed, task.dtype)
        return pool, lambda: torch.from_numpy(_first(pool))


def _first(pool: Pool) -> Array:
    """The first possible proposal of each chain with its log weight and log joint density, ``[C, X + 2]``."""
    x, weights, joint = pool.number(0)
    possible = np.isfinite(weights)
    if not possible.any(0).all():
        raise ImpossibleEvidence(
            f"mh: none of {_STEPS} proposals has a finite density; "
            "propose from something closer to the posterior, or write: proposal='random_walk'"
        )
    rows, chains = possible.argmax(0), np.arange(pool.chains)
    return np.concatenate([x[rows, chains], weights[rows, chains, None], joint[rows, chains, None]], 1)


@dataclass(frozen=True, kw_only=True)
class IndependenceBlock:
    """Settings of chains that move by independent proposals."""

    num_warmup: int
    num_steps: int

    def begin(self, density: Pool, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at ``starts [C, X + 2]``, the last columns their log weights and densities."""
        x, weight, lp = np.split(starts.numpy().copy(), [-2, -1], 1)
        return {
            "x": x.copy(),
            "weight": weight[:, 0].copy(),
            "lp": lp[:, 0].copy(),
            "words": streams(seeds),
            "done": np.asarray(_STEPS),
        }

    def warm_up(self, density: Pool, state: State, report: Report) -> None:
        """Run ``num_warmup`` draws, in which nothing is learnt, so that the chains forget where they began."""
        if self.num_warmup:
            self.sample(density, state, self.num_warmup, report)

    def sample(self, density: Pool, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""
        number, pool = -1, (np.empty(0), np.empty(0), np.empty(0))

        def steps() -> list[Step]:
            nonlocal number, pool
            steps = []
            for _ in range(self.num_steps):
                at, row = divmod(int(state["done"]), _STEPS)
                if at != number:
                    number, pool = at, density.number(at)
                steps.append(compare(state, *(part[row] for part in pool)))
                state["done"] = np.asarray(state["done"] + 1)
            return steps

        return _sampled(state, "x", num_samples, report, steps)


def compare(state: State, proposed: Array, weights: Array, joint: Array) -> Step:
    """Take one step of every chain by independent proposals, in place."""
    probability, moved, bad = np.empty(len(weights)), np.empty(len(weights), bool), np.empty(len(weights), bool)
    _compare(state["words"], state["weight"], weights, probability, moved, bad)
    state["x"] = np.where(moved[:, None], proposed, state["x"])
    state["lp"] = np.where(moved, joint, state["lp"])
    return probability, moved, bad


@jit
def _compare(words: Words, current: Array, weights: Array, probability: Array, moved: Array, bad: Array) -> None:
    for c in range(current.shape[0]):
        bad[c] = np.isnan(weights[c])
        probability[c] = 0.0 if bad[c] else min(1.0, np.exp(weights[c] - current[c]))
        moved[c] = uniform(words[c]) < probability[c]
        if moved[c]:
            current[c] = weights[c]
