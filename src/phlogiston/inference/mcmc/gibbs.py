"""A block of chains under Gibbs sampling: every move is one call of the density for all chains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.joint import FullDensity
from phlogiston.engine.densities.target import Target
from phlogiston.inference.mcmc.adaptation import Window, windows
from phlogiston.inference.mcmc.blocks import Density, Drawn, Report, State, Task, until_interrupted
from phlogiston.inference.mcmc.gibbs_plan import (
    PROBES,
    Candidates,
    Detector,
    Move,
    candidates_of,
    drawn_in_closed_form,
    walks_of,
    without_jacobian,
)
from phlogiston.inference.mcmc.random_walk import acceptance, new_stats, optimal_acceptance, optimal_step, root_of
from phlogiston.inference.rng import fill_normals, fill_uniforms, streams
from phlogiston.inference.starts import joint_points

Array = NDArray[Any]
_DISAGREES = 1e-7  # relative difference between the density and the sum of what parallel moves changed


def on_all_latents(task: Task, target: Target) -> tuple[Density, Any]:
    """The density of all latents term by term; chains begin at its finite points, and probes beside them."""
    calls = task.calls * (1 + len(target.structure.of("latent"))) // 3  # each size of call is compiled on its own
    full = target.full(task.chains, calls)

    def start() -> torch.Tensor:
        probes = joint_points(target, full, "uniform", _child(task.seed, 1), PROBES)
        return torch.cat([joint_points(target, full, task.start, task.seed, task.chains), probes])

    return full, start


def _child(seed: np.random.SeedSequence, key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, key, 0))


@dataclass(frozen=True, kw_only=True)
class GibbsBlock:
    """Settings of a Gibbs sampler, as in ``ph.Gibbs``; ``walks_only`` replaces every conditional by a random walk."""

    num_warmup: int
    sweeps: int
    blocks: tuple[tuple[str, ...], ...] | None = None
    walks_only: bool = False
    step_size: float | None = None
    target_accept_prob: float | None = None

    def begin(self, density: FullDensity, starts: torch.Tensor, seeds: list[np.random.SeedSequence]) -> State:
        """Chains at the first of ``starts [C + PROBES, W]``; the others are probes."""
        w, step = starts.numpy(), np.zeros(density.width)
        if self.step_size is not None:
            step += math.log(
                self.step_size / optimal_step(sum(p.coordinates.size for p in density.parts if not p.site.discrete))
            )
        return {
            "w": w[: len(seeds)].copy(),
            "probes": w[len(seeds) :].copy(),
            "words": streams(seeds),
            "log_step": step,
            "centre": np.zeros(density.width),
            "width": np.zeros(density.width),  # none yet
            "alone": np.asarray(0),
        }

    def warm_up(self, density: FullDensity, state: State, report: Report) -> None:
        """Adapt the walks, and find where closed forms have their mass; in place."""
        with np.errstate(all="ignore"):
            run = GibbsRun(density, state, self)
            for window in windows(self.num_warmup, run.chains):
                self._warm_up_window(run, window, report)

    def _warm_up_window(self, run: GibbsRun, window: Window, report: Report) -> None:
        seen = np.empty((window.transitions, *run.w.shape))
        log_steps = np.empty((window.transitions, run.w.shape[1]))
        for t in range(window.transitions):
            run.sweep(gain=2.0 * (t + 1) ** -0.5)
            seen[t], log_steps[t] = run.w, run.state["log_step"]
            report(run.chains, 0.0, 0)
        if window.transitions:
            run.state["log_step"] = log_steps[window.transitions // 2 :].mean(0)
        if window.learns:
            run.learn(seen[window.transitions // 4 :].reshape(-1, run.w.shape[1]))

    def sample(self, density: FullDensity, state: State, num_samples: int, report: Report) -> Drawn:
        """Draw ``num_samples`` states of every chain; ``state`` changes in place, and the next call continues it."""
        with np.errstate(all="ignore"):
            run = GibbsRun(density, state, self)
            draws = np.empty((run.chains, num_samples, run.w.shape[1]))
            stats = new_stats(run.chains, num_samples)

            def draw(i: int) -> None:
                before, rates, bad = run.w.copy(), np.zeros(run.chains), np.zeros(run.chains)
                for _ in range(self.sweeps):
                    rate, nan = run.sweep()
                    rates, bad = rates + rate / self.sweeps, bad + nan
                draws[:, i], stats["lp"][:, i] = run.w, run.terms.sum(1)
                stats["acceptance_rate"][:, i], stats["num_nan"][:, i] = rates, bad
                stats["accepted"][:, i] = (run.w != before).any(1)

            done, interrupted = until_interrupted(num_samples, draw, lambda i: report(run.chains, 0.0, 0))
        if not self.walks_only:
            del stats["accepted"]  # of several draws that are always accepted
        return Drawn(torch.from_numpy(draws), stats, np.full(run.chains, done), interrupted)


class GibbsRun:
    """The state of a block while it runs; its arrays change in place."""

    def __init__(self, full: FullDensity, state: State, settings: GibbsBlock) -> None:
        self.full, self.state, self._target = full, state, settings.target_accept_prob
        self.candidates: list[Candidates] = (
            walks_of(full) if settings.walks_only else candidates_of(full, settings.blocks)
        )
        self.chains = state["w"].shape[0]
        self._plan()
        self.terms = full.terms(self.w)

    def _plan(self) -> None:
        detector = Detector(self.full, self.state["probes"])
        self.moves = detector.moves(self.candidates, in_parallel=not self.state["alone"])
        for move in self.moves:
            if move.kind == "closed form" and not self.state["width"][move.coordinates].all():
                self._place(move, *detector.located(move, detector.probes))

    def _place(self, move: Move, centre: Array, width: Array) -> None:
        self.state["centre"][move.coordinates], self.state["width"][move.coordinates] = centre, width

    @property
    def w(self) -> Array:
        """Where the chains are, ``[C, W]``."""
        return self.state["w"]

    def sweep(self, gain: float = 0.0) -> tuple[Array, Array]:
        """Move every latent once; return each chain's mean acceptance rate and number of NaN densities."""
        w, words, log_step = self.w.copy(), self.state["words"].copy(), self.state["log_step"].copy()
        rates, bad = [], np.zeros(self.chains)
        for move in self.moves:
            rate, nan = self._moved(move, gain)
            rates.append(rate)
            bad += nan
        fresh = self.full.terms(self.w)
        size = 1.0 + np.abs(fresh).sum(1)
        agrees = np.abs(fresh.sum(1) - self.terms.sum(1)) <= _DISAGREES * size
        self.terms = fresh
        if not agrees.all() and not self.state["alone"]:
            # Some groups share a term after all, so that all move one after the other from now on.
            self.state.update(w=w, words=words, log_step=log_step, alone=np.asarray(1))
            self._plan()
            self.terms = self.full.terms(self.w)
            return self.sweep(gain)
        return np.concatenate(rates, 1).mean(1) if rates else np.ones(self.chains), bad

    def _moved(self, move: Move, gain: float) -> tuple[Array, Array]:
        """Move in place; return acceptance probabilities ``[C, E]`` and numbers of NaN densities ``[C]``."""
        if move.kind == "enumerate":
            return self._enumerated(move)
        if move.kind == "closed form":
            return self._in_closed_form(move)
        proposed = self._walked(move)
        return self._metropolis(move, proposed, np.zeros((self.chains, len(move.coordinates))), gain)

    def _enumerated(self, move: Move) -> tuple[Array, Array]:
        probabilities, terms = conditional(self.full, move, self.w)
        uniforms = self._uniforms(len(move.coordinates))
        total = probabilities.cumsum(-1)
        chosen = (total < uniforms[..., None] * total[..., -1:]).sum(-1)
        assert move.states is not None
        self.w[:, move.coordinates] = move.states[chosen]
        bound = np.concatenate([chosen, np.zeros((self.chains, 1), int)], 1)[:, move.owner]  # [C, F]
        taken = np.take_along_axis(terms, bound[:, None], 1)[:, 0]
        self.terms = np.where(move.owner < len(move.coordinates), taken, self.terms)
        return np.ones(chosen.shape), np.isnan(terms).any(-1).sum(-1)

    def _in_closed_form(self, move: Move) -> tuple[Array, Array]:
        assert move.family is not None
        centre, width = self.state["centre"][move.coordinates], self.state["width"][move.coordinates]
        eta, proposed = drawn_in_closed_form(self.full, move, self.w, centre, width, self.state["words"])
        log_q = np.einsum("nek,nek->ne", eta, move.family.phi(proposed, centre, width)) - np.einsum(
            "nek,nek->ne", eta, move.family.phi(self.w[:, move.coordinates], centre, width)
        )
        return self._metropolis(move, proposed, log_q, 0.0)

    def _walked(self, move: Move) -> Array:
        groups, dim = move.coordinates.shape
        noise = np.empty((self.chains, groups * dim))
        fill_normals(self.state["words"], noise)
        first = move.coordinates[:, 0]
        step = np.exp(self.state["log_step"][first])[:, None]
        noise = noise.reshape(self.chains, groups, dim)
        if move.kind == "state walk":
            return self._other_states(move)
        if move.kind == "integer walk":
            noise = np.sign(noise) * np.maximum(1.0, np.rint(np.abs(noise) * step))
            return np.asarray(self.w[:, move.coordinates] + noise)
        roots = np.stack([self.state.get(f"root_{i}", np.eye(dim)) for i in first])
        step = step * optimal_step(dim)
        return np.asarray(self.w[:, move.coordinates] + step * np.einsum("eij,nej->nei", roots, noise))

    def _other_states(self, move: Move) -> Array:
        """Propose any state but the present one, with equal probability."""
        assert move.states is not None
        now = (np.abs(self.w[:, move.coordinates][:, :, None] - move.states).sum(-1)).argmin(-1)
        others = len(move.states) - 1
        by = 1 + np.minimum((self._uniforms(len(move.coordinates)) * others).astype(int), max(0, others - 1))
        return np.asarray(move.states[(now + by * (others > 0)) % len(move.states)])

    def _metropolis(self, move: Move, proposed: Array, log_q: Array, gain: float) -> tuple[Array, Array]:
        """Accept or reject; ``log_q`` is log q(new | old) - log q(old | new)."""
        groups, dim = move.coordinates.shape
        w = self.w.copy()
        w[:, move.coordinates] = proposed
        terms = self.full.terms(w)
        closed = move.kind == "closed form"
        old, new = (without_jacobian(self.full, move, t) if closed else t for t in (self.terms, terms))
        ratio = move.local(new) - move.local(old) - log_q
        probability = acceptance(ratio)
        accepted = self._uniforms(groups) < probability
        self.w[:, move.coordinates] = np.where(accepted[..., None], proposed, self.w[:, move.coordinates])
        taken = np.concatenate([accepted, np.zeros((self.chains, 1), bool)], 1)[:, move.owner]
        self.terms = np.where(taken, terms, self.terms)
        if gain:
            first = move.coordinates[:, 0]
            change = gain * (probability.mean(0) - (self._target or optimal_acceptance(dim)))
            self.state["log_step"][first] = np.clip(self.state["log_step"][first] + change, -30.0, 30.0)
        return probability, np.isnan(ratio).sum(1)

    def _uniforms(self, count: int) -> Array:
        values = np.empty((self.chains, count))
        for i in range(count):  # one call per column: the streams move on by one number each
            column = np.empty(self.chains)
            fill_uniforms(self.state["words"], column)
            values[:, i] = column
        return values

    def learn(self, seen: Array) -> None:
        """Learn the covariance of each walk, and where closed forms have their mass, from states ``seen [n, W]``."""
        for move in self.moves:
            for row in move.coordinates:
                values = seen[:, row]
                if move.kind == "walk":
                    self.state[f"root_{row[0]}"] = root_of(values)
                    self.state["log_step"][row[0]] = 0.0
                if move.kind == "closed form" and values.std(0).all():
                    self.state["centre"][row], self.state["width"][row] = values.mean(0), values.std(0)


