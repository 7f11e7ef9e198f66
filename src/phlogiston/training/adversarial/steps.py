"""Both players' steps: one loss each, and its gradient by that player's parameters only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from phlogiston.engine.learning.adam import Tensors
from phlogiston.engine.learning.elbo_terms import PARAM
from phlogiston.engine.learning.generator import Generator
from phlogiston.engine.trace.graph import Graph
from phlogiston.training.adversarial.critics import Critic
from phlogiston.training.adversarial.losses import Loss

RECORD = ("critic_loss", "critic_norm", "right_data", "right_draws", "right_pairs", "mean_data", "mean_draws", "brier")


@dataclass(frozen=True, kw_only=True)
class Regularisers:
    """What joins the critic's loss; each at zero is off.

    Args:
        r1: weight of the squared gradient at data, halved.
        r2: the same at draws.
        gradient_penalty: weight of the squared distance of the gradient's norm from one, between data and draws.
        unit: of length in the data's space: gradients of R1 and R2 are those by x / unit.
        smooth: label smoothing.
        half: whether networks compute in bfloat16.
    """

    r1: float = 0.0
    r2: float = 0.0
    gradient_penalty: float = 0.0
    unit: float = 1.0
    smooth: float = 0.0
    half: bool = False


@dataclass(frozen=True)
class StepInputs:
    """What one step takes besides parameters: rows, noise scale and noise."""

    index: torch.Tensor
    noise_scale: torch.Tensor
    noises: Tensors

    @property
    def tensors(self) -> Tensors:
        """One after another."""
        return (self.index, self.noise_scale, *self.noises)


class GanSteps:
    """The game at minibatches of one size.

    Args:
        generator: the program.
        critic: its opponent.
        loss: of the game.
        regularisers: of the critic.
        data: ``[N, ...]``, rows first.
        conditions: of the rows.
        graph: the generator's, for this batch size.
        instance_noise: whether noise is added to what the critic sees.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        loss: Loss,
        regularisers: Regularisers,
        data: torch.Tensor,
        conditions: Tensors,
        graph: Graph,
        *,
        instance_noise: bool = False,
    ) -> None:
        self._generator, self._critic, self._loss, self._by = generator, critic, loss, regularisers
        self._data, self._conditions, self._graph, self._instance_noise = data, conditions, graph, instance_noise
        self.widths = (len(critic.initial), len(generator.learned))

    def inputs(self, rng: np.random.Generator, index: torch.Tensor, noise_scale: float) -> StepInputs:
        """One step's inputs."""
        dtype, rows = self._data.dtype, len(index)
        noises = [item.sample(rng, 1)[0] for item in self._graph.noises]
        shape = tuple(self._data.shape[1:])
        if self._instance_noise:
            noises += [_normal(rng, (rows, *shape), dtype) for _ in range(2)]
        if self._by.gradient_penalty:
            noises.append(torch.from_numpy(rng.random((rows, *(1 for _ in shape)), dtype=np.float32)).to(dtype))
        return StepInputs(index, torch.full((), noise_scale, dtype=dtype), tuple(noises))

    def critic_gradient(self, params: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """The record of a critic's step and the direction to climb; ``inputs`` are the step's and the generator's."""
        given, other = self._parted(inputs, self.widths[1])
        leaves = tuple(value.detach().requires_grad_() for value in params)
        with torch.enable_grad():
            with torch.no_grad():
                fake = self.generated(other, given)
            real, fake = self._seen(given, fake)
            loss, outputs = self._critic_loss(leaves, real, fake, given)
            slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        found = tuple(torch.zeros_like(p) if g is None else -g for p, g in zip(leaves, slopes, strict=True))
        return torch.stack([loss.detach(), _norm(found), *self._scores(*outputs)]), found

    def generator_gradient(self, params: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """The same of a generator's step; ``inputs`` are the step's and the critic's parameters."""
        given, other = self._parted(inputs, self.widths[0])
        leaves = tuple(value.detach().requires_grad_() for value in params)
        with torch.enable_grad():
            real, fake = self._seen(given, self.generated(leaves, given))
            conditions = self._labels(given.index)
            of_fake = self._judged(other, fake, conditions)
            of_real = self._judged(other, real, conditions) if self._loss.pairs else of_fake.detach()
            loss = self._loss.generator(of_real, of_fake)
            slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
        found = tuple(torch.zeros_like(p) if g is None else -g for p, g in zip(leaves, slopes, strict=True))
        return torch.stack([loss.detach(), _norm(found)]), found

    def generated(self, params: Tensors, inputs: StepInputs) -> torch.Tensor:
        """The program's draws ``[B, ...]``."""
        named = dict(zip((PARAM + name for name in self._generator.learned), params, strict=True))
        given: Mapping[str, torch.Tensor] = {**named, "index": inputs.index}
        noises = inputs.noises[: len(self._graph.noises)]
        with torch.autocast("cpu", torch.bfloat16, enabled=self._by.half, cache_enabled=False):
            (x,) = self._graph.module(*noises, *(given[name] for name in self._graph.inputs))
        return torch.as_tensor(x).to(self._data.dtype)

    def judged(
        self, critic: Tensors, own: Tensors, inputs: StepInputs
    ) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
        """The critic's outputs at data and at draws, and its scores, the ends of a record."""
        with torch.no_grad():
            real, fake = self._seen(inputs, self.generated(own, inputs))
            conditions = self._labels(inputs.index)
            of_real, of_fake = (self._judged(critic, x, conditions) for x in (real, fake))
            return of_real, of_fake, torch.stack(self._scores(of_real, of_fake)).tolist()

    def _parted(self, inputs: Tensors, width: int) -> tuple[StepInputs, Tensors]:
        own = inputs[: len(inputs) - width]
        return StepInputs(own[0], own[1], tuple(own[2:])), tuple(inputs[len(inputs) - width :])

    def _labels(self, index: torch.Tensor) -> Tensors:
        return tuple(value.index_select(0, index) for value in self._conditions)

    def _seen(self, inputs: StepInputs, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        real = self._data.index_select(0, inputs.index)
        if self._instance_noise:
            first = len(self._graph.noises)
            real = real + inputs.noise_scale * inputs.noises[first]
            fake = fake + inputs.noise_scale * inputs.noises[first + 1]
        return self._critic.packed(real), self._critic.packed(fake)

    def _judged(self, params: Tensors, x: torch.Tensor, conditions: Tensors) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._by.half, cache_enabled=False):
            found = self._critic(params, x, conditions)
        return found.to(x.dtype)

    def _critic_loss(
        self, params: Tensors, real: torch.Tensor, fake: torch.Tensor, inputs: StepInputs
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        by, labels, count = self._by, self._labels(inputs.index), real.shape[0]
        both = torch.cat([real, fake]).detach()
        if by.r1 or by.r2:
            both = both.requires_grad_()
        outputs = self._judged(params, both, tuple(torch.cat([value, value]) for value in labels))
        of_real, of_fake = outputs[:count], outputs[count:]
        loss = self._loss.critic(of_real, of_fake, by.smooth)
        if by.r1 or by.r2:
            (slope,) = torch.autograd.grad(outputs.sum(), both, create_graph=True)
            squares = slope.square().reshape(2 * count, -1).sum(1)
            penalty = by.r1 * squares[:count].mean() + by.r2 * squares[count:].mean()
            loss = loss + 0.5 * by.unit**2 * penalty
        if by.gradient_penalty:
            mix = inputs.noises[-1][:: self._critic.packing]
            between = torch.lerp(fake, real, mix).detach().requires_grad_()
            value = self._judged(params, between, labels)
            (slope,) = torch.autograd.grad(value.sum(), between, create_graph=True)
            norms = (slope.square().reshape(count, -1).sum(1) + 1e-12).sqrt()
            loss = loss + by.gradient_penalty * (norms - 1.0).square().mean()
        return loss, (of_real.detach(), of_fake.detach())

    def _scores(self, real: torch.Tensor, fake: torch.Tensor) -> list[torch.Tensor]:
        """How the critic does: right about data, about draws, about pairs; its mean outputs; its Brier score."""
        middle = self._loss.threshold
        cut = torch.full_like(real[0], middle) if middle is not None else 0.5 * (real.mean() + fake.mean())
        odds = (real, fake) if self._loss.logistic else (real - cut, fake - cut)
        brier = 0.5 * ((1.0 - odds[0].sigmoid()).square().mean() + odds[1].sigmoid().square().mean())
        right = [(real > cut), (fake < cut), (real > fake)]
        return [*(found.to(real.dtype).mean() for found in right), real.mean(), fake.mean(), brier]


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(dtype)


def _norm(slopes: Tensors) -> torch.Tensor:
    return torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
