"""Pyro's own NUTS kernel, one chain at a time: the engine of last resort."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import mcmc

Gradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Draw:
    """One transition of a chain: the point ``u [D]`` and its ``sample_stats``."""

    u: torch.Tensor
    stats: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the kernel, in the library's names."""

    num_warmup: int
    target_accept_prob: float
    max_tree_depth: int
    step_size: float
    dense: bool


class _LogDensity(torch.autograd.Function):
    """Minus the log density, with the gradient that came with it."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, value_and_grad: Gradient) -> torch.Tensor:
        value, grad = value_and_grad(u.detach().unsqueeze(0))
        ctx.save_for_backward(torch.nan_to_num(grad[0], nan=0.0, posinf=0.0, neginf=0.0))
        return -torch.nan_to_num(value[0], nan=-math.inf)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.saved_tensors[0] * grad_outputs[0], None


def chain(value_and_grad: Gradient, start: torch.Tensor, settings: Settings, seed: int) -> Iterator[Draw]:
    """An endless chain: first ``num_warmup`` warm-up transitions, then draws.

    Each transition runs on the chain's own stream of random numbers, so chains may be advanced in any order.
    Call it inside ``isolated``: it moves torch's global generator.

    Args:
        value_and_grad: ``u [1, D]`` -> log density ``[1]`` and gradient ``[1, D]``.
        start: ``[D]``.
        settings: of the kernel.
        seed: of the chain.
    """
    gradients = 0

    def potential(params: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal gradients
        gradients += 1
        result: torch.Tensor = _LogDensity.apply(params["u"], value_and_grad)  # type: ignore[no-untyped-call]
        return result

    torch.manual_seed(seed)
    kernel: Any = mcmc.NUTS(
        potential_fn=potential,
        step_size=settings.step_size,
        full_mass=settings.dense,
        target_accept_prob=settings.target_accept_prob,
        max_tree_depth=settings.max_tree_depth,
    )
    kernel.initial_params = {"u": start}
    kernel.setup(settings.num_warmup)
    kinetic = _record_kinetic_energy(kernel)
    state, params, done = torch.get_rng_state(), kernel.initial_params, 0
    while True:
        torch.set_rng_state(state)
        gradients, diverged, sum_before = 0, len(kernel._divergences), kernel._mean_accept_prob * done
        energy_before = float(kernel._potential_energy_last)
        params = kernel.sample(params)
        state = torch.get_rng_state()
        done = 1 if kernel._t == settings.num_warmup + 1 else done + 1
        if done == 1:
            sum_before = 0.0
        stats = {
            "diverging": float(len(kernel._divergences) > diverged),
            "energy": energy_before + kinetic[0],
            "lp": -float(kernel._potential_energy_last),
            "acceptance_rate": min(max(kernel._mean_accept_prob * done - sum_before, 0.0), 1.0),
            "tree_depth": float(math.floor(math.log2(max(gradients, 1))) + 1),
            "n_steps": float(gradients),
            "step_size": float(kernel.step_size),
            "reached_max_treedepth": float(gradients >= 2**settings.max_tree_depth - 1),
        }
        yield Draw(params["u"].detach().clone(), stats)


def _record_kinetic_energy(kernel: Any) -> list[float]:
    """A cell that holds the kinetic energy of the momentum drawn last."""
    cell, draw = [0.0], kernel._sample_r

    def recorded(name: str) -> Any:
        r, unscaled = draw(name)
        cell[0] = float(kernel._kinetic_energy(unscaled))
        return r, unscaled

    kernel._sample_r = recorded
    return cell