def conditional(full: FullDensity, move: Move, w: Array) -> tuple[Array, Array]:
    """The full conditionals of an enumerated move.

    Args:
        full: the density.
        move: which latents.
        w: where the chains are, ``[C, W]``.

    Returns:
        the probabilities ``[C, E, S]`` of each group's states given everything else, and the terms ``[C, S, F]``.
    """
    assert move.states is not None
    rows = np.repeat(w[:, None], len(move.states), 1)
    rows[:, :, move.coordinates] = move.states[:, None]
    terms = full.terms(rows.reshape(-1, w.shape[1])).reshape(len(w), len(move.states), -1)
    local = np.nan_to_num(np.moveaxis(move.local(terms), 1, 2), nan=-np.inf, neginf=-np.inf)
    weights = np.exp(local - local.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True), terms


def can_be_summed_out(target: Target, largest_table: int) -> bool:
    """Whether enumeration along plates is right for the program's discrete latents, and no table too large."""
    if not target.structure.discrete:
        return True
    return target.tied_elements() is None and target.table_size() <= largest_table


def values_of_all(
    target: Target, w: torch.Tensor, seed: np.random.SeedSequence, before: Any
) -> dict[str, torch.Tensor]:
    """Draws ``w [C, n, W]`` as latents and deterministics, after those drawn before."""
    values = target.full(1, 0).values(w)
    return {name: torch.cat([before[name], value], 1) if before else value for name, value in values.items()}
