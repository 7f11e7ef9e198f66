"""The No-U-Turn sampler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tqdm.auto import tqdm

from phlogiston.algorithms.needs import Needs, fraction, one_of, positive, positive_int, require
from phlogiston.engine import Target
from phlogiston.engine.batched import TIERS, Tier
from phlogiston.engine.isolate import as_int, isolated, spawn
from phlogiston.kernels import pyro_nuts
from phlogiston.model import Model
from phlogiston.posterior import Posterior

_BOOLEAN = ("diverging", "reached_max_treedepth")
_STEPS_EXPECTED = 10
_INTEGER = ("tree_depth", "n_steps")


@dataclass(frozen=True, kw_only=True)
class NUTS:
    r"""Hamiltonian Monte Carlo whose trajectories stop when they turn back on themselves.

    Samples :math:`\pi(u) \propto p(x, T(u)) |\det T'(u)|` on the unconstrained scale, with step size and mass matrix
    adapted during warm-up. Discrete latents that can be enumerated are summed out, then drawn back, so they appear
    in the posterior. This version advances Pyro's own kernel, a chain at a time, on the library's density.

    Args:
        num_samples: draws a chain.
        num_warmup: warm-up transitions a chain, not kept.
        num_chains: chains.
        target_accept_prob: acceptance that the step size is adapted to; higher is slower and surer.
        max_tree_depth: trajectories have at most ``2**max_tree_depth - 1`` steps.
        step_size: at the start of the adaptation.
        mass_matrix: "diag" or "dense".
        engine: the tier that evaluates the density.

    Raises:
        UnsupportedModel: a discrete latent cannot be enumerated.
        ModelError: no starting point has a finite density.

    References:
        Hoffman and Gelman (2014), https://arxiv.org/abs/1111.4246; Betancourt (2017), https://arxiv.org/abs/1701.02434

    Example:
        >>> model = ph.Model(lambda: pyro.sample("z", dist.Normal(3.0, 1.0)))
        >>> post = ph.infer(model, ph.NUTS(num_samples=500, num_warmup=200), seed=0, progress=False)
        >>> post.draws["z"].shape
        torch.Size([4, 500])
    """

    num_samples: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    target_accept_prob: float = 0.8
    max_tree_depth: int = 10
    step_size: float = 1.0
    mass_matrix: Literal["diag", "dense"] = "diag"
    engine: Tier = "auto"

    paper: ClassVar[str] = "Hoffman and Gelman 2014"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(
            num_samples=self.num_samples,
            num_warmup=self.num_warmup,
            num_chains=self.num_chains,
            max_tree_depth=self.max_tree_depth,
        )
        positive(step_size=self.step_size)
        fraction(target_accept_prob=self.target_accept_prob)
        one_of(("diag", "dense"), mass_matrix=self.mass_matrix)
        one_of(TIERS, engine=self.engine)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Posterior:
        """Infer; see the class."""
        began = time.perf_counter()
        model = require(self, model)
        target = model.target(self.engine)
        starting, recovering, *of_chains = spawn(seed, 2 + self.num_chains)
        starts = target.initial(self.num_chains, starting)
        transitions = self.num_chains * (self.num_warmup + self.num_samples)
        gradient = target.evaluator("density_and_grad", 1, calls=_STEPS_EXPECTED * transitions)
        settings = pyro_nuts.Settings(
            num_warmup=self.num_warmup,
            target_accept_prob=self.target_accept_prob,
            max_tree_depth=self.max_tree_depth,
            step_size=self.step_size,
            dense=self.mass_matrix == "dense",
        )
        with isolated(dtype=target.dtype):
            chains = [
                pyro_nuts.chain(gradient, start, settings, as_int(child))
                for start, child in zip(starts, of_chains, strict=True)
            ]
            kept, interrupted = self._advance(chains, progress)
        values = self._values(target, torch.stack([torch.stack([d.u for d in c]) for c in kept]), recovering)
        return Posterior(
            draws=values,
            stats={name: _stat(kept, name) for name in kept[0][0].stats},
            is_chain=True,
            figures={"acceptance_rate": float(_stat(kept, "acceptance_rate").mean())},
            method="nuts",
            model=model,
            seed=seed,
            seconds=time.perf_counter() - began,
            engine=target.engine_of("density_and_grad"),
            interrupted=interrupted,
        )

    def _advance(
        self, chains: list[Iterator[pyro_nuts.Draw]], progress: bool
    ) -> tuple[list[list[pyro_nuts.Draw]], bool]:
        """Every chain one transition at a time, so that a run stopped by hand has chains of one length."""
        kept: list[list[pyro_nuts.Draw]] = [[] for _ in chains]
        total = self.num_warmup + self.num_samples
        with tqdm(total=total, desc="nuts, warm-up", unit="draw", disable=None if progress else True) as bar:
            try:
                for i in range(total):
                    if i == self.num_warmup:
                        bar.set_description("nuts")
                    drawn = [next(chain) for chain in chains]
                    if i >= self.num_warmup:
                        for draws, draw in zip(kept, drawn, strict=True):
                            draws.append(draw)
                    bar.update()
                    if i % 50 == 0:
                        diverging = sum(int(d.stats["diverging"]) for draws in kept for d in draws)
                        bar.set_postfix(
                            step_size=f"{drawn[0].stats['step_size']:.2g}", divergences=diverging, refresh=False
                        )
            except KeyboardInterrupt:
                shortest = min(len(draws) for draws in kept)
                if not shortest:
                    raise
                return [draws[:shortest] for draws in kept], True
        return kept, False

    def _values(self, target: Target, u: torch.Tensor, seed: object) -> dict[str, torch.Tensor]:
        values = target.constrain(u)
        if target.structure.discrete:
            flat = {site.name: values[site.name].flatten(0, 1) for site in target.structure.continuous}
            full = target.recover_discretes(flat, seed)  # type: ignore[arg-type]
            values = {name: value.reshape(*u.shape[:2], *value.shape[1:]) for name, value in full.items()}
        return values


def _stat(kept: list[list[pyro_nuts.Draw]], name: str) -> torch.Tensor:
    values = torch.tensor([[draw.stats[name] for draw in draws] for draws in kept], dtype=torch.float64)
    return values.bool() if name in _BOOLEAN else values.long() if name in _INTEGER else values
